#!/usr/bin/env bash
# Puts SwiftShader, a software Vulkan device without f16 and with subgroups of 4, into DIR (default
# target/swiftshader) and prints the line that shows it to Vulkan programs, beside lavapipe where that is installed.
# A relative DIR counts from the repository. The library is taken out of Debian's chromium-common, which holds it;
# nothing is installed and root is not needed.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p "${1:-target/swiftshader}"
dir=$(cd "${1:-target/swiftshader}" && pwd)
library=$dir/libvk_swiftshader.so
icd=$dir/swiftshader_icd.json

fail() {
    echo "setup_swiftshader: $*" >&2
    exit 1
}

if [ ! -f "$library" ]; then
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
        fail "this needs Debian's apt-get and dpkg-deb; elsewhere, put a libvk_swiftshader.so into $dir yourself"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    # Without the sandbox user, which may not write to our folder and would only warn about it.
    (cd "$work" && apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=3 download chromium-common) ||
        fail "apt-get could not download chromium-common; run apt-get update first"
    dpkg-deb -x "$work"/chromium-common_*.deb "$work/root"
    found=$(find "$work/root" -name libvk_swiftshader.so | head -n 1)
    [ -n "$found" ] || fail "chromium-common holds no libvk_swiftshader.so any more"
    mv "$found" "$library"
fi
missing=$(ldd "$library" | grep 'not found' || true)
[ -z "$missing" ] || fail "$library needs libraries that are not here: $missing"

# A full path: the loader would look for a bare name in the system's library folders.
cat >"$icd" <<JSON
{ "file_format_version": "1.0.0", "ICD": { "library_path": "$library", "api_version": "1.3.0" } }
JSON

# mesa names the file after the machine in some releases: lvp_icd.x86_64.json, lvp_icd.json.
drivers=$icd
for lavapipe in /usr/share/vulkan/icd.d/lvp_icd*.json; do
    if [ -f "$lavapipe" ]; then
        drivers=$lavapipe:$icd
    fi
done
echo "export VK_DRIVER_FILES=$drivers"
