#!/usr/bin/env bash
# Puts the lavapipe of Debian sid (Mesa 26 or newer: cooperative matrices, 8×8×8 f16 → f32) with all it needs into DIR
# (default target/mesa26), and writes DIR/run, which starts a program on it:
#     target/mesa26/run target/release/dunlin info
#     CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$PWD/target/mesa26/run cargo test --test device ops::
# A relative DIR counts from the repository. Nothing is installed and root is not needed: the packages are unpacked beside
# the system, and programs run through the newer C library's own loader.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "setup_mesa26: $*" >&2
    exit 1
}

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail "this needs Debian's apt-get and dpkg-deb"
mkdir -p "${1:-target/mesa26}"
dir=$(cd "${1:-target/mesa26}" && pwd)
root=$dir/root

if [ ! -x "$dir/run" ]; then
    # Sid comes from the archive that this machine uses already.
    archive=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "Debian" && $2 !~ /security/ && !found { print $3; found = 1 }')
    [ -n "$archive" ] || fail "no Debian archive is known here; run apt-get update first"

    # A separate apt, for which nothing is installed, so that it downloads all dependencies.
    apt=$dir/apt
    rm -rf "$apt" "$root"
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$root"
    : >"$apt/state/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive sid main" >"$apt/sources.list"
    options=(
        -qq
        -o "Dir::State=$apt/state" -o "Dir::State::status=$apt/state/status" -o "Dir::Cache=$apt/cache"
        -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null
        -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=3
        # An archive that is frozen at some date is fine for us.
        -o Acquire::Check-Valid-Until=false
    )
    apt-get "${options[@]}" update || fail "sid's package list could not be read from $archive"
    apt-get "${options[@]}" -y --no-install-recommends --download-only install \
        mesa-vulkan-drivers libvulkan1 libegl1 libgles2 libgcc-s1 >/dev/null || fail "sid's packages could not be downloaded"
    for package in "$apt"/cache/archives/*.deb; do
        dpkg-deb -x "$package" "$root"
    done
    rm -rf "$apt"

    library=$(find "$root/usr/lib" -name libvulkan_lvp.so | head -n 1)
    loader=$(find "$root/usr/lib" "$root/usr/lib64" -name 'ld-linux-*.so.*' 2>/dev/null | head -n 1)
    [ -n "$library" ] && [ -n "$loader" ] || fail "sid's packages hold no libvulkan_lvp.so or no loader any more"
    cat >"$dir/lavapipe_icd.json" <<JSON
{ "file_format_version": "1.0.0", "ICD": { "library_path": "$library", "api_version": "1.4.0" } }
JSON
    cat >"$dir/run.part" <<RUN
#!/bin/sh
# Starts a program on the lavapipe in this folder: run PROGRAM [ARGUMENT…]
export VK_DRIVER_FILES="$dir/lavapipe_icd.json" VK_ICD_FILENAMES="$dir/lavapipe_icd.json"
# A cache of its own: another Mesa that truncates the index of a shared one kills us (SIGBUS).
export MESA_SHADER_CACHE_DIR="$dir/cache"
program=\$(command -v "\$1")
shift
exec "$loader" --library-path "$(dirname "$library")" "\$program" "\$@"
RUN
    chmod +x "$dir/run.part"
    # Last, so that a folder with a run in it is complete.
    mv "$dir/run.part" "$dir/run"
fi
echo "$dir/run"
