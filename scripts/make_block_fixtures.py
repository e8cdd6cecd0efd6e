#!/usr/bin/env python3
"""Writes tests/fixtures/blocks: random blocks of every type and what the PyPI package `gguf` makes of them.

    pip install gguf==0.17.1 && python3 scripts/make_block_fixtures.py

dequantize_TYPE.bin   u32 number of values n · the blocks of n values · n × f32
quantize_TYPE.bin     u32 number of values n · n × f32 · their blocks
types.txt             a line for each type of GGUF: name, number, elements and bytes of a block

A new format is an entry of LATER, so that the fixtures before it stay as they are.

All little endian. Scales include denormals, zeros of both signs, negative and the largest numbers; the plain 16-bit
types include infinities and NaNs.
"""

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

FOLDER = Path(__file__).parent.parent / "tests/fixtures/blocks"
# Byte offsets of the f16 scales in a block.
SCALES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0],
    Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
}
# Those that came later have a random state of their own.
LATER = {Type.IQ4_NL: [0], Type.Q2_K: [80, 82], Type.Q3_K: [108]}
EDGES = np.array([0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x3C00, 0xBC00], np.uint16)


def write(name, values, *parts):
    data = np.uint32(values).tobytes() + b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
    (FOLDER / f"{name}.bin").write_bytes(data)


def write_blocks(random, kind, scales):
    elements, size = GGML_QUANT_SIZES[kind]
    count = 8 if elements == 256 else 40
    blocks = random.integers(0, 256, (count, size), np.uint8)
    for offset in scales:
        d = (random.standard_normal(count) * 0.05).astype(np.float16).view(np.uint16)
        edges = random.permutation(EDGES)[: count // 2]
        d[: len(edges)] = edges
        blocks[:, offset : offset + 2] = d.view(np.uint8).reshape(count, 2)
    values = dequantize(blocks, kind).astype(np.float32)
    write(f"dequantize_{kind.name.lower()}", values.size, blocks, values)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(20240229)
    np.seterr(all="ignore")

    for kind, scales in SCALES.items():
        write_blocks(random, kind, scales)
    for kind, scales in LATER.items():
        write_blocks(np.random.default_rng(kind.value), kind, scales)

    every = np.arange(0, 65536, 37, dtype=np.uint16)
    write("dequantize_f16", every.size, every, every.view(np.float16).astype(np.float32))
    write("dequantize_bf16", every.size, every, (every.astype(np.uint32) << 16).view(np.float32))
    values = random.standard_normal(300).astype(np.float32)
    write("dequantize_f32", values.size, values, values)

    # Rows of 32: of every size, with ties between the largest, all equal, all zero, tiny, and integers and halves.
    rows = random.standard_normal((24, 32)) * np.exp2(random.integers(-30, 12, (24, 1)))
    special = [np.zeros(32), np.full(32, 3.0), np.full(32, -3.0), np.tile([1.0, -1.0], 16), np.tile([-1.0, 1.0], 16),
               np.arange(32) - 16.0, np.arange(32) - 15.5, np.linspace(-127, 127, 32), np.full(32, 1e-30)]
    rows = np.concatenate([rows, special]).astype(np.float32)
    for kind in [Type.F16, Type.Q8_0, Type.Q4_0]:
        write(f"quantize_{kind.name.lower()}", rows.size, rows, quantize(rows, kind))

    lines = [f"{kind.name.lower()} {kind.value} {elements} {size}\n" for kind, (elements, size) in GGML_QUANT_SIZES.items()]
    (FOLDER / "types.txt").write_text("".join(lines))


main()
