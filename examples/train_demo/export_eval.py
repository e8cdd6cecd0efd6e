"""Writes the test split of easy-VQA as JSON lines: {"image": path, "prompt": question, "answer": text}.

python export_eval.py FOLDER
"""

import argparse
import json
from pathlib import Path

from data import easy


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="gets images/ and test.jsonl, whose paths begin at this folder")
    parser.add_argument("--split", choices=("test", "train"), default="test")
    args = parser.parse_args()
    images = args.folder / "images" / args.split
    images.mkdir(parents=True, exist_ok=True)
    lines = []
    for item in easy(args.split):
        item.image.save(images / item.name)
        for question, answer in item.questions:
            lines.append(json.dumps({"image": f"images/{args.split}/{item.name}", "prompt": question, "answer": answer}))
    (args.folder / f"{args.split}.jsonl").write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} questions: {args.folder / args.split}.jsonl")


if __name__ == "__main__":
    main()
