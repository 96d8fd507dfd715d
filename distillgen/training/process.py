"""The process that trains: one for all trainings of a run, because loading torch takes seconds.

`python -m distillgen.training.process` reads jobs from its standard input, whose end ends it. It carries out
each in a process that it forks: so a training begins as in a fresh process, gives all its memory back, also
a GPU's, and fails alone. It answers with the exit code of each. A training continues from the last complete
checkpoint beside its `job.json`, and writes the student and its manifest to `student/`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import threading
import traceback
from collections import Counter
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
from distillgen.networks.spec import is_network
from distillgen.platforms import lock
from distillgen.project import Project, user_error
from distillgen.record import loads_own
from distillgen.training import students
from distillgen.training.hardware import described
from distillgen.training.inputs import Prepared, TrainingInputs
from distillgen.training.job import TrainingJob
from distillgen.training.objective import Objective
from distillgen.training.options import TrainingOptions
from distillgen.training.pictures import IMAGES
from distillgen.training.progress import Progress, is_main, write_json
from distillgen.training.rows import PARTS, Row, RowSelection
from distillgen.training.sparse import restrict
from distillgen.training.surgery import write_student
from distillgen.training.token_rows import TOKENS

POINTS = 500  # of the loss curve


def main(folder: str = "") -> None:
    """Carry out the jobs that standard input names; as one process of several, train as one `folder` says."""
    if folder:
        _carry_out(Path(folder), launched=True)
        return
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    while line := _line():
        os.write(answers, b"taken\n")
        directory, folder = json.loads(line)
        child = os.fork() if _can_fork() else 0
        if not child:
            os.close(answers)
            os.chdir(directory)
            _carry_out(Path(folder))
            return
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(answers, b"%d\n" % code)
    os._exit(0)  # at once: there is nothing to clean up


def _line() -> bytes:
    """Return the next line of standard input, without reading what comes behind it."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


def _can_fork() -> bool:
    """Return whether a forked process can train: on Linux, while nobody has called a GPU's driver.

    If not, this process carries out the job itself and ends; the next job begins another.
    """
    if sys.platform != "linux":  # macOS' frameworks do not survive a fork, and Windows has none
        return False
    loaded = Path("/proc/self/maps").read_text()
    return not any(driver in loaded for driver in ("libcuda.so", "libamdhip64.so", "libze_loader.so"))


def _carry_out(folder: Path, *, launched: bool = False) -> None:
    """Train, in as many processes as the options say; leave any failure in `error.json`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if not launched:
        _write_output_to(folder / "output.txt")
    job = TrainingJob.model_validate_json((folder / "job.json").read_bytes())
    processes = job.options.processes or max(1, torch.cuda.device_count())
    if not launched and (job.options.accelerate or processes > 1):
        _launch(folder, job, processes)
    try:
        with (folder / "lock").open("w") as stream:
            if is_main():
                lock(stream.fileno(), wait=True)  # a process whose parent was killed may still be ending
            train(folder, job)
    except DistillgenError as error:
        write_json(folder / "error.json", {"message": str(error), "mistake": True})
        raise SystemExit(2) from error
    except Exception as error:  # any failure of a library ends here; its traceback goes to output.txt
        traceback.print_exc()
        message = f"{type(error).__name__}: {str(error).strip()[:600]} (more in {folder / 'output.txt'})"
        place = user_error(error, "the training")
        code = {"path": str(place.path), "line": place.line} if place.path else {}
        write_json(folder / "error.json", {"message": message, "mistake": False, **code})
        raise SystemExit(1) from error


def _write_output_to(file: Path) -> None:
    """Let what this process prints go to a file."""
    with file.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)


def _end_with_parent() -> None:
    """End this process when its standard input is closed, which the parent's end closes."""
    while os.read(0, 1024):
        pass
    os._exit(1)


def _launch(folder: Path, job: TrainingJob, processes: int) -> None:
    """Become accelerate's launcher, which starts this module in every process."""
    if job.options.accelerate:
        options = ["--config_file", str(Project(job.root).file(job.options.accelerate))]
    else:
        options = ["--num_processes", str(processes), *(["--multi_gpu"] if processes > 1 else [])]
        options += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        options += ["--main_process_port", "0"]
    module = ["-m", "distillgen.training.process", str(folder)]
    os.execv(sys.executable, [sys.executable, "-m", "accelerate.commands.launch", *options, *module])


def train(folder: Path, job: TrainingJob) -> None:
    """Train from the last checkpoint on, if there is one, and write the student to `folder`/student."""
    progress = Progress(folder, job.options.save_every_s)
    set_seed(job.options.seed)
    project = Project(job.root, frozenset(job.files))
    learning = job.learning(project)
    with PartialState(cpu=not torch.cuda.is_available()).main_process_first():
        size = students.WIDE if {*TOKENS} <= _first(folder).keys() else students.VOCABULARY
        if is_main():
            _undo_end(folder)
        tiny = job.options.tiny
        student = job.start
        if not job.options.network and not is_network(job.start):
            student = students.ready(
                job.start,
                job.root,
                folder / "base",
                _texts(folder),
                vocabulary=size,
                tiny=tiny,
                tokens=job.models[tiny.donor] if tiny and tiny.donor else None,
            )
        if surgery := job.options.surgery:
            revision = job.options.revision
            student = str(write_student(surgery, student, folder / "made", _texts(folder), revision))
    progress.say("counting tokens")
    inputs = _inputs(folder, job, student, learning, project)
    prepared = learning.prepare(inputs)
    trainer = prepared.trainer
    if only := job.options.only:
        restrict(prepared.student or trainer.model, job.models[only.changed_by], only.density)
    held_out = trainer.eval_dataset is not None
    if held_out:
        trainer.add_callback(FirstEvaluation(trainer, folder / "base.json", progress))
    trainer.add_callback(progress)
    _point_home(prepared, student, folder, job.to)
    trainer.train(resume_from_checkpoint=_checkpoint(folder))
    after = None
    if held_out:
        progress.say("evaluating the student as it is")
        after = _finite(trainer.evaluate())
    trainer.save_model(str(folder / "student"))
    if is_main():
        # a pickle of the arguments, which the manifest has
        (folder / "student" / "training_args.bin").unlink(missing_ok=True)
        if (folder / "base").exists():
            (folder / "base").rename(folder / "student" / "base")
        _write_manifest(folder, job, inputs, prepared, progress, after)


def _undo_end(folder: Path) -> None:
    """Undo what a process did that was killed while it wrote the student: the base goes back to its place."""
    if (folder / "student" / "base").exists() and not (folder / "base").exists():
        (folder / "student" / "base").rename(folder / "base")
    shutil.rmtree(folder / "student", ignore_errors=True)


class FirstEvaluation(TrainerCallback):  # type: ignore[misc]
    """Evaluates the student before its first step, when the trainer has wrapped it for several processes.

    A model that is evaluated earlier is never wrapped: each process would train a student of its own.
    """

    def __init__(self, trainer: Any, file: Path, progress: Progress) -> None:
        self._trainer, self._file, self._progress = trainer, file, progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the figures, unless an interrupted training has written them."""
        exists = [self._file.exists()]
        if torch.distributed.is_initialized():  # the first process may write the file while another looks
            torch.distributed.broadcast_object_list(exists, 0)
        if not exists[0]:
            self._progress.say("evaluating the student as it was")
            write_json(self._file, _finite(self._trainer.evaluate()))


def _inputs(
    folder: Path, job: TrainingJob, student: str, learning: Objective, project: Project
) -> TrainingInputs:
    """Return what the objective prepares its trainer from."""
    options, template = job.options, job.options.chat_template
    return TrainingInputs(
        student,
        RowSelection(_rows(folder)),
        _arguments(folder, options, learning.rate()),
        options.max_length,
        options.revision,
        options.dtype or ("bfloat16" if options.lora and torch.cuda.is_available() else "float32"),
        options.lora,
        project.file(template).read_text() if template else None,
        project=project,
        network=options.network,
        models=job.models,
        shuffled=job.stage.get("on") == "shuffled",
        api=learning.api(_first(folder)),
    )


def _rows(folder: Path) -> dict[str, Any]:
    """Return the rows of each part as memory-mapped data sets, with their cache beside them."""
    files = {name: folder / f"{name}.jsonl" for name in PARTS.values()}
    cache = str(folder / "cache")
    return {
        name: Dataset.from_json(str(path), cache_dir=cache)
        for name, path in files.items()
        if path.stat().st_size
    }


def _first(folder: Path) -> Row:
    """Return the first row as the objective wrote it."""
    with (folder / "train.jsonl").open("rb") as lines:
        row: Row = loads_own(next(lines))
    return row


def _texts(folder: Path) -> Iterator[str]:
    """Yield all texts of the training rows, for the tokenizer of a tiny student."""

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | dict):
            for inner in value.values() if isinstance(value, dict) else value:
                yield from texts(inner)

    with (folder / "train.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield from texts({name: value for name, value in row.items() if name not in ("id", IMAGES)})


def _arguments(folder: Path, options: TrainingOptions, learning_rate: float) -> dict[str, Any]:
    """Return the arguments of every trainer."""
    gpu = torch.cuda.is_available()
    optimizer = {"optim": "sgd"} if options.optimizer == "sgd" else {}
    return {
        **optimizer,
        "output_dir": str(folder / "checkpoints"),
        "seed": options.seed,
        "data_seed": options.seed,
        "num_train_epochs": options.epochs,
        "max_steps": options.max_steps or -1,
        "per_device_train_batch_size": options.batch_size,
        "per_device_eval_batch_size": options.batch_size,
        "gradient_accumulation_steps": options.accumulate,
        "gradient_checkpointing": options.gradient_checkpointing,
        "learning_rate": options.learning_rate or learning_rate * (10 if options.lora else 1),
        "lr_scheduler_type": options.schedule,
        "warmup_steps": options.warmup,
        "weight_decay": options.weight_decay,
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


def _checkpoint(folder: Path) -> str | None:
    """Return the last complete checkpoint: its state is written after its other files."""
    checkpoints = {}
    for path in (folder / "checkpoints").glob("checkpoint-*"):
        with suppress(OSError, ValueError):
            checkpoints[json.loads((path / "trainer_state.json").read_bytes())["global_step"]] = str(path)
    return checkpoints[max(checkpoints)] if checkpoints else None


def _point_home(prepared: Prepared, student: str, folder: Path, to: Path) -> None:
    """Write into an adapter of a tiny student the path that the student will have after the training."""
    if Path(student) == folder / "base":
        for config in getattr(prepared.student or prepared.trainer.model, "peft_config", {}).values():
            config.base_model_name_or_path = str(to / "base")


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    """Return the measurements of the held-out rows, without those of speed, and without NaN and infinity."""
    speed = ("runtime", "_per_second", "epoch", "num_tokens", "preparation_time")
    finite = {
        name: value for name, value in metrics.items() if not name.endswith(speed) and math.isfinite(value)
    }
    return {name.removeprefix("eval_"): value for name, value in finite.items()}


def _write_manifest(
    folder: Path,
    job: TrainingJob,
    inputs: TrainingInputs,
    prepared: Prepared,
    progress: Progress,
    after: dict[str, float] | None,
) -> None:
    """Write how the student was made. It is written last, so that a student with a manifest is whole."""
    progress.say("writing the student")
    trainer, counts = prepared.trainer, Counter(prepared.counts)
    options, state, config = (
        job.options,
        trainer.state,
        getattr(prepared.student or trainer.model, "config", None),
    )
    start = job.start if options.surgery else inputs.student
    joules = [session["joules"] for session in progress.sessions]
    curve = [[entry["step"], entry["loss"]] for entry in state.log_history if "loss" in entry]
    if lost := sum(not math.isfinite(loss) for _, loss in curve):
        counts["of the loss's points no number: take a smaller learning rate"] = lost
    before = json.loads((folder / "base.json").read_bytes()) if after else None
    manifest = {
        "student": options.student,
        "base": "base" if (folder / "student" / "base").exists() else start or None,
        "revision": options.revision or getattr(config, "_commit_hash", None),
        "kind": "network" if is_network(folder / "student") else "adapter" if options.lora else "model",
        "api": inputs.api,
        "gives": job.learning(Project(job.root, frozenset(job.files))).gives(),
        "classes": [*prepared.classes],
        "objective": options.objective,
        "options": job.stage,
        "fingerprint": job.fingerprint,
        "seed": options.seed,
        "versions": job.versions,
        "data": {**job.data.model_dump(), "rows": job.data.rows | dict(counts)},
        "files": job.files,
        "hardware": described(),
        "processes": trainer.args.world_size,
        "seconds": round(sum(session["seconds"] for session in progress.sessions), 1),
        "energy_joules": sum(joules) if None not in joules else "unknown",
        "sessions": progress.sessions,
        "steps": state.global_step,
        "loss_curve": [point for point in curve if math.isfinite(point[1])],
        "held_out": {"base": before, "student": after} if after else None,
    }
    write_json(folder / "student" / "manifest.json", manifest)


if __name__ == "__main__":
    main(*sys.argv[1:])
