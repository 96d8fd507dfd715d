"""The process that trains: `python -m distillgen.training.process JOB.json`, started by the stage train and ended with it.

It goes on from the last whole checkpoint beside the job, and leaves a finished student, with its manifest, in `student/`.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_utils import set_seed

from distillgen.errors import DistillgenError
from distillgen.platforms import lock
from distillgen.project import Project
from distillgen.record import loads_own
from distillgen.stages.train import Train
from distillgen.training import students
from distillgen.training.hardware import Energy, described
from distillgen.training.objective import PARTS, Row, Training

WRITE_EVERY_S = 0.5
POINTS = 500  # of the loss curve


def main(file: str, launched: str = "") -> None:
    """Train, in as many processes as are wanted; whatever goes wrong is left in `error.json`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder = Path(file).parent
    job = json.loads(Path(file).read_bytes())
    stage = Train.model_validate(job["stage"])
    processes = stage.processes or max(1, torch.cuda.device_count())
    if not launched and (stage.accelerate or processes > 1):
        _launch(file, stage, Path(job["root"]), processes)
    try:
        with (folder / "lock").open("w") as stream:
            if is_main():
                lock(stream.fileno(), wait=True)  # a process whose parent was killed may still be ending
            train(folder, job, stage)
    except DistillgenError as error:
        _write(folder / "error.json", {"message": str(error), "mistake": True})
        raise SystemExit(2) from error
    except Exception as error:  # whatever the libraries raise ends here, with its place for who looks closer
        traceback.print_exc()
        message = f"{type(error).__name__}: {str(error).strip()[:600]} (more in {folder / 'output.txt'})"
        _write(folder / "error.json", {"message": message, "mistake": False})
        raise SystemExit(1) from error


def is_main() -> bool:
    """Whether this process is the one, of those that train together, which writes."""
    return os.environ.get("RANK", "0") == "0"


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _launch(file: str, stage: Train, root: Path, processes: int) -> None:
    """Become accelerate's own launcher, which starts this module in every process."""
    how = [
        "--num_processes",
        str(processes),
        *(["--multi_gpu"] if processes > 1 else []),
        "--num_machines",
        "1",
    ]
    how += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    if stage.accelerate:
        how = ["--config_file", str(Project(root).file(stage.accelerate))]
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *how,
        "-m",
        "distillgen.training.process",
        file,
        "launched",
    ]
    os.execv(sys.executable, command)


def train(folder: Path, job: dict[str, Any], stage: Train) -> None:
    """Carry the training out, from the last checkpoint on where there is one."""
    progress = Progress(folder, stage.save_every_s)
    set_seed(stage.seed)
    project = Project(Path(job["root"]), frozenset(job["files"]))
    with PartialState(cpu=not torch.cuda.is_available()).main_process_first():
        size = students.WIDE if stage.learning(project).signals else students.VOCABULARY
        student = students.ready(job["start"], project.root, folder / "base", _texts(folder), vocabulary=size)
    template = project.file(stage.chat_template).read_text() if stage.chat_template else None
    gpu = torch.cuda.is_available()
    learning = stage.learning(project)
    training = Training(
        student,
        folder,
        _rows(folder),
        _arguments(folder, stage, learning.learning_rate),
        stage.max_length,
        stage.revision,
        stage.dtype or ("bfloat16" if stage.lora and gpu else "float32"),
        stage.lora,
        template,
        project.root,
        learning.api(_first(folder)),
    )
    progress.say("counting tokens")
    trainer = learning.trainer(training)
    trainer.add_callback(progress)
    _point_home(trainer, student, folder, Path(job["to"]))
    held_out, base = "held_out" in training.rows and trainer.eval_dataset is not None, folder / "base.json"
    if held_out and not base.exists():
        progress.say("evaluating the student as it was")
        _write(base, _plain(trainer.evaluate()))
    trainer.train(resume_from_checkpoint=_checkpoint(folder))
    after = None
    if held_out:
        progress.say("evaluating the student as it is")
        after = _plain(trainer.evaluate())
    trainer.save_model(str(folder / "student"))
    if is_main():
        (folder / "student" / "training_args.bin").unlink(
            missing_ok=True
        )  # a pickle, of nothing but what the manifest says
        if (folder / "base").exists():
            (folder / "base").rename(folder / "student" / "base")
        _write_manifest(folder, job, stage, trainer, training, progress, after)


def _rows(folder: Path) -> dict[str, Any]:
    """The rows as memory-mapped data sets, whose cache lies beside them and goes with them."""
    files = {name: folder / f"{name}.jsonl" for name in PARTS}
    cache = str(folder / "cache")
    return {
        name: Dataset.from_json(str(path), cache_dir=cache)
        for name, path in files.items()
        if path.stat().st_size
    }


def _first(folder: Path) -> Row:
    """The first row as the objective has written it: trainers get others made of it."""
    with (folder / "train.jsonl").open("rb") as lines:
        row: Row = loads_own(next(lines))
    return row


def _texts(folder: Path) -> Iterator[str]:
    """All texts that are trained on, for the tiny student's tokenizer."""

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | dict):
            for inner in value.values() if isinstance(value, dict) else value:
                yield from texts(inner)

    with (folder / "train.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            yield from texts(json.loads(line))


def _arguments(folder: Path, stage: Train, learning_rate: float) -> dict[str, Any]:
    """What every trainer is told."""
    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(folder / "checkpoints"),
        "seed": stage.seed,
        "data_seed": stage.seed,
        "num_train_epochs": stage.epochs,
        "max_steps": stage.max_steps or -1,
        "per_device_train_batch_size": stage.batch_size,
        "per_device_eval_batch_size": stage.batch_size,
        "gradient_accumulation_steps": stage.accumulate,
        "gradient_checkpointing": stage.gradient_checkpointing,
        "learning_rate": stage.learning_rate or learning_rate * (10 if stage.lora else 1),
        "lr_scheduler_type": stage.schedule,
        "warmup_steps": stage.warmup,
        "weight_decay": stage.weight_decay,
        "bf16": gpu and torch.cuda.is_bf16_supported(),
        "use_cpu": not gpu,
        "logging_steps": 1 / POINTS,
        "logging_first_step": True,
        "eval_strategy": "no",
        "save_strategy": "no",
        "save_total_limit": 1,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": gpu,
    }


class Progress(TrainerCallback):  # type: ignore[misc]
    """Tells how far the training is, and has a checkpoint made every so many seconds."""

    def __init__(self, folder: Path, save_every_s: float) -> None:
        self._folder, self._save_every_s = folder, save_every_s
        self._energy = Energy()
        self._file = folder / "sessions.json"
        self.sessions: list[dict[str, Any]] = (
            json.loads(self._file.read_bytes()) if self._file.exists() else []
        )
        self.sessions.append({"seconds": 0.0, "joules": None, "from_step": 0})
        self._began = self._saved = time.monotonic()
        self._first = self._written = 0.0
        self._told: dict[str, Any] = {
            "doing": "loading the student",
            "step": 0,
            "steps": 0,
            "loss": None,
            "left_s": None,
        }
        self.say("loading the student")

    def say(self, doing: str) -> None:
        """What is done before and after the steps."""
        self._told |= {"doing": doing, "left_s": None}
        self._tell()

    def _tell(self) -> None:
        if not is_main():
            return
        self._written = time.monotonic()
        self.sessions[-1] |= {"seconds": round(self._written - self._began, 1), "joules": self._energy.joules}
        _write(self._folder / "progress.json", self._told)
        _write(self._file, self.sessions)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note where this session goes on."""
        self.sessions[-1]["from_step"] = state.global_step
        self._first = self._saved = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the newest loss."""
        if logs and "loss" in logs:
            self._told["loss"] = float(logs["loss"])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell, and decide on a checkpoint, for all processes alike."""
        now, done = time.monotonic(), state.global_step - self.sessions[-1]["from_step"]
        left = (state.max_steps - state.global_step) * (now - self._first) / done
        self._told |= {"doing": "", "step": state.global_step, "steps": state.max_steps, "left_s": left}
        due = torch.tensor(float(now - self._saved >= self._save_every_s), device=args.device)
        if torch.distributed.is_initialized():
            torch.distributed.broadcast(due, 0)
        if due.item() and state.global_step < state.max_steps:
            control.should_save, self._saved = True, now
        if now - self._written > WRITE_EVERY_S:
            self._tell()


def _checkpoint(folder: Path) -> str | None:
    """The last whole checkpoint: its state is written after everything else in it."""
    found = {}
    for path in (folder / "checkpoints").glob("checkpoint-*"):
        with suppress(OSError, ValueError):
            found[json.loads((path / "trainer_state.json").read_bytes())["global_step"]] = str(path)
    return found[max(found)] if found else None


def _point_home(trainer: Any, student: str, folder: Path, to: Path) -> None:
    """An adapter names the student that it belongs to: where a tiny one will lie when all is done."""
    if Path(student) == folder / "base":
        for config in getattr(trainer.model, "peft_config", {}).values():
            config.base_model_name_or_path = str(to / "base")


def _plain(metrics: dict[str, float]) -> dict[str, float]:
    """Measurements of the held-out rows, without what they say of speed, and without what is no number."""
    speed = ("runtime", "_per_second", "epoch", "num_tokens", "preparation_time")
    kept = {
        name: value for name, value in metrics.items() if not name.endswith(speed) and math.isfinite(value)
    }
    return {name.removeprefix("eval_"): value for name, value in kept.items()}


def _write_manifest(
    folder: Path,
    job: dict[str, Any],
    stage: Train,
    trainer: Any,
    training: Training,
    progress: Progress,
    after: Any,
) -> None:
    """What the student is, of what and how it was made: written last, so that a student with one is whole."""
    progress.say("writing the student")
    state, config = trainer.state, getattr(trainer.model, "config", None)
    joules = [session["joules"] for session in progress.sessions]
    curve = [[entry["step"], entry["loss"]] for entry in state.log_history if "loss" in entry]
    if lost := sum(not math.isfinite(loss) for _, loss in curve):
        training.counts["of the loss's points no number: take a smaller learning rate"] = lost
    rows = job["data"]["rows"] | dict(training.counts)
    manifest = {
        "student": stage.student,
        "base": "base" if (folder / "student" / "base").exists() else training.student,
        "revision": stage.revision or getattr(config, "_commit_hash", None),
        "kind": "adapter" if stage.lora else "model",
        "api": training.api,
        "objective": stage.objective,
        "options": stage.model_dump(),
        "fingerprint": job["fingerprint"],
        "seed": stage.seed,
        "versions": job["versions"],
        "data": {**job["data"], "rows": rows},
        "files": job["files"],
        "hardware": described(),
        "processes": trainer.args.world_size,
        "seconds": round(sum(session["seconds"] for session in progress.sessions), 1),
        "energy_joules": sum(joules) if None not in joules else "unknown",
        "sessions": progress.sessions,
        "steps": state.global_step,
        "loss_curve": [point for point in curve if math.isfinite(point[1])],
        "held_out": {"base": json.loads((folder / "base.json").read_bytes()), "student": after}
        if after
        else None,
    }
    _write(folder / "student" / "manifest.json", manifest)


def _write(path: Path, value: Any) -> None:
    """Replace a file at once."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(value, indent=1))
    os.replace(fresh, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
