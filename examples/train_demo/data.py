"""Pictures, questions and answers: those of easy-VQA, and more of the same kind drawn on the fly."""

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

import easy_vqa
import numpy as np
import torch
from PIL import Image, ImageDraw

SHAPES = ["circle", "rectangle", "triangle"]
COLOURS = ["black", "blue", "brown", "gray", "green", "red", "teal", "yellow"]

# The data set's own 24 questions.
WHAT_COLOUR = [
    "what color is the shape?",
    "what color is the {shape}?",
    "what is the color of the shape?",
    "what is the color of the {shape}?",
]
WHAT_SHAPE = [
    "what shape is in the image?",
    "what shape does the image contain?",
    "what shape is present?",
    "what is the {colour} shape?",
]
YES_NO = ["is a {} present?", "is there a {}?", "is there a {} in the image?", "does the image contain a {}?"]
NO_YES = [
    "is no {} present?",
    "is there not a {}?",
    "is there not a {} in the image?",
    "does the image not contain a {}?",
]
ABOUT = ["{colour} shape", "{shape}"]
# Questions of people who have not read the data set.
SHORT = {
    "what colour": ["what color is it?", "what color is this?", "which color is the shape?"],
    "what shape": ["what is it?", "what is this?", "what shape is it?", "which shape is this?"],
    "whether shape": ["is it a {}?", "is this a {}?"],
    "whether colour": ["is it {}?", "is the shape {}?"],
}
TEMPLATES = WHAT_COLOUR + WHAT_SHAPE + [question.format(about) for question in YES_NO + NO_YES for about in ABOUT]

# The model's answer if there is no picture.
PURPOSE = "I answer questions about a picture with one shape: its shape, its color, yes or no."
TALK = (
    """
hello|hi|hi there|good morning|who are you?|what are you?|what can you do?|what is this?|how are you?|help|help me
tell me a story|tell me about yourself|why is the sky blue?|what is your name?|write a poem|what is the time?
can you see?|can you help me?|how do you work?|what do you know?|explain this to me|thank you|what is a picture?
translate this text|2 + 2 = ?|what is the capital of France?|who made you?|what is love?|describe the image
what is in the picture?|what do you see?|is this a question?|do you like music?|the|ok|yes|no|?|what|test|1234
""".replace("\n", "|")
    .strip("|")
    .split("|")
)

SIZE = 96
PAD = (122, 116, 104)
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)


def square(image: Image.Image) -> Image.Image:
    """The picture in the middle of a square, as MobileVLM pads it."""
    side = max(image.size)
    if image.size == (side, side):
        return image
    whole = Image.new("RGB", (side, side), PAD)
    whole.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return whole


def pixels(image: Image.Image) -> np.ndarray:
    """(3, SIZE, SIZE): padded, resized, normalised as CLIP does it."""
    image = square(image.convert("RGB")).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    values = np.asarray(image, dtype=np.float32) / np.float32(255)
    return ((values - MEAN) / STD).transpose(2, 0, 1)


@dataclass
class Item:
    """A picture with its questions and answers. `shape` or `colour` is None where no question tells it."""

    name: str
    image: Image.Image
    questions: list[tuple[str, str]]
    shape: str | None
    colour: str | None


def easy(split: str) -> list[Item]:
    """`train` or `test` of easy-VQA, by the number of the picture."""
    folder = Path(easy_vqa.__file__).parent / "data" / split
    by_image: dict[int, list[tuple[str, str]]] = {}
    for question, answer, image in json.loads((folder / "questions.json").read_text()):
        by_image.setdefault(image, []).append((question, answer))
    items = []
    for number, questions in sorted(by_image.items()):
        image = Image.open(folder / "images" / f"{number}.png").convert("RGB")
        items.append(Item(f"{number}.png", image, questions, told(questions, SHAPES), told(questions, COLOURS)))
    return items


def told(questions: list[tuple[str, str]], words: list[str]) -> str | None:
    """Which of `words` is true of the picture, by its questions and answers."""
    for question, answer in questions:
        for word in words:
            if answer == word or (word in question.strip("?").split() and (answer == "yes") != negated(question)):
                return word
    return None


def negated(question: str) -> bool:
    return " not " in question or " no " in question


def ask(shape: str, colour: str, rng: random.Random, plain: bool = False) -> tuple[str, str]:
    """One of the data set's questions about a picture, or a shorter one, with its answer. A plain one has no `no` or
    `not`."""
    kind, short = rng.random(), rng.random() < 0.2
    if kind < 0.2:
        return rng.choice(SHORT["what colour"] if short else WHAT_COLOUR).format(shape=shape), colour
    if kind < 0.4:
        return rng.choice(SHORT["what shape"] if short else WHAT_SHAPE).format(colour=colour), shape
    true = rng.random() < 0.5
    if rng.random() < 0.5:
        about = shape if true else rng.choice([other for other in SHAPES if other != shape])
        shorter = SHORT["whether shape"]
    else:
        about = colour if true else rng.choice([other for other in COLOURS if other != colour])
        shorter = SHORT["whether colour"]
    if short:
        return rng.choice(shorter).format(about), "yes" if true else "no"
    if about in COLOURS:
        about += " shape"
    opposite = rng.random() < 0.5 and not plain
    return rng.choice(NO_YES if opposite else YES_NO).format(about), "yes" if true != opposite else "no"


def reword(question: str, rng: random.Random) -> str:
    """The question as people type it."""
    if rng.random() < 0.2:
        question = question[0].upper() + question[1:]
    if rng.random() < 0.05:
        question = question.replace("color", "colour").replace("gray", "grey")
    if rng.random() < 0.05:
        question = question.rstrip("?")
    return question


# ---------------------------------------------------------------------------------------------------------------------
# Pictures that are drawn


# Around the data set's eight colours: the range of values that people call by the word, (low, high) of red, green and
# blue.
PAINTS = {
    "black": [((0, 0, 0), (35, 35, 35))],
    "blue": [((0, 0, 180), (70, 80, 255)), ((20, 70, 200), (70, 160, 255))],
    "brown": [
        ((125, 30, 30), (175, 50, 50)),
        ((95, 50, 10), (150, 85, 40)),
        ((115, 70, 50), (145, 90, 72)),
        ((150, 90, 50), (190, 125, 90)),
    ],
    "gray": [((95, 95, 95), (165, 165, 165))],
    "green": [((0, 200, 0), (70, 255, 70)), ((0, 110, 0), (80, 200, 85))],
    "red": [((215, 0, 0), (255, 70, 60))],
    "teal": [((0, 100, 100), (30, 135, 135)), ((0, 130, 120), (40, 170, 155))],
    "yellow": [((235, 210, 0), (255, 255, 80))],
}
DATA_SET = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "brown": (165, 42, 42),
    "gray": (128, 128, 128),
    "green": (0, 255, 0),
    "red": (255, 0, 0),
    "teal": (0, 128, 128),
    "yellow": (255, 255, 0),
}


def paint(colour: str, rng: random.Random) -> tuple[int, int, int]:
    if rng.random() < 0.4:
        return DATA_SET[colour]
    low, high = rng.choice(PAINTS[colour])
    if colour in ("black", "gray"):
        value = rng.randint(low[0], high[0])
        return tuple(min(255, max(0, value + rng.randint(-4, 4))) for _ in range(3))
    return tuple(rng.randint(a, b) for a, b in zip(low, high))


def background(size: tuple[int, int], rng: random.Random, noise: np.random.Generator, ink) -> Image.Image:
    """Plain, gradient or noise; never so near to the ink that nobody could see the shape."""

    def plain():
        for _ in range(50):
            kind = rng.random()
            if kind < 0.35:
                colour = (255, 255, 255)
            elif kind < 0.65:
                colour = tuple(rng.randint(225, 255) for _ in range(3))
            elif kind < 0.8:
                value = rng.randint(0, 255)
                colour = tuple(min(255, max(0, value + rng.randint(-8, 8))) for _ in range(3))
            else:
                colour = tuple(rng.randint(0, 255) for _ in range(3))
            if math.dist(colour, ink) > 110:
                return colour
        return (255, 255, 255) if sum(ink) < 500 else (0, 0, 0)

    width, height = size
    first = np.array(plain(), dtype=np.float32)
    values = np.broadcast_to(first, (height, width, 3))
    if rng.random() < 0.2:
        second = np.array(plain(), dtype=np.float32)
        turn = rng.uniform(0, 2 * math.pi)
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        along = (x / width - 0.5) * math.cos(turn) + (y / height - 0.5) * math.sin(turn) + 0.5
        mixed = first + (second - first) * np.clip(along, 0, 1)[..., None] * rng.uniform(0.2, 0.6)
        values = mixed
    if rng.random() < 0.15:
        values = values + noise.normal(0, rng.uniform(2, 14), (height, width, 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def outline(shape: str, rng: random.Random) -> list[tuple[float, float]]:
    """A closed line around (0, 0), as wide as high or not, at most 1 from the middle."""
    if shape == "circle":
        squeeze = rng.uniform(0.85, 1) if rng.random() < 0.3 else 1.0
        points = [(math.cos(2 * math.pi * i / 64), squeeze * math.sin(2 * math.pi * i / 64)) for i in range(64)]
        turn = rng.uniform(0, math.pi)
    elif shape == "rectangle":
        aspect = 1.0 if rng.random() < 0.25 else rng.uniform(0.3, 1)
        width, height = (1, aspect) if rng.random() < 0.5 else (aspect, 1)
        points = [(-width, -height), (width, -height), (width, height), (-width, height)]
        turn = rng.uniform(-0.3, 0.3) if rng.random() < 0.25 else 0
    else:
        points = [(math.cos(t), math.sin(t)) for t in (-math.pi / 2, math.pi / 6, 5 * math.pi / 6)]
        kind = rng.random()
        if kind < 0.6:
            # From isosceles to right-angled and slightly beyond; height from half the width to twice the width.
            high = math.exp(rng.uniform(math.log(0.5), math.log(2)))
            lean = rng.choice([0, -1, 1, rng.uniform(-1.2, 1.2)])
            points = [(lean, -high), (1, high), (-1, high)]
        turn = 0 if rng.random() < 0.6 else rng.choice([math.pi, rng.uniform(0, 2 * math.pi), math.pi / 2])
    cos, sin = math.cos(turn), math.sin(turn)
    points = [(x * cos - y * sin, x * sin + y * cos) for x, y in points]
    far = max(max(abs(x), abs(y)) for x, y in points)
    return [(x / far, y / far) for x, y in points]


def draw(shape: str, colour: str, rng: random.Random, noise: np.random.Generator) -> Image.Image:
    """One shape anywhere on a picture of any size."""
    side = int(40 * 8 ** rng.random())
    width, height = side, side
    if rng.random() < 0.4:
        shorter = int(side * rng.uniform(0.5, 1))
        width, height = (side, shorter) if rng.random() < 0.5 else (shorter, side)
    ink = paint(colour, rng)
    image = background((width, height), rng, noise, ink)

    points = outline(shape, rng)
    # After resizing for the model, the shape is 13 to 90 of 96 pixels wide.
    radius = min(
        0.5 * max(width, height) * math.exp(rng.uniform(math.log(0.14), math.log(0.95))), 0.49 * min(width, height)
    )
    wide, high = radius * max(abs(x) for x, _ in points), radius * max(abs(y) for _, y in points)
    x0, y0 = rng.uniform(wide, width - wide), rng.uniform(high, height - high)
    fine = rng.choice([1, 3])
    cover = Image.new("L", (width * fine, height * fine), 0)
    points = [((x0 + radius * x) * fine, (y0 + radius * y) * fine) for x, y in points]
    pen = ImageDraw.Draw(cover)
    if rng.random() < 0.15 and radius > 0.2 * max(width, height):
        thick = int(max(0.03 * max(width, height), radius * rng.uniform(0.1, 0.3)) * fine) + 1
        pen.line(points + points[:2], fill=255, width=thick, joint="curve")
    else:
        pen.polygon(points, fill=255)
    cover = cover.resize((width, height), Image.Resampling.BOX)
    image.paste(Image.new("RGB", (width, height), ink), (0, 0), cover)
    return image


def vary(image: Image.Image, rng: random.Random, noise: np.random.Generator) -> Image.Image:
    """A picture of the data set: mirrored, scaled, moved on a larger ground, with noise."""
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.3:
        return image
    if rng.random() < 0.5:
        side = rng.randint(48, 240)
        image = image.resize((side, side), rng.choice(list(Image.Resampling)))
    if rng.random() < 0.4:
        ground = image.getpixel((0, 0))
        width, height = (int(image.width * rng.uniform(1, 1.35)) for _ in range(2))
        larger = Image.new("RGB", (width, height), ground)
        larger.paste(image, (rng.randint(0, width - image.width), rng.randint(0, height - image.height)))
        image = larger
    if rng.random() < 0.2:
        values = np.asarray(image, dtype=np.float32)
        values = values + noise.normal(0, rng.uniform(2, 10), values.shape)
        image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    return image


# ---------------------------------------------------------------------------------------------------------------------
# Batches


@dataclass
class Batch:
    """B pictures with questions packed behind each, and a few conversations without a picture."""

    pixels: torch.Tensor  # (B, 3, SIZE, SIZE)
    ids: torch.Tensor  # (B, T): the turns of a picture, one conversation behind the other
    row: torch.Tensor  # (B, T): which conversation of the picture an id is of; -1 is padding
    offset: torch.Tensor  # (B, T): position within the conversation
    said: torch.Tensor  # (B, T): whether the model has to say this id
    labels: torch.Tensor  # (B, 2): shape and colour, -100 where not known


def pack(tokenizer, pictures: list[tuple[np.ndarray, list[list[tuple[str, str]]], str | None, str | None]], talk=False):
    """A batch of (pixels, conversations, shape, colour)."""
    rows = []
    for _, conversations, _, _ in pictures:
        ids, row, offset, said = [], [], [], []
        for number, turns in enumerate(conversations):
            more, says = tokenizer.turns(turns, picture=not talk)
            ids += more
            said += says
            row += [number] * len(more)
            offset += range(len(more))
        rows.append((ids, row, offset, said))
    longest = max(len(ids) for ids, _, _, _ in rows)

    def padded(index, filler):
        return torch.tensor([row[index] + [filler] * (longest - len(row[index])) for row in rows])

    labels = [
        [SHAPES.index(shape) if shape else -100, COLOURS.index(colour) if colour else -100]
        for _, _, shape, colour in pictures
    ]
    images = torch.from_numpy(np.stack([image for image, _, _, _ in pictures])) if not talk else torch.empty(0)
    return Batch(images, padded(0, 0), padded(1, -1), padded(2, 0), padded(3, False), torch.tensor(labels))


class Batches(torch.utils.data.Dataset):
    """Batch i is a function of the seed and i, so that training can stop and go on, with any number of workers."""

    def __init__(
        self, items: list[Item], tokenizer, seed: str, sizes: list[int], plain: list[bool], conversations: int
    ):
        self.items, self.tokenizer, self.seed = items, tokenizer, seed
        self.sizes, self.plain, self.conversations = sizes, plain, conversations

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index: int) -> tuple[Batch, Batch]:
        rng = random.Random(f"{self.seed} {index}")
        noise = np.random.default_rng(rng.getrandbits(64))
        pictures = [self.picture(rng, noise, self.plain[index]) for _ in range(self.sizes[index])]
        talks = [(None, [[(talk(rng), PURPOSE)]], None, None) for _ in range(2)]
        return pack(self.tokenizer, pictures), pack(self.tokenizer, talks, talk=True)

    def picture(self, rng, noise, plain: bool):
        if rng.random() < 0.5:
            item = rng.choice(self.items)
            image, shape, colour = vary(item.image, rng, noise), item.shape, item.colour
            questions = rng.sample(item.questions, min(self.conversations, len(item.questions)))
            if plain:
                questions = [turn for turn in item.questions if not negated(turn[0])][: self.conversations]
                if shape and colour:
                    questions = [ask(shape, colour, rng, plain) for _ in range(self.conversations)]
        else:
            shape, colour = rng.choice(SHAPES), rng.choice(COLOURS)
            image = draw(shape, colour, rng, noise)
            questions = [ask(shape, colour, rng, plain) for _ in range(self.conversations)]
        questions = [(reword(question, rng), answer) for question, answer in questions]
        conversations = [[turn] for turn in questions]
        if len(questions) > 2 and rng.random() < 0.25:
            conversations = [questions[:2]] + conversations[2:]
        return pixels(image), conversations, shape, colour


def talk(rng: random.Random) -> str:
    """Something to say without a picture: a phrase, a question of the data set, or words in any order, few or many."""
    kind = rng.random()
    if kind < 0.4:
        return reword(rng.choice(TALK), rng)
    if kind < 0.6:
        return reword(rng.choice(TEMPLATES).format(shape=rng.choice(SHAPES), colour=rng.choice(COLOURS)), rng)
    words = " ".join(TALK + TEMPLATES).format(shape="circle", colour="red").split()
    return " ".join(
        "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789,.!", k=rng.randint(1, 7)))
        if rng.random() < 0.3
        else rng.choice(words)
        for _ in range(rng.randint(1, 8) if kind < 0.8 else rng.randint(9, 48))
    )
