#!/usr/bin/env bash
# Runs matrix products by cooperative matrices against the reference, and the golden models on them, on the lavapipe of
# scripts/setup_mesa26.sh, which it sets up if need be: the one software adapter that has them. Fails where it has none.
set -euo pipefail
cd "$(dirname "$0")/.."

run=$(scripts/setup_mesa26.sh | tail -n 1)
target=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
export "CARGO_TARGET_${target}_RUNNER=$run" DUNLIN_EXPECT_FEATURE=cooperative-matrix

DUNLIN_OP=linear,conv2d cargo test --test device ops::
cargo test --test model models::golden_text_cases
