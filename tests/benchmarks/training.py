"""Training through distillgen beside bare scripts on the same rows: TRL's SFTTrainer, and a loop of PyTorch.

Each training runs with few steps and with many. The difference of the two times, over that of the steps, is
the time of a step; what is left is the start. Seconds of the processor are those of all processes. The two
run in turn, and the medians of the rounds are printed. The bare loop clips the gradient, as ours does.

Regenerate: OMP_NUM_THREADS=1 python -m tests.benchmarks.training
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from distillgen.training import students

TRL = """
import json, sys
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
rows = Dataset.from_list([json.loads(line) for line in open("texts.jsonl")])
SFTTrainer(
    AutoModelForCausalLM.from_pretrained("base"),
    SFTConfig(output_dir="trl", max_steps=int(sys.argv[1]), per_device_train_batch_size=8, learning_rate=1e-3,
              max_length=1024, logging_steps=1 / 500, save_strategy="no", report_to=[], use_cpu=True,
              disable_tqdm=True, gradient_checkpointing=False, bf16=False, dataloader_pin_memory=False),
    train_dataset=rows, processing_class=AutoTokenizer.from_pretrained("base"),
).train()
"""
TORCH = """
import json, sys
import torch
from torch import nn
steps, batch, *widths = map(int, sys.argv[1:])
rows = [json.loads(line) for line in open(f"numbers-{widths[0]}.jsonl")]
inputs = torch.tensor([row["x"] for row in rows])
labels = torch.tensor([int(row["label"]) for row in rows])
inputs = (inputs - inputs.mean(0)) / inputs.std(0)
layers = [[nn.Linear(before, after), nn.ReLU()] for before, after in zip(widths, widths[1:])]
model = nn.Sequential(*sum(layers, []), nn.Linear(widths[-1], 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
step = 0
while step < steps:
    for places in torch.randperm(len(rows)).split(batch):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[places]), labels[places]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        step += 1
        if step == steps:
            break
"""
SFT = {"student": "base", "batch_size": 8, "learning_rate": 1e-3, "held_out": 0}
NETWORK = {
    "objective": "distil",
    "inputs": ["x"],
    "label": "label",
    "losses": ["cross_entropy"],
    "learning_rate": 1e-3,
    "held_out": 0,
}
SMALL, LARGE = (64, [64, 32]), (784, [1024, 1024])
"""Numbers of a row, and the widths of the layers: 6,570 weights and 1,863,690."""


class Took(NamedTuple):
    """Seconds, on the clock and of the processor."""

    clock: float
    processor: float


def write(folder: Path) -> None:
    """Write the rows, the bare scripts, and the tiny student that both begin with."""
    chance = random.Random(0)
    words = "river stone cloud maple iron salt ember tide wolf lantern copper meadow".split()
    texts = [
        {"prompt": f"Say {i}: {' '.join(chance.choices(words, k=20))}", "completion": " ".join(words)}
        for i in range(400)
    ]
    files = {"texts": texts}
    for width, _ in (SMALL, LARGE):
        files[f"numbers-{width}"] = [
            {"x": [chance.random() for _ in range(width)], "label": str(chance.randrange(10))}
            for _ in range(1000)
        ]
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, code in (("trl", TRL), ("torch", TORCH)):
        (folder / f"bare_{name}.py").write_text(code)
    students.ready("tiny", folder, folder / "base", iter(text for row in texts for text in row.values()))


def took(folder: Path, command: list[str], name: str) -> Took:
    """Carry out a command in the folder."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}
    begun = time.perf_counter()
    with (
        (folder / f"{name}.log").open("wb") as output,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output) as process,
    ):
        _, status, used = os.wait4(process.pid, 0)
    assert status == 0, (folder / f"{name}.log").read_text()[-2000:]
    return Took(time.perf_counter() - begun, used.ru_utime + used.ru_stime)


def through_distillgen(folder: Path, rows: str, options: dict, steps: int) -> Took:
    """Train in a pipeline of two stages."""
    stages = [{"source": {"path": rows}}, {"train": options | {"max_steps": steps}}]
    name = f"{Path(rows).stem}-{steps}"
    (folder / f"{name}.yaml").write_text(json.dumps({"version": 1, "stages": stages}))
    out = tempfile.mkdtemp(dir=folder)
    return took(
        folder, [sys.executable, "-m", "distillgen", "run", f"{name}.yaml", "--out", f"{out}/run"], name
    )


def bare(folder: Path, script: str, steps: int, *options: int) -> Took:
    """Train with a bare script."""
    command = [sys.executable, f"bare_{script}.py", str(steps), *map(str, options)]
    return took(folder, command, f"bare-{script}-{steps}")


class Case(NamedTuple):
    """A training through distillgen and its bare script."""

    title: str
    rows: str
    options: dict
    script: str
    arguments: tuple[int, ...] = ()


def compare(folder: Path, case: Case, steps: int, rounds: int) -> None:
    """Print the time of a step and of the start, of both, on the clock and of the processor."""
    few, many = steps // 5, steps
    print(f"{case.title}, {few:,} and {many:,} steps, {rounds} rounds", flush=True)
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        ours = [through_distillgen(folder, case.rows, case.options, count) for count in (few, many)]
        theirs = [bare(folder, case.script, count, *case.arguments) for count in (few, many)]
        for who, (short, long) in (("distillgen", ours), ("bare", theirs)):
            for measure in Took._fields:
                step = (getattr(long, measure) - getattr(short, measure)) / (many - few)
                start = getattr(short, measure) - few * step
                times.setdefault((measure, who), []).append((step, start))
    for measure in Took._fields:
        one, other = times[measure, "distillgen"], times[measure, "bare"]
        ratios = sorted(ours / theirs for (ours, _), (theirs, _) in zip(one, other, strict=True))
        step, start = ([median(run[i] for run in runs) for runs in (one, other)] for i in (0, 1))
        print(
            f"  {measure}: distillgen {1e3 * step[0]:.2f} ms a step, bare {1e3 * step[1]:.2f} ms,"
            f" ratio {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f});"
            f" start {start[0]:.1f} s and {start[1]:.1f} s",
            flush=True,
        )


def of_numbers(title: str, width: int, layers: list[int], batch: int) -> Case:
    """Return the training of a network on rows of numbers."""
    options = NETWORK | {"student": {"mlp": layers}, "batch_size": batch}
    return Case(title, f"numbers-{width}.jsonl", options, "torch", (batch, width, *layers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=400, help="steps of the longer training of texts")
    parser.add_argument("--numbers", type=int, default=10_000, help="steps of the small network")
    parser.add_argument("--rounds", type=int, default=3, help="how often each training runs")
    given = parser.parse_args()
    print("python -m tests.benchmarks.training", *sys.argv[1:])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder)
        texts = Case("a tiny language model, sft", "texts.jsonl", SFT, "trl")
        compare(folder, texts, given.texts, given.rounds)
        compare(folder, of_numbers("6,570 weights, batch 64", *SMALL, 64), given.numbers, given.rounds)
        large = of_numbers("1,863,690 weights, batch 256", *LARGE, 256)
        compare(folder, large, given.numbers // 20, given.rounds)


if __name__ == "__main__":
    main()
