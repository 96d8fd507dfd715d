"""train: a student learns from the records that reach this stage, in a process of its own."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import logging
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import ConfigDict, Field, model_validator

from distillgen import students
from distillgen.errors import ConfigError, DistillgenError, did_you_mean
from distillgen.extras import need
from distillgen.marked import Places, validate
from distillgen.objectives import PARTS, Lora, Objective, Row, Unusable, objective_class
from distillgen.project import Project, file_sha256
from distillgen.record import SPLIT, Record, digest, dumps
from distillgen.signals import Logprobs, unpack
from distillgen.stages import Checking, Chunk, Chunks, Job, Stage
from distillgen.stages._whole_set import Spool
from distillgen.teachers import Spec
from distillgen.teachers.transformers import TransformersSpec
from distillgen.wording import duration, number

log = logging.getLogger("distillgen")

LOOK_EVERY_S = 0.3
ALWAYS = ("torch", "transformers", "datasets", "accelerate")
VERSIONED = ("distillgen", *ALWAYS, "trl", "peft", "tokenizers", "sentence-transformers")
QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1"}


class Train(Stage):
    """Train a student into `student/` of the run directory; the records pass unchanged.

    The training is resumed where it was killed or stopped, from its last checkpoint, and not repeated where records, options
    and package versions are the same. Options of the objective stand beside these.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    kind = "train"

    objective: str = Field("sft", description="how it learns: a file in objectives/, without its ending")
    student: str = Field(
        description="a model's folder, a .gguf file, owner/name on the Hugging Face Hub, tiny, or what an earlier stage trained"
    )  # fmt: skip
    revision: str | None = Field(None, description="the branch, tag or commit of a student on the Hub")
    lora: Lora | None = Field(None, description="train an adapter: {r: 16}; with bits: 4 as QLoRA; default: all weights")
    epochs: float = Field(3.0, gt=0, description="how often every row is seen")
    max_steps: int | None = Field(None, ge=1, description="updates of the weights after which it ends, whatever the epochs")
    batch_size: int = Field(8, ge=1, description="rows that a process computes at a time")
    accumulate: int = Field(1, ge=1, description="batches that one update of the weights is made of")
    learning_rate: float | None = Field(None, gt=0, description="default: the objective's own; ten times that with lora")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="how the learning rate falls")
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(0.0, ge=0)
    max_length: int = Field(1024, ge=8, description="tokens of a row; what is longer is cut at its end")
    dtype: Literal["float32", "bfloat16"] | None = Field(None, description="default: float32; for lora on a GPU bfloat16")
    gradient_checkpointing: bool = Field(False, description="less memory, a fifth more time")
    chat_template: str | None = Field(None, description="a Jinja file, instead of the student's own chat template")
    on: Literal["kept", "raw", "random", "shuffled"] = Field(
        "kept", description="or a control arm of as many rows: the first of all, any of all, the kept with each other's answers"
    )
    held_out: float = Field(0.1, ge=0, lt=1, description="share of the source's items, with all their rows, only evaluated")
    seed: int = Field(0, ge=0, description="of the split, new weights, dropout and the order of rows")
    save_every_s: float = Field(120.0, ge=0, description="seconds between checkpoints: what a kill can lose")
    processes: int | None = Field(None, ge=1, description="processes that train together; default: one a GPU")
    accelerate: str | None = Field(None, description="a configuration file of accelerate's launcher, instead of processes")

    @model_validator(mode="after")
    def _one_way(self) -> Train:
        if self.processes and self.accelerate:
            raise ValueError("give either 'processes' or 'accelerate': the launcher's file says how many processes")
        return self

    @property
    def learning(self) -> Objective:
        """The objective with its options. Raises ConfigError."""
        found, given = objective_class(self.objective), self.model_extra or {}
        for option in given:
            if option not in found.model_fields:
                known = sorted({*Train.model_fields, *found.model_fields})
                raise ConfigError(f"objective '{self.objective}' has no option '{option}'{did_you_mean(option, known)}")
        return validate(found, given, what=f"objective '{self.objective}'", places=Places())

    def folder(self, directory: Path) -> Path:
        """Where the student goes in a run directory."""
        return directory / ("student" if self.name == self.kind else f"student-{self.name}")

    def start(self, directory: Path) -> str:
        """What the student begins as: an earlier stage's one is a folder in the run directory."""
        return str(directory / self.student) if students.OF_STAGE.fullmatch(self.student) else self.student

    def files(self, project: Project) -> dict[str, Path]:
        """Student and teacher where they are local ones, and the files that options name."""
        named = {name: project.file(name) for name in (self.chat_template, self.accelerate) if name}
        models = [self.student, str((self.model_extra or {}).get("teacher") or self.student)]
        return named | {name: path for name in models if (path := students.local(name, project.root))}

    def makes(self, directory: Path) -> dict[str, Spec]:
        """The student, and what it is made from, where they write texts."""
        if not self.learning.writes:
            return {}
        folder = self.folder(directory)
        models = {folder.name: str(folder)}
        if not students.is_gguf(self.student):  # which is converted before it can be asked
            base = str(folder / "base") if self.student == students.TINY else self.start(directory)
            models[folder.name.replace("student", "base", 1)] = base
        return {name: TransformersSpec(provider="transformers", model=model) for name, model in models.items()}

    def products(self, directory: Path) -> list[Path]:
        """The student's manifest, which is written last."""
        return [self.folder(directory) / "manifest.json"]

    def check(self, given: Checking) -> frozenset[str]:
        """Objective, options, fields, student and packages are there, and QLoRA has its GPU."""
        learning = self.learning
        try:
            learning.check(given)
        except ConfigError as error:
            raise ConfigError(f"objective '{self.objective}': {error.message}") from error
        trained = [stage.folder(Path()).name for stage in given.stages if isinstance(stage, Train)]
        if self.student not in trained:
            students.check(self.student, given.project.root, trained)
        self.files(given.project)
        if self.on == "shuffled" and not learning.answers:
            raise ConfigError(f"objective '{self.objective}' has no answers that could be shuffled")
        if self.lora and not learning.adapters:
            raise ConfigError(f"objective '{self.objective}' trains all weights: leave out 'lora'")
        if self.lora and self.lora.bits:
            if not any(path for kind in ("nvidia[0-9]*", "kfd", "dxg") for path in Path("/dev").glob(kind)):
                remedy = "leave out bits, or train on a machine with one"
                raise ConfigError(f"lora: bits: {self.lora.bits} (QLoRA) needs a GPU, and this machine has none; {remedy}")
            if importlib.util.find_spec("bitsandbytes") is None:
                raise ConfigError("lora: bits: 4 (QLoRA) needs bitsandbytes: pip install bitsandbytes")
        needed = [*ALWAYS, *learning.packages, *(["peft"] if self.lora else [])]
        if students.is_gguf(self.student):
            needed.append("gguf")
        need(f"objective '{self.objective}'", *needed)
        return given.fields

    def part(self, record: Record) -> str:
        """Whether a record is trained on or held out: as its `split` says, or else by its source item, of which no row lands
        on the other side.
        """
        if SPLIT in record.fields:
            return PARTS[record.held_out]
        return PARTS[int(digest([self.seed, record.source], 8), 16) < self.held_out * 16**8]

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Write down what there is to learn, train on it, and pass the records on."""
        student = self.folder(job.directory)
        work = student.with_name(f"{student.name}.partial")
        with Spool(job) as spool:
            told = await self._written(chunks, job, spool, work)
            manifest = student / "manifest.json"
            if _fingerprint(manifest) != told["fingerprint"]:
                await self._train(work, told, job)
                shutil.rmtree(student, ignore_errors=True)
                (work / "student").rename(student)
            shutil.rmtree(work)
            job.measured[self.name] = _measured(orjson.loads(manifest.read_bytes()))
            for chunk in spool.chunks():
                yield chunk

    async def _written(self, chunks: Chunks, job: Job, spool: Spool, work: Path) -> dict[str, Any]:
        """Write the rows of all live records, and tell what the training is to know. Checkpoints of another one are removed."""
        sha, counts = hashlib.sha256(), Counter[str]()
        async for chunk in chunks:
            spool.add(chunk)
        fresh = work.with_name(f"{work.name}.rows")
        fresh.mkdir(exist_ok=True)
        with (fresh / "train.jsonl").open("wb") as train, (fresh / "held_out.jsonl").open("wb") as held_out:
            files = dict(zip(PARTS, (train, held_out), strict=True))
            for part, row in self._arm(spool, job, counts):
                line = dumps(row) + b"\n"
                counts[part] += 1
                files[part].write(line)
                sha.update(part.encode() + line)
        if not counts["train"]:
            shutil.rmtree(fresh)
            lost = Counter(record.dropped.filter for chunk in spool.chunks() for record in chunk if record.dropped)
            reasons = [f"{n} {why}" for why, n in counts.items() if why not in PARTS]
            reasons += [f"{n} dropped by {name}" for name, n in lost.most_common()]
            what = ", ".join(reasons) or "no record came so far"
            raise ConfigError(f"stage '{self.name}': there is nothing to train on: {what}")
        how = self.model_dump(exclude={"name", "save_every_s"})
        start = self.start(job.directory.resolve())
        if start != self.student:
            how["student"] = _fingerprint(Path(start) / "manifest.json")
            if not how["student"]:
                remedy = "inside rounds a student begins as one that the same round trains"
                raise ConfigError(f"stage '{self.name}': there is no student in {start}; {remedy}")
        own = {name: file_sha256(path) for name, path in self.files(job.project).items()}
        versions = {"python": ".".join(map(str, sys.version_info[:3])), **_versions()}
        told = {
            "fingerprint": digest([sha.hexdigest(), how, own, versions], 64), "stage": self.model_dump(), "versions": versions,
            "root": str(job.project.root), "data": {"sha256": sha.hexdigest(), "rows": dict(counts)}, "files": own,
            "start": start, "to": str(self.folder(job.directory).resolve()),
        }  # fmt: skip
        if _fingerprint(work / "job.json") != told["fingerprint"]:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
        for file in fresh.iterdir():
            file.rename(work / file.name)
        fresh.rmdir()
        (work / "job.json").write_bytes(dumps(told))
        return told

    def _arm(self, spool: Spool, job: Job, counts: Counter[str]) -> Iterator[tuple[str, Row]]:
        """The rows of what is learnt from, with their parts; a control arm has as many as were kept, and the held-out ones."""
        kept = self._rows(spool, job, counts)
        chance = random.Random(self.seed)
        if self.on == "kept":
            yield from kept
        elif self.on == "shuffled":
            rows = list(kept)
            answers = [{n: row[n] for n in self.learning.answers if n in row} for part, row in rows if part == "train"]
            if not all(answers):
                raise ConfigError(f"stage '{self.name}': whole chats cannot be shuffled: leave out loss: assistant")
            others = iter(chance.sample(answers, len(answers)))
            yield from ((part, {**row, **next(others)} if part == "train" else row) for part, row in rows)
        else:
            wanted = 0
            for part, row in kept:
                wanted += part == "train"
                if part != "train":
                    yield part, row
            total = sum(part == "train" for part, _ in self._rows(spool, job, Counter(), dropped=True))
            taken = set(range(wanted)) if self.on == "raw" else set(chance.sample(range(total), wanted))
            pool = (row for part, row in self._rows(spool, job, Counter(), dropped=True) if part == "train")
            yield from (("train", row) for i, row in enumerate(pool) if i in taken)

    def _rows(self, spool: Spool, job: Job, counts: Counter[str], *, dropped: bool = False) -> Iterator[tuple[str, Row]]:
        """What each kept record teaches, or each that there was, with its part; those that teach nothing are counted."""
        learning = self.learning
        for chunk in spool.chunks():
            some = [record for record in chunk if dropped or not record.dropped]
            for record, signals in zip(some, _signals(some, job) if learning.signals else [{} for _ in some], strict=True):
                try:
                    yield self.part(record), learning.row(record, signals)
                except Unusable as why:
                    counts[f"left out: {why}"] += 1

    async def _train(self, work: Path, told: Mapping[str, Any], job: Job) -> None:
        """Carry the training out in a process that ends when its standard input does, so that it never outlives this one."""
        (work / "error.json").unlink(missing_ok=True)
        with (work / "output.txt").open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "distillgen.training", str(work / "job.json"), env={**os.environ, **QUIET},
                stdin=asyncio.subprocess.PIPE, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        job.notes[self.name] = "starting"
        ended = asyncio.create_task(process.wait())
        try:
            while not (await asyncio.wait([ended], timeout=LOOK_EVERY_S))[0]:
                job.notes[self.name] = _told(work)
        finally:
            del job.notes[self.name]
            assert process.stdin
            process.stdin.close()
            await ended
        if process.returncode:
            raise self._failure(process.returncode, work)

    def _failure(self, code: int, work: Path) -> DistillgenError:
        """What the process said of its end; else what it printed last."""
        with suppress(FileNotFoundError):
            told = orjson.loads((work / "error.json").read_bytes())
            return (ConfigError if told["mistake"] else DistillgenError)(f"stage '{self.name}': {told['message']}")
        how = "was killed (is there memory enough?)" if code < 0 else f"ended with exit code {code}"
        lines = (work / "output.txt").read_text(errors="replace").strip().splitlines()[-3:]
        message = f"the training {how}: {' | '.join(lines)} (all that it printed is in {work / 'output.txt'})"
        return DistillgenError(f"stage '{self.name}': {message}")


def _signals(records: Chunk, job: Job) -> list[dict[str, Logprobs]]:
    """For each record, the log-probabilities of the answers in its lineage, by the stage that asked."""
    keys = {made["key"]: bytes.fromhex(made["key"]) for record in records for made in record.made}
    found = job.ledger.find(list(keys.values()))

    def of(record: Record) -> dict[str, Logprobs]:
        blobs = {made["stage"]: found[keys[made["key"]]][2] for made in record.made if keys[made["key"]] in found}
        return {stage: unpack(blob)[0] for stage, blob in blobs.items() if blob}

    return [of(record) for record in records]


def _fingerprint(file: Path) -> str | None:
    """Of the training that a job or a manifest tells of."""
    return str(orjson.loads(file.read_bytes())["fingerprint"]) if file.exists() else None


def _versions() -> dict[str, str]:
    versions = {}
    for name in VERSIONED:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _told(work: Path) -> str:
    """The line of a training that goes on."""
    try:
        told = json.loads((work / "progress.json").read_bytes())
    except FileNotFoundError:
        return "loading torch and the student"
    parts = [told["doing"] or f"step {told['step']:,}/{told['steps']:,}"]
    parts += [f"loss {number(told['loss'])}"] if told["loss"] is not None else []
    parts += [f"{duration(told['left_s'])} left"] if told["left_s"] is not None else []
    return "  ".join(parts)


def _measured(manifest: Mapping[str, Any]) -> dict[str, float]:
    """What the report and the stage's line tell of a finished training."""
    loss, held_out = manifest["loss_curve"], manifest["held_out"]
    told = {"steps": manifest["steps"], **({"loss": loss[-1][1]} if loss else {})}
    if held_out:
        told |= {"held-out loss": held_out["student"]["loss"], "before": held_out["base"]["loss"]}
    return told | {why: count for why, count in manifest["data"]["rows"].items() if why not in PARTS}
