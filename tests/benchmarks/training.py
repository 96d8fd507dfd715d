"""Training through distillgen beside bare scripts on the same rows: TRL's SFTTrainer, and a loop of PyTorch.

Each training runs with few steps and with many. The difference of the two times, over that of the steps, is
the time of a step; what is left is the start. Seconds of the processor are those of all processes.

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
steps, rows = int(sys.argv[1]), [json.loads(line) for line in open("numbers.jsonl")]
inputs = torch.tensor([row["x"] for row in rows])
labels = torch.tensor([int(row["label"]) for row in rows])
inputs = (inputs - inputs.mean(0)) / inputs.std(0)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
step = 0
while step < steps:
    for places in torch.randperm(len(rows)).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[places]), labels[places]).backward()
        optimizer.step()
        schedule.step()
        step += 1
        if step == steps:
            break
"""
SFT = {"student": "base", "batch_size": 8, "learning_rate": 1e-3, "held_out": 0}
NETWORK = {
    "objective": "distil",
    "student": {"mlp": [64, 32]},
    "inputs": ["x"],
    "label": "label",
    "losses": ["cross_entropy"],
    "batch_size": 64,
    "learning_rate": 1e-3,
    "held_out": 0,
}


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
    numbers = [
        {"x": [chance.random() for _ in range(64)], "label": str(chance.randrange(10))} for _ in range(1000)
    ]
    for name, rows in (("texts", texts), ("numbers", numbers)):
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
    return took(folder, [sys.executable, "-m", "distillgen", "run", f"{name}.yaml", "--out", name], name)


def bare(folder: Path, script: str, steps: int) -> Took:
    """Train with a bare script."""
    return took(folder, [sys.executable, f"bare_{script}.py", str(steps)], f"bare-{script}-{steps}")


def compare(folder: Path, title: str, rows: str, options: dict, script: str, steps: tuple[int, int]) -> None:
    """Print the time of a step and of the start, of both, on the clock and of the processor."""
    few, many = steps
    print(f"{title}, {few:,} and {many:,} steps", flush=True)
    ours = [through_distillgen(folder, rows, options, count) for count in steps]
    theirs = [bare(folder, script, count) for count in steps]
    for measure in Took._fields:
        one, other = ([getattr(run, measure) for run in runs] for runs in (ours, theirs))
        step = [(runs[1] - runs[0]) / (many - few) for runs in (one, other)]
        start = [runs[0] - few * each for runs, each in zip((one, other), step, strict=True)]
        print(
            f"  {measure}: distillgen {1e3 * step[0]:.2f} ms a step, bare {1e3 * step[1]:.2f} ms,"
            f" ratio {step[0] / step[1]:.2f}; start {start[0]:.1f} s and {start[1]:.1f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=100, help="steps of the longer training of texts")
    parser.add_argument("--numbers", type=int, default=10_000, help="steps of the longer training of numbers")
    given = parser.parse_args()
    print("python -m tests.benchmarks.training", *sys.argv[1:])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder)
        texts, numbers = (given.texts // 5, given.texts), (given.numbers // 5, given.numbers)
        compare(folder, "a tiny language model, sft", "texts.jsonl", SFT, "trl", texts)
        compare(folder, "a small network, distil", "numbers.jsonl", NETWORK, "torch", numbers)


if __name__ == "__main__":
    main()
