"""Small trainings of networks, in this process: rows on three rays, a loop over them, and what it holds."""

import math
from pathlib import Path

import pytest

from distillgen.project import Project
from distillgen.training.part import PartEntry, chance_of, losses_of, weights_of
from distillgen.training.rows import RowSelection
from distillgen.training.sources import Source

pytest.importorskip("torch")  # before datasets, whose import takes a second
datasets = pytest.importorskip("datasets")

CLASSES = "abc"


def row(i: int, *, label: bool = True, **columns) -> dict:
    """A point on one of three rays; its class is the ray."""
    values = [0.0, 0.0, 0.0]
    values[i % 3] = 1.0 + i % 5
    return {"id": str(i), "input.x": values, "label": [CLASSES[i % 3]] if label else [], **columns}


def says(i: int, *, sure: float = 0.9) -> dict:
    """What a teacher that is right says of row i."""
    shares = [sure if name == CLASSES[i % 3] else (1 - sure) / 2 for name in CLASSES]
    return {"teacher.t.names": [*CLASSES], "teacher.t.logprobs": [math.log(p) for p in shares]}


def prepared(rows, losses, tmp_path: Path, *, root: Path | None = None, student=None, **options):
    """The loop of a network over `rows`, or over {part: rows}."""
    return prepared_rows(rows, losses, tmp_path, root=root, student=student, **options).trainer


def prepared_rows(rows, losses, tmp_path: Path, *, root: Path | None = None, student=None, **options):
    """The loop with the counts of the rows that are left out."""
    from distillgen.training.assembly import Lesson, network_loop
    from distillgen.training.inputs import TrainingInputs

    project = Project(root or tmp_path)
    parts = rows if isinstance(rows, dict) else {"train": rows}
    selection = RowSelection({name: datasets.Dataset.from_list(part) for name, part in parts.items()})
    entries = {name: options.pop(name) for name in ("weights", "teachers", "models") if name in options}
    flags = {name: options.pop(name, False) for name in ("transductive", "learn_validation", "shuffled")}
    named = {name: options.pop(name, None) for name in ("mixup", "shuffle", "blend")}
    draw = options.pop("draw", None)
    arguments = {
        "output_dir": str(tmp_path / "out"),
        "seed": 0,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.01,
        "max_steps": 30,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        **options,
    }
    lesson = Lesson(
        losses_of([PartEntry(part=name, options=o) for name, o in losses], project),
        weights_of(
            {n: PartEntry(part=p, options=o) for n, (p, o) in entries.get("weights", {}).items()}, project
        ),
        {name: Source(**source) for name, source in entries.get("teachers", {}).items()},
        ["x"],
        flags["transductive"],
        flags["learn_validation"],
        **named,
        draw=chance_of(PartEntry(part=draw[0], options=draw[1]), project) if draw else None,
    )
    inputs = TrainingInputs(
        "",
        selection,
        arguments,
        64,
        project=project,
        network=student or {"mlp": [8]},
        models=entries.get("models", {}),
        shuffled=flags["shuffled"],
    )
    return network_loop(lesson, inputs)


def step_of(loop):
    from distillgen.training.step import Step

    return Step(loop.model, loop.train_dataset.all_rows())


def accuracy(loop) -> float:
    network, batch = loop.model.networks["student"].eval(), loop.train_dataset.all_rows()
    found = network.probabilities(network(batch)).argmax(-1)
    return float((found == batch["label"]).float().mean())


def bits(loop) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in loop.model.state_dict().items()}
