"""Trains the demo model and writes it in the layout of MobileVLM V2.

python train.py --out ../demo-model
"""

import argparse
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from data import COLOURS, SHAPES, Batch, Batches, Item, easy, pack, pixels
from export import checkpoint_sha256, export
from model import Config, MobileVlm
from tokenizer import Tokenizer
from tokenizer import train as train_tokenizer

HELD_OUT = 200


@dataclass(frozen=True)
class Phase:
    """`steps` of one cosine of the learning rate. The other steps than each `every`-th are of the tower alone."""

    steps: int
    rate: float
    # The number of steps after which the cosine schedule would reach 0.
    cosine: int
    every: int | None
    # The weight of the helper heads' loss in steps of the whole model.
    helped: float = 0.0
    # Whether the tower is trained in these steps too.
    tower: bool = True
    # Whether questions with `no` or `not` are left out. The model must compare the word in question with the picture,
    # and it does not learn this while half of the questions state the opposite of the other half.
    plain: bool = False
    # Whether the decoder sees all rows of a picture. A sixth of the rows is enough for training.
    full: bool = False


PHASES = (
    Phase(600, 1.5e-3, 600, None),
    Phase(400, 1.05e-3, 600, every=1, helped=0.2),
    Phase(800, 1.2e-3, 1200, every=4, helped=0.5),
    Phase(300, 1.0e-3, 1200, every=1, tower=False, plain=True),
    Phase(600, 1.0e-3, 1000, every=1, tower=False),
    Phase(1600, 7e-4, 1700, every=1, helped=0.3),
    Phase(300, 2e-4, 300, every=1, helped=0.2, full=True),
)


def place(step: int) -> tuple[Phase, int]:
    """The phase of a step, and how many of its steps are done."""
    for phase in PHASES:
        if step < phase.steps:
            break
        step -= phase.steps
    return phase, step


def is_whole(step: int) -> bool:
    """Whether the whole model learns in a step, and not the tower alone."""
    phase, done = place(step)
    return phase.every is not None and done % phase.every == 0


def rate(step: int) -> float:
    """The learning rate: up in 50 steps and down in a cosine."""
    phase, done = place(step)
    return phase.rate * min(1, (done + 1) / 50) * (0.02 + 0.49 * (1 + math.cos(math.pi * done / phase.cosine)))


def prefixed(model: MobileVlm, prefix: list[int], device):
    """Keys and values of what every conversation begins with: once for all of a batch."""
    ids = torch.tensor([prefix], device=device)
    count = ids.shape[1]
    mask = torch.ones(1, count, count, dtype=torch.bool, device=device).tril()
    return model.decode(model.embed(ids), torch.arange(count, device=device)[None], mask)[1]


def states(model: MobileVlm, batch: Batch, rows, past, space: int, kept=None):
    """Hidden states (B, T, h) of a batch's ids: each sees the prefix, the picture, and its own conversation.

    `kept`: which rows of the picture are there, in order; all where it is not given.
    """
    device = batch.ids.device
    x, row, position = model.embed(batch.ids), batch.row, batch.offset
    if rows is not None:
        count = rows.shape[1] + 1
        where = torch.arange(count, device=device)
        if kept is not None:
            rows, where = rows[:, kept], torch.cat([where[:1], kept + 1])
        before = model.embed(torch.full((len(rows), 1), space, device=device))
        x = torch.cat([before, rows, x], 1)
        # The picture is conversation -2, which all other conversations see.
        row = torch.cat([torch.full((len(rows), len(where)), -2, device=device), row], 1)
        position = torch.cat([where.expand(len(rows), -1), position + count], 1)
    given = past[0][0].shape[2]
    length = row.shape[1]
    sees = (row[:, :, None] == row[:, None, :]) | (row[:, None, :] == -2)
    sees &= torch.ones(length, length, dtype=torch.bool, device=device).tril()
    sees = torch.cat([torch.ones(len(row), length, given, dtype=torch.bool, device=device), sees], 2)
    x, _ = model.decode(x, position + given, sees, past)
    return x[:, -batch.ids.shape[1] :]


def answers(model: MobileVlm, batch: Batch, x):
    """Logits and ids of what the model has to say, and where: each id is foretold by the one in front of it."""
    says = batch.said[:, 1:]
    return model.logits(x[:, :-1][says]), batch.ids[:, 1:][says], says


def to(batch: Batch, device) -> Batch:
    return Batch(*(part.to(device) for part in vars(batch).values()))


KINDS = ("all", "shape", "colour", "yes or no")


@torch.no_grad()
def evaluate(model: MobileVlm, tokenizer: Tokenizer, items: list[Item], device, size=20) -> torch.Tensor:
    """Exact answers and questions (4, 2), by kind. An answer is exact when every id of it is the likeliest."""
    counts = torch.zeros(len(KINDS), 2)
    past = prefixed(model, tokenizer.prefix(), device)
    for start in range(0, len(items), size):
        part = items[start : start + size]
        batch = pack(tokenizer, [(pixels(i.image), [[turn] for turn in i.questions], None, None) for i in part])
        batch = to(batch, device)
        x = states(model, batch, model.see(batch.pixels), past, tokenizer.space())
        logits, ids, says = answers(model, batch, x)
        wrong = torch.zeros_like(says)
        wrong[says] = logits.argmax(-1) != ids
        for index, item in enumerate(part):
            for number, (_, answer) in enumerate(item.questions):
                kind = 1 if answer in SHAPES else 2 if answer in COLOURS else 3
                exact = not wrong[index][batch.row[index, 1:] == number].any()
                counts[[0, kind]] += torch.tensor([float(exact), 1.0])
    return counts


def scores(counts: torch.Tensor) -> str:
    return ", ".join(f"{kind} {right / asked:.2%}" for kind, (right, asked) in zip(KINDS, counts.tolist()))


def shared(value: torch.Tensor) -> torch.Tensor:
    """The sum over all processes."""
    if dist.is_initialized():
        dist.all_reduce(value)
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "demo-model")
    parser.add_argument(
        "--work", type=Path, default=Path("train_demo_work"), help="folder of checkpoints; training goes on from there"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16, help="pictures of a step; twice as many for the tower alone")
    parser.add_argument("--conversations", type=int, default=5, help="of each picture and step")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, default=2, help="one thread each, which share a batch; on a GPU 1")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw pictures")
    parser.add_argument("--stop", type=int, help="stop behind this step, to go on later")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    (args.work / "meeting").unlink(missing_ok=True)
    train_tokenizer(args.work / "tokenizer.model", Config().vocab)
    if args.processes == 1:
        work(0, args)
    else:
        torch.multiprocessing.spawn(work, (args,), args.processes)


def work(rank: int, args):
    """One of the processes: its part of each batch."""
    if args.processes > 1:
        meeting = (args.work / "meeting").absolute().as_uri()
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=args.processes)
    if args.device == "cpu":
        torch.set_num_threads(1)

    def tell(line: str):
        if rank == 0:
            print(line, flush=True)

    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    config = Config()
    tokenizer = Tokenizer(args.work / "tokenizer.model")
    items = easy("train")
    random.Random(args.seed).shuffle(items)
    held_out, items = items[:HELD_OUT], items[HELD_OUT:]

    model = MobileVlm(config).to(device)
    # Predicts shape and colour from the mean of the picture's rows. Only training uses it: the tower learns from it
    # first.
    helper = nn.Linear(config.hidden, len(SHAPES) + len(COLOURS)).to(device)
    both = list(model.parameters()) + list(helper.parameters())
    matrices = [weight for weight in both if weight.dim() > 1]
    vectors = [weight for weight in both if weight.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
        lr=1.0,
        betas=(0.9, 0.97),
    )
    total = sum(phase.steps for phase in PHASES)
    first, best = 0, -1.0
    saved = args.work / "last.pt"
    if saved.exists():
        state = torch.load(saved, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        helper.load_state_dict(state["helper"])
        optimizer.load_state_dict(state["optimizer"])
        first, best = state["step"], state["best"]
        tell(f"goes on behind step {first}")

    stop = min(args.stop or total, total)
    part = args.batch // args.processes
    # A step of the tower alone is cheaper, so its batch is larger.
    sizes = [part if is_whole(step) else 2 * part for step in range(total)]
    plain = [place(step)[0].plain for step in range(total)]
    batches = Batches(items, tokenizer, f"{args.seed} {rank}", sizes, plain, args.conversations)
    loader = torch.utils.data.DataLoader(batches, batch_size=None, sampler=range(first, stop), num_workers=args.workers)
    started, seen = time.time(), {}
    tell(f"{sum(weight.numel() for weight in model.parameters())} parameters, {len(items)} pictures")
    for step, (batch, talk) in enumerate(loader, first):
        batch, talk = to(batch, device), to(talk, device)
        torch.manual_seed(args.seed * 1_000_003 + step)
        with torch.set_grad_enabled(place(step)[0].tower):
            rows = model.see(batch.pixels)
        # The helper sees a random quarter of the rows, so that each row learns about the whole picture.
        order = torch.randperm(rows.shape[1], device=device)
        guess = helper(rows[:, order[: rows.shape[1] // 4]].mean(1))
        shape, colour = guess.split([len(SHAPES), len(COLOURS)], 1)
        helped = F.cross_entropy(shape, batch.labels[:, 0]) + F.cross_entropy(colour, batch.labels[:, 1])
        loss = helped
        if is_whole(step):
            phase, _ = place(step)
            kept = None if phase.full else order[: rows.shape[1] // 6].sort().values
            rows = rows if phase.tower else rows.detach()
            past = prefixed(model, tokenizer.prefix(), device)
            logits, ids, _ = answers(model, batch, states(model, batch, rows, past, tokenizer.space(), kept))
            answered = F.cross_entropy(logits, ids)
            right = (logits.argmax(-1) == ids).float().mean().item()
            logits, ids, _ = answers(model, talk, states(model, talk, None, past, tokenizer.space()))
            talked = F.cross_entropy(logits, ids)
            loss = answered + 0.1 * talked + phase.helped * helped
            # Half of the ids are end tokens, which the model soon predicts.
            seen["right"] = 0.98 * seen.get("right", 0.5) + 0.02 * right
            seen.update(answered=answered.item(), talked=talked.item())
        seen["helped"] = 0.95 * seen.get("helped", helped.item()) + 0.05 * helped.item()
        for name, part, label in (("shape", shape, batch.labels[:, 0]), ("colour", colour, batch.labels[:, 1])):
            right = (part.argmax(1) == label)[label >= 0].float().mean().item()
            seen[name] = 0.95 * seen.get(name, 0.3) + 0.05 * right
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.zero_grad()
        loss.backward()
        learning = [weight.grad for weight in both if weight.grad is not None]
        mean = shared(torch.cat([gradient.flatten() for gradient in learning])) / args.processes
        for gradient, value in zip(learning, mean.split([gradient.numel() for gradient in learning])):
            gradient.copy_(value.view_as(gradient))
        nn.utils.clip_grad_norm_(both, 1.0)
        optimizer.step()

        done = step + 1
        if done % 20 == 0:
            pace = (time.time() - started) / (done - first)
            line = " ".join(f"{name} {value:.4f}" for name, value in seen.items())
            tell(f"step {done}/{total} {line} {pace:.2f} s a step")
        if done % 200 == 0 or done == stop:
            if best >= 0 or is_whole(step):
                counts = shared(evaluate(model, tokenizer, held_out[rank :: args.processes], device))
                tell(f"held out: {scores(counts)}")
                exact = (counts[0, 0] / counts[0, 1]).item()
                if exact >= best:
                    best = exact
                    if rank == 0:
                        torch.save(model.state_dict(), args.work / "best.pt")
            if rank > 0:
                continue
            state = {"model": model.state_dict(), "helper": helper.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"step": done, "best": best}
            torch.save(state, args.work / "new.pt")
            (args.work / "new.pt").replace(saved)

    if stop == total and rank == 0:
        model.load_state_dict(torch.load(args.work / "best.pt", map_location=device, weights_only=True))
        export(model, config, args.work / "tokenizer.model", args.out)
        print(f"{checkpoint_sha256(args.out)}  {args.out / 'model.safetensors'}")


if __name__ == "__main__":
    main()
