#!/usr/bin/env bash
# dunlin's CPU path beside candle's on one GGUF file: as many ids, the same cores, turn by turn.
#
#   scripts/bench_candle.sh [MODEL.gguf]     THREADS=2 ROUNDS=3 PROMPT=128 DECODE=64
#
# candle chooses its vector instructions when it is compiled, so it is compiled for this machine. dunlin chooses when it
# runs, and is compiled as its users compile it. The first build of candle takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

model=${1:-models/SmolLM2-135M-Instruct.Q4_1.gguf}
threads=${THREADS:-2}
rounds=${ROUNDS:-3}
prompt=${PROMPT:-128}
decode=${DECODE:-64}

if [ ! -f "$model" ]; then
    echo "bench_candle: $model is not there; scripts/fetch_models.sh fetches SmolLM2" >&2
    exit 1
fi

target=${CARGO_TARGET_DIR:-target}
RUSTFLAGS="-C target-cpu=native" CARGO_TARGET_DIR=$target/candle \
    cargo build --quiet --release --locked --manifest-path benches/candle/Cargo.toml
candle=$target/candle/release/bench-candle
cargo build --quiet --release --locked
dunlin=$target/release/dunlin

# Plain words of a tokenizer of 32000 or more; what they say does not matter.
ids=$(seq -s, 1000 7 $((1000 + 7 * (prompt - 1))))
results=$(mktemp)
trap 'rm -f "$results"' EXIT
# Both programs start a thread for each core that they may use.
cores=(taskset --cpu-list "0-$((threads - 1))")

rates() { # prompt and decode of one run, from the JSON of a bench
    python3 -c '
import json, sys
model = json.load(sys.stdin)["devices"][0]["model"]
rates = (model[part][0]["tokens_per_s"]["mean"] for part in ("prompts", "decodes"))
print("dunlin", *(f"{rate:.1f}" for rate in rates), sep="\t")'
}

echo "$model, prompt $prompt, decode $decode, $threads threads; tokens/s"
for round in $(seq "$rounds"); do
    "${cores[@]}" "$candle" "$model" "$ids" "$decode" >>"$results"
    "${cores[@]}" "$dunlin" bench "$model" --device cpu -p "$prompt" -n "$decode" -d "$prompt" -r 1 --json 2>/dev/null |
        rates >>"$results"
    tail -n 2 "$results" | sed "s/^/round $round  /"
done

median() { # of column $2 of the lines of program $1
    awk -F '\t' -v name="$1" -v column="$2" '$1 == name { print $column }' "$results" | sort -n |
        awk '{ value[NR] = $1 } END { print value[int((NR + 1) / 2)] }'
}
for column in 2 3; do
    what=$([ "$column" = 2 ] && echo prompt || echo decode)
    awk -v what="$what" -v candle="$(median candle $column)" -v dunlin="$(median dunlin $column)" \
        'BEGIN { printf "%s: dunlin %s, candle %s, dunlin / candle %.2f\n", what, dunlin, candle, dunlin / candle }'
done
