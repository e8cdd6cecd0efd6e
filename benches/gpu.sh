#!/usr/bin/env bash
# Everything that a machine with a GPU is to be asked, in less than eight minutes, into one folder: JSON, Markdown, HTML.
#
#   benches/gpu.sh [FOLDER]       DEVICE=gpu DUNLIN=target/release/dunlin SUITE=target/release/examples/gpu_suite
#
# The machine needs this checkout, a driver, and two programs that were built elsewhere, not Rust:
#
#   cargo build --release && cargo build --release --example gpu_suite
#
# On a rasteriser the models are too large: LAYERS=1 RUNS=2 SHORT=1 takes a layer of each, short prompts, and few operators.
# Every step is timed and its failure told; the others still run. The exit code is 1 if one failed.
set -uo pipefail
cd "$(dirname "$0")/.."

out=${1:-target/gpu}
device=${DEVICE:-gpu}
runs=${RUNS:-5}
dunlin=${DUNLIN:-target/release/dunlin}
suite=${SUITE:-target/release/examples/gpu_suite}
models=${MODELS:-$out/models}

for program in "$dunlin" "$suite"; do
    [ -x "$program" ] || { echo "gpu: $program is not there: build it elsewhere, as this file's head says" >&2; exit 1; }
done
mkdir -p "$out" || exit 1

if [ "${SHORT:-0}" = 0 ]; then
    small=(-p 128,512 -n 128 -d 0,512,2048 --parallel 1,8,32)
    large=(-p 128,512 -n 64 -d 0,1024 --parallel 1,8,32)
    operators=""
else
    small=(-p 16 -n 4 -d 0,32 --parallel 1,2)
    large=(-p 16 -n 4 -d 0 --parallel 1,2)
    operators=rms_norm
fi

failed=()
begin=$SECONDS
step() { # NAME COMMAND...: standard output goes to FOLDER/NAME.txt
    local name=$1 since=$SECONDS
    shift
    echo "=== $name: $*"
    if "$@" >"$out/$name.txt" 2>"$out/$name.log"; then
        echo "    $((SECONDS - since)) s"
    else
        failed+=("$name")
        echo "    FAILED after $((SECONDS - since)) s: $(tail -n 1 "$out/$name.log")"
    fi
}
bench() { # NAME ARGUMENTS...: FOLDER/NAME.json, and Markdown on standard output
    local name=$1
    shift
    # What an earlier run left must not stand for a step that fails.
    rm -f "$out/$name".{json,md}
    step "$name" "$dunlin" bench "$@" --device "$device" -r "$runs" --markdown --out "$out/$name.json"
    [ ! -f "$out/$name.json" ] || mv "$out/$name.txt" "$out/$name.md"
}

step info "$dunlin" info
step models "$suite" models . "$models" ${LAYERS:+"$LAYERS"}
# What is wrong need not be fast: correctness comes first, and its answers stand beside the numbers.
step golden "$suite" golden . "$device"
bench smollm2 "$models/smollm2.gguf" "${small[@]}"
bench mobilevlm "$models/mobilevlm.gguf" --mmproj "$models/mmproj.gguf" --image "${large[@]}"
bench operators --ops "$operators"
if "$dunlin" profile --help >/dev/null 2>&1; then
    picture=tests/golden/mobilevlm_v2_grid24/image_1.png
    for model in smollm2 mobilevlm; do
        arguments=("$models/$model.gguf" --prompt "What is gravity?" --device "$device")
        rm -f "$out/$model".{trace.json,html,svg}
        [ $model = smollm2 ] || arguments+=(--mmproj "$models/mmproj.gguf" --image "$picture")
        step "profile_$model" "$dunlin" profile "${arguments[@]}" \
            --out "$out/$model.trace.json" --html "$out/$model.html" --plot "$out/$model.svg"
    done
fi
if [ "${SHORT:-0}" = 0 ]; then
    step check "$dunlin" check --device "$device" --json
else
    step check "$dunlin" check --device "$device" --operator rms_norm --json
fi
[ -n "${MODELS:-}" ] || rm -rf "$models"

{
    measured=$(sed -n 's/^### //p' "$out/smollm2.md" 2>/dev/null | head -n 1)
    echo "# ${measured:-$device}"
    echo
    echo "\`benches/gpu.sh\`, device \`$device\`, $((SECONDS - begin)) s; $(date -u +%Y-%m-%d), $("$dunlin" --version)," \
        "commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
    echo
    echo "Failed: ${failed[*]:-nothing}. Golden models: $(tail -n 1 "$out/golden.txt")."
    for part in smollm2 mobilevlm operators; do
        [ ! -f "$out/$part.md" ] || { echo; echo "## $part"; echo; cat "$out/$part.md"; }
    done
} >"$out/report.md"
echo "$((SECONDS - begin)) s: $out/report.md"
[ ${#failed[@]} = 0 ]
