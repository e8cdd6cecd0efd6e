#!/usr/bin/env bash
# Puts the shader compilers of GPUs that are not here into DIR (default target/phones): Mesa's Vulkan drivers for Adreno,
# Mali, AMD, NVIDIA and Apple from Debian's packages, each with a fake kernel interface (drm-shim) that plays its GPU.
# Pipelines compile for real and their statistics can be read; nothing computes. `benches/phones` uses the folder:
#     scripts/phones.sh && cargo bench --bench phones
# A relative DIR counts from the repository. Half a minute, 360 MB; nothing is installed and root is not needed. Mali's
# driver is packaged for aarch64 only, and runs in qemu-user.
#
# The figures in benches/PHONES.md are of the version in MESA. Where the archive has only a newer one, that is taken,
# DIR/mesa says which, and the figures are not compared. To move to it, write it here and make the figures again.
set -euo pipefail
cd "$(dirname "$0")/.."

mesa=${MESA:-26.1.6-1}
ziglang=0.17.1
suite=forky

fail() {
    echo "phones: $*" >&2
    exit 1
}

# What this script makes is made anew, and nothing else is removed: a folder with other files in it is refused.
folder=${1:-target/phones}
ours=made-by-phones.sh
if [ -n "$(ls -A "$folder" 2>/dev/null)" ] && [ ! -e "$folder/$ours" ] &&
    ! grep -qsxE '[^ ]+ [0-9a-f]{64}' "$folder/mark"; then
    fail "$folder has files that are not of this script; name a new folder, or remove it yourself"
fi

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail "this needs Debian's apt-get and dpkg-deb"
[ "$(uname -m)" = x86_64 ] || fail "this needs x86-64, because Debian packages the drivers of Adreno, AMD, NVIDIA and Apple for it"
mkdir -p "$folder"
dir=$(cd "$folder" && pwd)
root=$dir/root

# A folder is complete if its mark is that of this script and of the tool that it builds.
mark="$mesa $(cat scripts/phones.sh benches/phones/vkstats.c | sha256sum | cut -d ' ' -f 1)"
if [ "$(cat "$dir/mark" 2>/dev/null)" != "$mark" ]; then
    rm -rf "$dir"
    mkdir -p "$dir"
    touch "$dir/$ours"
    mkdir -p "$root/usr/lib" "$root/usr/lib64" "$dir/icd"
    # The loaders are asked for by their names in / of a merged system.
    ln -s usr/lib "$root/lib"
    ln -s usr/lib64 "$root/lib64"

    # The suite comes from the archive that this machine uses already.
    archive=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "Debian" && $2 !~ /security/ && !found { print $3; found = 1 }')
    [ -n "$archive" ] || fail "no Debian archive is known here; run apt-get update first"

    # A separate apt, for which nothing is installed, so that it downloads all dependencies.
    apt=$dir/apt
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
    : >"$apt/state/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $suite main" >"$apt/sources.list"
    cat >"$apt/apt.conf" <<CONF
Dir::State "$apt/state"; Dir::State::status "$apt/state/status"; Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "$apt/sources.list"; Dir::Etc::sourceparts "/dev/null"; Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "amd64"; APT::Architectures { "amd64"; "arm64"; };
APT::Sandbox::User "root"; Acquire::Languages "none"; Acquire::Retries "3";
// An archive that is frozen at some date is fine for us.
Acquire::Check-Valid-Until "false";
CONF
    export APT_CONFIG=$apt/apt.conf
    apt-get -qq update || fail "the package list of $suite could not be read from $archive"
    if ! apt-cache madison mesa-vulkan-drivers | awk '{ print $3 }' | grep -qx "$mesa"; then
        newer=$(apt-cache policy mesa-vulkan-drivers | awk '/Candidate:/ { print $2 }')
        [ -n "$newer" ] && [ "$newer" != "(none)" ] || fail "$suite has no package mesa-vulkan-drivers"
        echo "phones: $suite has Mesa $newer and no longer $mesa; taking $newer, whose figures are not compared" >&2
        echo "phones: to move to it, write it in scripts/phones.sh and run cargo bench --bench phones" >&2
        mesa=$newer
    fi
    packages=(libvulkan-dev qemu-user)
    for architecture in amd64 arm64; do
        packages+=(libvulkan1:$architecture "mesa-vulkan-drivers:$architecture=$mesa" "mesa-drm-shim:$architecture=$mesa")
    done
    apt-get -qq -y --no-install-recommends --download-only install "${packages[@]}" >/dev/null ||
        fail "the packages of $suite could not be downloaded"
    unset APT_CONFIG
    for package in "$apt"/cache/archives/*.deb; do
        dpkg-deb -x "$package" "$root"
    done
    rm -rf "$apt"

    # The tool that asks drivers for statistics, for both processors. zig is a C compiler that PyPI carries.
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/zig" "ziglang==$ziglang" ||
        fail "the C compiler ziglang $ziglang could not be installed by pip"
    export ZIG_GLOBAL_CACHE_DIR=$dir/zig/cache ZIG_LOCAL_CACHE_DIR=$dir/zig/cache
    for arch in x86_64 aarch64; do
        PYTHONPATH=$dir/zig python3 -m ziglang cc -target "$arch-linux-gnu.2.34" -O1 -Wall -Wextra -Werror \
            -I "$root/usr/include" -o "$dir/vkstats.$arch" benches/phones/vkstats.c ||
            fail "benches/phones/vkstats.c does not compile for $arch"
    done
    rm -rf "$dir/zig"

    # What no driver below needs.
    rm -rf "$root"/{etc,var} "$root"/usr/{include,share,sbin,libexec} "$root"/usr/lib/{python3*,perl*}
    find "$root/usr/bin" -type f ! -name qemu-aarch64 -delete
    rm -f "$root"/usr/lib/aarch64-linux-gnu/{libLLVM*,libz3*}
    find "$root/usr/lib" -name 'libVkLayer*' -delete

    mkdir "$dir/drivers"
    for driver in x86_64:freedreno x86_64:radeon x86_64:nouveau x86_64:asahi aarch64:panfrost; do
        arch=${driver%%:*} name=${driver#*:}
        library=$dir/drivers/libvulkan_$name.so
        mv "$root/usr/lib/$arch-linux-gnu/libvulkan_$name.so" "$library" || fail "Mesa $mesa has no driver $name for $arch any more"
        printf '{ "file_format_version": "1.0.1", "ICD": { "library_path": "%s", "api_version": "1.4.0" } }\n' \
            "$library" >"$dir/icd/$name.json"
    done
    rm "$root"/usr/lib/*/libvulkan_*.so
    [ -x "$root/usr/bin/qemu-aarch64" ] || fail "the package qemu-user has no qemu-aarch64 any more"
    echo "$mesa" >"$dir/mesa"
    # Last, so that a folder with a mark is complete.
    echo "$mark" >"$dir/mark"
fi
echo "$dir"
