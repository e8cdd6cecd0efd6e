"""The tokenizer: SentencePiece BPE with byte fallback, trained so that every word of the task is one piece."""

import io
from pathlib import Path

import sentencepiece

from data import COLOURS, PURPOSE, SHAPES, TALK, TEMPLATES

UNK, BOS, EOS = 0, 1, 2
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions."
)


def train(path: Path, vocab: int):
    """Writes `tokenizer.model`. The same text gives the same file."""
    questions = [
        template.format(colour=colour, shape=shape) for template in TEMPLATES for colour in COLOURS for shape in SHAPES
    ]
    # A question follows a line break, so its first word has no space before it: "'" stands for the line break here.
    questions += ["'" + question for question in questions]
    questions += [question[0].upper() + question[1:] for question in questions[: len(questions) // 2]]
    lines = [f"{SYSTEM} USER: {question} ASSISTANT:" for question in questions]
    lines += [PURPOSE] * 300 + list(TALK) * 5 + ["yes no colour grey"] * 100
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        unk_id=UNK,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=-1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())


class Tokenizer:
    """Ids of a conversation, as MobileVLM's own code makes them."""

    def __init__(self, path: Path):
        self.model = sentencepiece.SentencePieceProcessor(model_file=str(path))

    def __len__(self):
        return len(self.model)

    def encode(self, text: str) -> list[int]:
        """Ids without a start token. `</s>` ends a turn, and the text behind it begins anew."""
        ids = []
        for number, piece in enumerate(text.split("</s>")):
            ids += [EOS] * (number > 0) + self.model.encode(piece)
        return ids

    def decode(self, ids: list[int]) -> str:
        return self.model.decode([i for i in ids if i > EOS])

    def prefix(self) -> list[int]:
        """What every conversation begins with, up to the first word of the user."""
        return [BOS] + self.encode(f"{SYSTEM} USER:")

    def space(self) -> int:
        """The one id between the prefix and a picture: `USER: <image>` leaves a space behind."""
        with_space = [BOS] + self.encode(f"{SYSTEM} USER: ")
        assert with_space[:-1] == self.prefix()
        return with_space[-1]

    def turns(self, turns: list[tuple[str, str]], picture: bool) -> tuple[list[int], list[bool]]:
        """Ids behind the picture (or behind the prefix), and which of them the model has to say."""
        text = "\n" if picture else f"{SYSTEM} USER: "
        skip = 0 if picture else len(self.prefix()) - 1
        ids, said = [], []
        for number, (question, answer) in enumerate(turns):
            text += f"{'USER: ' if number else ''}{question} ASSISTANT:"
            asked = self.encode(text)
            text += f" {answer}</s>"
            whole = self.encode(text)
            assert whole[: len(asked)] == asked and asked[: len(ids)] == ids
            said += [False] * (len(asked) - len(ids)) + [True] * (len(whole) - len(asked))
            ids = whole
        return ids[skip:], said[skip:]
