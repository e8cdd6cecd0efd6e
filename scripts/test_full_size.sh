#!/usr/bin/env bash
# MobileVLM V2-1.7B at its full size, with random weights, on lavapipe and on every Vulkan GPU (tests/full_size/main.rs).
# Takes 1 GB of disk in target/tmp, 2 GB of memory, and about 10 minutes on two cores. Without a GPU it needs lavapipe
# (Debian: mesa-vulkan-drivers).
set -euo pipefail
cd "$(dirname "$0")/.."

# The Vulkan loader and EGL want a private folder of this user.
if [ -z "${XDG_RUNTIME_DIR:-}" ]; then
    XDG_RUNTIME_DIR=$(mktemp -d)
    export XDG_RUNTIME_DIR
fi

cargo test --locked --test full_size -- --ignored --nocapture
