#!/usr/bin/env bash
# A model at its full size, with random weights, on lavapipe and on every Vulkan GPU (tests/full_size). Without a GPU it needs
# lavapipe (Debian: mesa-vulkan-drivers).
#
#   scripts/test_full_size.sh            MobileVLM V2-1.7B: 1 GB of disk in target/tmp, 2 GB of memory, 10 minutes on two cores
#   scripts/test_full_size.sh qwen_vl    Qwen-VL, 9.7 billion parameters: 1.5 GB of disk, 8 GB of memory, half an hour on two cores;
#                                        DUNLIN_FULL_SIZE_LAYERS=1 takes one layer and one block of those widths
set -euo pipefail
cd "$(dirname "$0")/.."

# The Vulkan loader and EGL want a private folder of this user.
if [ -z "${XDG_RUNTIME_DIR:-}" ]; then
    XDG_RUNTIME_DIR=$(mktemp -d)
    export XDG_RUNTIME_DIR
fi

cargo test --locked --test full_size -- --ignored --nocapture "${1:-mobilevlm}"
