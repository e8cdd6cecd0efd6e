#!/usr/bin/env python3
"""Writes tests/fixtures/images: small pictures, and what Pillow makes of them.

    pip install pillow==12.0.0 numpy && python3 scripts/make_resize_fixtures.py

resize/NAME.png, resize/NAME.SIZE.png
    a picture, and the same in the middle of a square of colour (122, 116, 104), resized to SIZE × SIZE
decode/NAME, decode/NAME.bin
    a file, and its pixels upright: u32 width · u32 height · RGB, little endian. Names starting with `lossy_` hold what
    depends on the decoder. `refused_` has none.

The same every time: the generators have seeds, and the encoders are those of the pinned Pillow.
"""

import io
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FOLDER = Path(__file__).parent.parent / "tests/fixtures/images"
RESIZE = [
    # name, width, height, size, pattern
    ("one_pixel", 1, 1, 56, "noise"),
    ("two_pixels", 2, 2, 56, "extremes"),
    ("column", 1, 40, 97, "noise"),
    ("row", 57, 1, 56, "noise"),
    ("line", 1000, 1, 56, "extremes"),
    ("tall", 3, 500, 97, "noise"),
    ("wide", 500, 3, 336, "noise"),
    ("up_odd", 31, 17, 97, "extremes"),
    ("up_tall", 23, 40, 336, "smooth"),
    ("up_square", 101, 101, 336, "smooth"),
    ("up_by_one", 55, 40, 56, "noise"),
    ("down_by_one", 98, 61, 97, "noise"),
    ("down_by_one_square", 337, 337, 336, "smooth"),
    ("down", 400, 300, 97, "smooth"),
    ("down_tall", 301, 403, 56, "smooth"),
    ("down_square", 150, 150, 97, "extremes"),
    ("down_double", 112, 80, 56, "noise"),
    ("down_photo", 640, 427, 336, "smooth"),
    ("same_size", 97, 97, 97, "noise"),
    ("same_side", 56, 33, 56, "noise"),
    ("same_side_tall", 48, 97, 97, "noise"),
]
SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Color types of PNG.
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6


def picture(name, width, height, pattern):
    random = np.random.default_rng(zlib.crc32(name.encode()))
    shape = (height, width, 3)
    if pattern == "noise":
        return random.integers(0, 256, shape, np.uint8)
    if pattern == "extremes":  # Black and white in every channel: sums overshoot on both sides and are clipped.
        return random.integers(0, 2, shape, np.uint8) * np.uint8(255)
    # Waves with hard edges, in integers so that it does not depend on a mathematics library.
    y, x = np.mgrid[0:height, 0:width]
    channels = [(x * 3 + y) // 2 % 511, (x + y * 5) // 4 % 511, (x * y // 32 + 40 * (x // 29 + y // 23)) % 511]
    return np.abs(255 - np.stack(channels, axis=-1)).astype(np.uint8)


def square(image):
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), (122, 116, 104))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, color, data, *chunks):
    """A PNG whose rows are `data`, already packed: the kinds that Pillow does not write."""
    rows = b"".join(b"\0" + row.tobytes() for row in np.split(np.frombuffer(data, np.uint8), height))
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    return SIGNATURE + b"".join(chunk(*part) for part in parts)


def png_of_size(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, RGB, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    return SIGNATURE + b"".join(chunk(*part) for part in parts)


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def decode_cases():
    random = np.random.default_rng(20240229)
    noise = Image.fromarray(random.integers(0, 256, (11, 14, 4), np.uint8), "RGBA")
    smooth = Image.fromarray(picture("smooth", 29, 22, "smooth"))
    small = noise.convert("RGB")
    data = lambda size: random.integers(0, 256, size, np.uint8).tobytes()
    colors = data(12)

    yield "rgb.png", saved(small, "PNG")
    yield "rgba.png", saved(noise, "PNG")
    yield "grey.png", saved(small.convert("L"), "PNG")
    yield "grey_alpha.png", saved(noise.convert("LA"), "PNG")
    yield "palette.png", saved(small.quantize(16), "PNG")
    yield "palette_transparent.png", saved(small.quantize(16), "PNG", transparency=bytes(range(0, 256, 16)))
    yield "palette_short.png", png(8, 3, 2, PALETTE, data(6), (b"PLTE", colors), (b"tRNS", b"\x00\x80"))
    yield "bits_1.png", saved(small.convert("1"), "PNG")
    yield "bits_2.png", png(8, 3, 2, GREY, data(6))
    yield "bits_4.png", png(8, 3, 4, GREY, data(12))
    yield "grey_transparent.png", png(4, 3, 8, GREY, bytes(range(12)), (b"tRNS", b"\x00\x05"))
    yield "rgb_transparent.png", png(2, 2, 8, RGB, bytes(range(12)), (b"tRNS", b"\x00\x03\x00\x04\x00\x05"))
    yield "rgb_16.png", png(5, 4, 16, RGB, data(120))
    yield "rgb_gamma.png", png(2, 2, 8, RGB, bytes(range(0, 240, 20)), (b"gAMA", struct.pack(">I", 100000)))
    yield "rgba_16.png", png(5, 4, 16, RGB_ALPHA, data(160))
    yield "grey_alpha_16.png", png(5, 4, 16, GREY_ALPHA, data(80))
    yield "animation.png", saved(small, "PNG", save_all=True, append_images=[smooth.crop((0, 0, 14, 11))])
    yield "lossless.webp", saved(small, "WEBP", lossless=True)
    yield "lossless_alpha.webp", saved(noise, "WEBP", lossless=True, exact=True)
    yield "animation.webp", saved(small, "WEBP", lossless=True, save_all=True, append_images=[smooth.crop((0, 0, 14, 11))])
    yield "oriented_6.webp", saved(small, "WEBP", lossless=True, exif=orientation(6))
    for value in range(1, 9):
        yield f"oriented_{value}.png", saved(small, "PNG", exif=orientation(value))
    yield "oriented_9.png", saved(small, "PNG", exif=orientation(9))

    for value in range(1, 9):
        yield f"lossy_oriented_{value}.jpg", saved(smooth, "JPEG", quality=95, exif=orientation(value))
    yield "lossy_444.jpg", saved(smooth, "JPEG", quality=95, subsampling=0)
    yield "lossy_progressive.jpg", saved(smooth, "JPEG", quality=90, progressive=True)
    yield "lossy_grey.jpg", saved(smooth.convert("L"), "JPEG")
    yield "lossy_rgb.jpg", saved(smooth, "JPEG", quality=90, keep_rgb=True)
    cmyk = saved(smooth.convert("CMYK"), "JPEG", quality=95)
    yield "lossy_cmyk.jpg", cmyk
    # The last byte of Adobe's segment: 2 says that the first three components are YCC.
    after = cmyk.index(b"Adobe") + 12
    yield "lossy_ycck.jpg", cmyk[: after - 1] + b"\2" + cmyk[after:]
    yield "lossy_webp.webp", saved(smooth, "WEBP", quality=90)

    yield "refused_grey_16.png", png(5, 4, 16, GREY, data(40))
    yield "refused_grey_16_transparent.png", png(5, 4, 16, GREY, data(40), (b"tRNS", b"\x00\x05"))
    # Headers that lie about their size, with the pixels of a small picture.
    yield "refused_area.png", png_of_size(20000, 20000)
    yield "refused_side.png", png_of_size(1, 65536)
    yield "refused_largest.png", png_of_size(2**31 - 1, 2**31 - 1)
    yield "refused_nothing.png", png_of_size(0, 5)
    jpeg = bytearray(saved(smooth, "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 20000, 20000)
    yield "refused_area.jpg", bytes(jpeg)
    webp = bytearray(saved(small, "WEBP", lossless=True))
    # After `VP8L`, the chunk's length and a signature: width - 1 and height - 1 in 14 bits each.
    at = webp.index(b"VP8L") + 9
    webp[at : at + 4] = struct.pack("<I", 11999 << 14 | 11999)
    yield "refused_area.webp", bytes(webp)
    yield "refused_gif.gif", saved(small, "GIF")


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "resize").mkdir(parents=True)
    (FOLDER / "decode").mkdir()

    for name, width, height, size, pattern in RESIZE:
        image = Image.fromarray(picture(name, width, height, pattern))
        image.save(FOLDER / f"resize/{name}.png", optimize=True)
        resized = square(image).resize((size, size), Image.Resampling.BICUBIC)
        resized.save(FOLDER / f"resize/{name}.{size}.png", optimize=True)

    for name, content in decode_cases():
        (FOLDER / "decode" / name).write_bytes(content)
        if name.startswith("refused_"):
            continue
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
        expected = struct.pack("<II", *image.size) + image.tobytes()
        (FOLDER / "decode" / name).with_name(f"{name}.bin").write_bytes(expected)


if __name__ == "__main__":
    main()
