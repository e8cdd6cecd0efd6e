"""Writes what PyTorch answers: ids of the exported float16 weights in float32 arithmetic, one picture at a time.

python reference.py --fixture ../../tests/fixtures/demo
python reference.py --whole-split
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch

from data import COLOURS, SHAPES, TALK, Item, ask, draw, easy, pixels
from export import checkpoint_sha256, load
from model import Config, MobileVlm
from tokenizer import BOS, EOS, SYSTEM, Tokenizer
from train import evaluate, scores

IMAGE = -200


@torch.no_grad()
def generate(model: MobileVlm, ids: list[int], picture: torch.Tensor | None, most: int = 48) -> list[int]:
    """The likeliest ids, one after the other, with all of the prompt computed anew for each."""
    rows = model.see(picture[None]) if picture is not None else None
    said = []
    while len(said) < most and EOS not in said:
        parts = []
        for i in ids + said:
            parts.append(rows if i == IMAGE else model.embed(torch.tensor([[i]])))
        x = torch.cat(parts, 1)
        count = x.shape[1]
        mask = torch.ones(1, count, count, dtype=torch.bool).tril()
        x, _ = model.decode(x, torch.arange(count)[None], mask)
        said.append(model.logits(x[0, -1]).argmax().item())
    return said


def prompt_ids(tokenizer: Tokenizer, question: str, picture: bool) -> list[int]:
    """As MobileVLM's own code does it: the text is cut at `<image>`, and each part is tokenized by itself."""
    if not picture:
        return [BOS] + tokenizer.encode(f"{SYSTEM} USER: {question} ASSISTANT:")
    before, behind = f"{SYSTEM} USER: <image>\n{question} ASSISTANT:".split("<image>")
    return [BOS] + tokenizer.encode(before) + [IMAGE] + tokenizer.encode(behind)


def drawn(count: int) -> list[Item]:
    """Pictures as training draws them, which it has not seen."""
    rng, noise = random.Random("drawn"), np.random.default_rng(0)
    items = []
    for number in range(count):
        shape, colour = rng.choice(SHAPES), rng.choice(COLOURS)
        image = draw(shape, colour, rng, noise)
        items.append(Item(f"{number}.png", image, [ask(shape, colour, rng) for _ in range(6)], shape, colour))
    return items


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).parent
    parser.add_argument("--model", type=Path, default=here.parent / "demo-model")
    parser.add_argument("--fixture", type=Path, help="writes reference.json and pictures to this folder")
    parser.add_argument("--items", type=int, default=200, help="questions of the test split, each of another picture")
    parser.add_argument("--pictures", type=int, default=50, help="how many of their pictures to write")
    parser.add_argument("--whole-split", action="store_true", help="prints the share of exact answers, by kind")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = Config()
    model, tokenizer = load(args.model, config), Tokenizer(args.model / "tokenizer.model")
    items = easy("test")

    if args.whole_split:
        print(f"easy-VQA, test: {scores(evaluate(model, tokenizer, items, 'cpu'))}")
        print(f"500 drawn pictures: {scores(evaluate(model, tokenizer, drawn(500), 'cpu'))}")
    if args.fixture:
        args.fixture.mkdir(parents=True, exist_ok=True)
        rng = random.Random(7)
        entries = []
        for number, item in enumerate(rng.sample(items, args.items)):
            question, answer = rng.choice(item.questions)
            # Every second question asks for a shape or a colour, if the picture has such a question.
            if number % 2 == 0:
                named = [turn for turn in item.questions if turn[1] in SHAPES + COLOURS]
                question, answer = rng.choice(named or item.questions)
            ids = prompt_ids(tokenizer, question, True)
            said = generate(model, ids, torch.from_numpy(pixels(item.image)))
            entries.append(
                {
                    "image": item.name,
                    "prompt": question,
                    "answer": answer,
                    "prompt_ids": ids,
                    "ids": said,
                    "text": tokenizer.decode(said).strip(),
                }
            )
            if number < args.pictures:
                item.image.save(args.fixture / item.name, optimize=True)
        talks = []
        for question in TALK[:5]:
            ids = prompt_ids(tokenizer, question, False)
            said = generate(model, ids, None)
            talks.append({"prompt": question, "prompt_ids": ids, "ids": said, "text": tokenizer.decode(said).strip()})
        exact = sum(entry["text"] == entry["answer"] for entry in entries)
        print(f"{exact} of {len(entries)} answers are exact; {talks[0]['text']!r}")
        lines = [f' "sha256": {json.dumps(checkpoint_sha256(args.model))},', f' "pictures": {args.pictures},']
        for name, values, end in (("items", entries, ","), ("text_only", talks, "")):
            each = ",\n".join(f"  {json.dumps(entry)}" for entry in values)
            lines.append(f' "{name}": [\n{each}\n ]{end}')
        (args.fixture / "reference.json").write_text("\n".join(["{", *lines, "}"]) + "\n")


if __name__ == "__main__":
    main()
