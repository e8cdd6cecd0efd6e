#!/usr/bin/env python3
"""dunlin's CPU path beside llama.cpp's and candle's: one GGUF file, the same ids, the same threads, turn by turn.

    scripts/fetch_models.sh
    benches/peers.py [MODEL.gguf] [--peers llama.cpp,candle] [--threads 1,2] [--rounds 3] [--json FILE]

Rates are tokens/s: prompts of 128 and 512 tokens until the first token is read, and 64 greedy tokens at depths 0 (after a
prompt of one token) and 1,024. Every number comes from a process of its own, which warms up first. In a round each program
runs each test once, one after the other, so that what else the machine does falls on all of them; a ratio is of one round.
The table has the medians, and of ratios also the smallest and the largest.

The first run builds the programs in target/peers and target/release, which takes ten minutes: llama.cpp as PyPI's
llama-cpp-python has it, compiled for this machine; candle (benches/candle) compiled for this machine; dunlin as its users
compile it, because it chooses its instructions when it runs.
"""

import argparse
import ctypes
import datetime
import functools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The programs run in ROOT, and paths from the caller count from where the caller is.
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
LLAMA = "0.3.36"
# Name, tokens of the prompt, tokens to decode, and which of the two rates is meant.
TESTS = (
    ("prompt 128", 128, 1, "prompt"),
    ("prompt 512", 512, 1, "prompt"),
    ("decode at 0", 1, 64, "decode"),
    ("decode at 1,024", 1024, 64, "decode"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=pathlib.Path, nargs="?", default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--peers", default="llama.cpp,candle")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path, help="also write every rate, in tokens/s")
    arguments = parser.parse_args()
    arguments.model = arguments.model.resolve()
    if not arguments.model.exists():
        sys.exit(f"peers: {arguments.model} is not there; scripts/fetch_models.sh fetches SmolLM2")
    builders = {"dunlin": build_dunlin, "llama.cpp": build_llama, "candle": build_candle}
    names = ["dunlin", *arguments.peers.split(",")]
    if unknown := [name for name in names if name not in builders]:
        sys.exit(f"peers: {', '.join(unknown)} is not one of {', '.join(builders)}")
    programs = {name: builders[name]() for name in names}
    threads = [int(count) for count in arguments.threads.split(",")]

    load = os.getloadavg()[0]
    rates = {(count, test[0], name): [] for count in threads for test in TESTS for name in names}
    for round in range(arguments.rounds):
        for count in threads:
            for test in TESTS:
                for name in names:
                    rate = measure(programs[name], arguments.model, count, test)
                    rates[count, test[0], name].append(rate)
                    print(f"round {round + 1}, {count} threads, {test[0]}: {name} {rate:.1f}", file=sys.stderr, flush=True)
    about = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "processor": processor(),
        "load_before": load,
        "model": arguments.model.name,
        "versions": {name: programs[name]["version"] for name in names},
    }
    print(table(about, threads, names, rates))
    if arguments.json:
        keys = ("threads", "test", "program")
        lines = [dict(zip(keys, key)) | {"tokens_per_s": values} for key, values in rates.items()]
        arguments.json.write_text(json.dumps(about | {"rates": lines}, indent=1) + "\n")


def measure(program, model, threads, test):
    """The rate of one run of a program."""
    command = program["command"](model, test, threads)
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
    # dunlin has as many threads as it may use processors.
    processors = sorted(os.sched_getaffinity(0))[:threads]
    confine = functools.partial(os.sched_setaffinity, 0, processors)
    done = subprocess.run(command, cwd=ROOT, env=environment, preexec_fn=confine, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"peers: {command[0]} failed:\n{done.stderr[-2000:]}")
    return program["rate"](done.stdout, test)


def ids_of(test):
    """Plain words of a tokenizer of 32000 or more; what they say does not matter."""
    return ",".join(str(1000 + 7 * i) for i in range(test[1]))


def tabbed(stdout, test):
    """The rate in a line with the program's name, its prompt rate and its decode rate, with tabs between."""
    _, prompt, decode = stdout.strip().splitlines()[-1].split("\t")
    return float(prompt if test[3] == "prompt" else decode)


def table(about, threads, names, rates):
    peers = names[1:]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        f"{about['date']}, {about['commit']}: {about['model']} on {about['processor']}; {versions}; "
        f"load before the first run {about['load_before']:.1f}",
        "",
        "| threads | test | " + " | ".join(names) + " | " + " | ".join(f"dunlin / {peer}" for peer in peers) + " |",
        "|---|---|" + "---|" * (len(names) + len(peers)),
    ]
    for count in threads:
        for test, *_ in TESTS:
            cells = [f"{statistics.median(rates[count, test, name]):.1f}" for name in names]
            for peer in peers:
                ratios = [own / other for own, other in zip(rates[count, test, "dunlin"], rates[count, test, peer])]
                cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
            lines.append(f"| {count} | {test} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# ---- the programs: what starts them, and their versions ----


def build_dunlin():
    subprocess.run(["cargo", "build", "--quiet", "--release", "--locked", "--bin", "dunlin"], cwd=ROOT, check=True)
    program = TARGET / "release/dunlin"

    def command(model, test, threads):
        name, prompt, decode, which = test
        work = f"-p {prompt} -n 0" if which == "prompt" else f"-p 1 -n {decode} -d {prompt if prompt > 1 else 0}"
        return [str(program), "bench", str(model), "--device", "cpu", "--json", "-r", "1", *work.split()]

    def rate(stdout, test):
        model = json.loads(stdout)["devices"][0]["model"]
        return model["prompts" if test[3] == "prompt" else "decodes"][0]["tokens_per_s"]["runs"][0]

    return {"command": command, "rate": rate, "version": commit()}


def build_llama():
    venv = TARGET / "peers/venv"
    python = venv / "bin/python"
    wanted = f"import llama_cpp; assert llama_cpp.__version__ == '{LLAMA}'"
    if not python.exists() or subprocess.run([python, "-c", wanted], capture_output=True).returncode != 0:
        print(f"peers: building llama-cpp-python {LLAMA} in {venv}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        # Its picture tools are not needed; ggml takes this machine's instructions.
        environment = os.environ | {"CMAKE_ARGS": "-DLLAVA_BUILD=OFF -DGGML_NATIVE=ON"}
        pip = [python, "-m", "pip", "install", "--quiet", "--no-binary", "llama-cpp-python", f"llama-cpp-python=={LLAMA}"]
        subprocess.run(pip, env=environment, check=True)

    def command(model, test, threads):
        return [str(python), __file__, "--as-llama", str(model), ids_of(test), str(test[2]), str(threads)]

    library = next((venv / "lib").glob("python*/site-packages/llama_cpp/lib/libggml-base.so"))
    ggml_commit = ctypes.CDLL(str(library)).ggml_commit
    ggml_commit.restype = ctypes.c_char_p
    return {"command": command, "rate": tabbed, "version": f"{ggml_commit().decode()} (llama-cpp-python {LLAMA})"}


def build_candle():
    manifest = ROOT / "benches/candle/Cargo.toml"
    environment = os.environ | {"RUSTFLAGS": "-C target-cpu=native", "CARGO_TARGET_DIR": str(TARGET / "candle")}
    build = ["cargo", "build", "--quiet", "--release", "--locked", "--manifest-path", manifest]
    subprocess.run(build, env=environment, check=True)
    packages = tomllib.loads((manifest.parent / "Cargo.lock").read_text())["package"]
    version = next(package["version"] for package in packages if package["name"] == "candle-core")
    program = TARGET / "candle/release/bench-candle"

    def command(model, test, threads):
        return [str(program), str(model), ids_of(test), str(test[2])]

    return {"command": command, "rate": tabbed, "version": version}


def as_llama(model, ids, decode, threads):
    """llama.cpp with its own defaults, measured as dunlin is. Runs in the environment of
    build_llama."""
    import llama_cpp as llama
    import numpy

    ids, decode = [int(id) for id in ids.split(",")], int(decode)
    # What it prints while loading, on either stream, is not for us.
    log = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(log, ctypes.c_void_p(0))
    llama.llama_backend_init()
    options = llama.llama_model_default_params()
    options.n_gpu_layers = 0
    # This version's AMX kernels crash at the first token. Without extra buffers it takes AVX-512; that also turns off
    # the repacking of other formats than q4_1, so on such a processor its rates with those formats are too low.
    options.use_extra_bufts = "amx_int8" not in pathlib.Path("/proc/cpuinfo").read_text()
    loaded = llama.llama_model_load_from_file(model.encode(), options)
    options = llama.llama_context_default_params()
    options.n_ctx, options.n_threads, options.n_threads_batch = len(ids) + decode + 1, int(threads), int(threads)
    options.n_batch = max(options.n_batch, len(ids))
    context = llama.llama_init_from_model(loaded, options)
    if not loaded or not context:
        sys.exit(f"llama.cpp does not load {model}")
    vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(loaded))

    def next_token(tokens):
        array = (llama.llama_token * len(tokens))(*tokens)
        if llama.llama_decode(context, llama.llama_batch_get_one(array, len(tokens))) != 0:
            sys.exit("llama.cpp does not decode")
        logits = llama.llama_get_logits_ith(context, -1)
        return int(numpy.ctypeslib.as_array(logits, (vocabulary,)).argmax())

    def times(steps):
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        start = time.perf_counter()
        token = next_token(ids)
        prompt = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(steps):
            token = next_token([token])
        return prompt, time.perf_counter() - start

    times(min(decode, 4))
    prompt, decoding = times(decode)
    print(f"llama.cpp\t{len(ids) / prompt:.1f}\t{decode / decoding:.1f}")


def commit():
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-llama"]:
        as_llama(*sys.argv[2:])
    else:
        main()
