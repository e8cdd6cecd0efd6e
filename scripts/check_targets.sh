#!/usr/bin/env bash
# Checks that the library compiles for a browser, Android and iOS: scripts/check_targets.sh
# Nothing is linked, so no NDK, SDK or Xcode is needed.
# A target that rustup has installed is checked with it. The others need a standard library, which comes from Debian sid: its
# compiler is unpacked once under target/targets/sid and runs in a chroot, with the crates that cargo fetches out here.
# Remove that folder for a newer one. The chroot needs Linux on x86_64, root (or sudo), mmdebstrap, and Debian's mirror in
# apt's configuration. Sid changes; rustc and cargo 1.97.1 work.
set -euo pipefail
cd "$(dirname "$0")/.."

browser=wasm32-unknown-unknown
phones=(aarch64-linux-android aarch64-apple-ios)
# wasm has no threads, and a browser no files to map.
browser_features=gpu
phone_features=gpu,mmap,threads

build=$PWD/target/targets
root=$build/sid

missing=()
installed=$(rustup target list --installed 2>/dev/null || true)
check_here() {
    if grep -qx "$1" <<<"$installed"; then
        echo "$1, installed by rustup"
        cargo check --locked --lib --no-default-features --features "$2" --target "$1" --target-dir "$build/rustup"
    else
        missing+=("$1")
    fi
}
check_here "$browser" "$browser_features"
for phone in "${phones[@]}"; do check_here "$phone" "$phone_features"; done
[ ${#missing[@]} -gt 0 ] || exit 0

no_chroot() {
    echo "scripts/check_targets.sh: ${missing[*]} cannot be checked: $1; or install them: rustup target add ${missing[*]}" >&2
    exit 1
}

[ "$(uname -sm)" = "Linux x86_64" ] || no_chroot "Debian's compiler runs on Linux on x86_64"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || no_chroot "a chroot needs root: run this as root"
    as_root=(sudo)
fi

if [ ! -e "$root/complete" ]; then
    command -v mmdebstrap >/dev/null || no_chroot "mmdebstrap is missing: apt-get install mmdebstrap"
    mirror=$(apt-get indextargets --format '$(SITE)' 'Identifier: Packages' 'Label: Debian' | head -n 1)
    [ -n "$mirror" ] || no_chroot "apt knows no mirror of Debian: run apt-get update"
    echo "unpacking Debian sid's compiler"
    "${as_root[@]}" rm -rf "$root"
    mkdir -p "$build"
    # Proxies, certificates and the like are those of this machine.
    apt-config dump | grep '^Acquire::' | grep -v '^Acquire::IndexTargets' >"$build/apt.conf"
    # Unpacked, not installed: what runs there is cargo, rustc and, for build scripts, the linker.
    "${as_root[@]}" mmdebstrap --quiet --variant=extract --mode=root --aptopt="$build/apt.conf" \
        --include=base-files,cargo,rustc,rust-src,libstd-rust-dev-wasm32,gcc,libc6-dev sid "$root" "$mirror"
    "${as_root[@]}" mkdir -p "$root/repository" "$root/build" "$root/cargo/registry"
    "${as_root[@]}" chown "$(id -u):$(id -g)" "$root/cargo"
    "${as_root[@]}" touch "$root/complete"
fi

# Cargo in the chroot stays offline: what it needs is fetched by the cargo out here, in whichever way that one is configured.
# Android's and iOS's standard library is compiled, so its own dependencies are needed too. They are read from the registry
# because Debian's copy of them would replace the registry for all crates.
fetch() { cargo fetch --quiet --locked "$@"; }
fetch "${missing[@]/#/--target=}"
RUSTC_BOOTSTRAP=1 fetch --manifest-path "$root/usr/lib/rustlib/src/rust/library/Cargo.toml"

cargo_home=${CARGO_HOME:-$HOME/.cargo}
mkdir -p "$build/cargo"
# The mounts are the chroot's alone and end with it.
in_sid() {
    "${as_root[@]}" unshare --mount bash -euc '
        repository=$1 build=$2 root=$3 cargo_home=$4 user=$5
        shift 5
        mount --bind "$repository" "$root/repository"
        mount -o remount,bind,ro "$root/repository"
        mount --bind "$build/cargo" "$root/build"
        mount --bind "$cargo_home/registry" "$root/cargo/registry"
        for config in config.toml config; do
            if [ -e "$cargo_home/$config" ]; then cp "$cargo_home/$config" "$root/cargo/"; else rm -f "$root/cargo/$config"; fi
        done
        export PATH=/usr/bin CARGO_HOME=/cargo CARGO_TARGET_DIR=/build CARGO_NET_OFFLINE=true RUSTC_BOOTSTRAP=1
        export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_OPT_LEVEL=0
        exec unshare --root="$root" --wd=/repository --setuid="${user%:*}" --setgid="${user#*:}" "$@"
    ' bash "$PWD" "$build" "$root" "$cargo_home" "$(id -u):$(id -g)" "$@"
}
check_in_sid() {
    local features=$1
    shift
    in_sid /usr/bin/cargo check --locked --lib --no-default-features --features "$features" "$@"
}

without_std=()
for target in "${missing[@]}"; do
    if [ "$target" = "$browser" ]; then
        echo "$target, on sid"
        check_in_sid "$browser_features" --target "$target"
    else
        without_std+=("$target")
    fi
done
if [ ${#without_std[@]} -gt 0 ]; then
    echo "${without_std[*]}, on sid"
    check_in_sid "$phone_features" -Zbuild-std=std,panic_abort "${without_std[@]/#/--target=}"
fi
