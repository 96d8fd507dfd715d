"""rounds: a list of stages, again and again over the same records, each round with what the ones before it made.

What a round makes is a pure function of the pool, the rounds before it, the stages and the ledger. A finished round is kept
as it is; one that was interrupted is carried out again, and the ledger answers what had been asked.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field

from distillgen.errors import ConfigError, Stopped
from distillgen.marked import Places
from distillgen.project import Project, file_sha256
from distillgen.record import SPLIT, Record, digest, dumps, loads_own
from distillgen.stages import CHUNK, Checking, Chunks, Estimate, Job, Stage, stage_class
from distillgen.stages._checked import checked, guarded
from distillgen.stages._whole_set import Spool
from distillgen.teachers import Spec, Teacher

ASKED = ("requests", "input_tokens", "output_tokens", "max_cost_usd")
ROUND, ITEM = "round", "item"  # the fields that tell the round that a record belongs to, and its record in the pool


class Rounds(Stage):
    """Repeat `stages`. Each record that reaches this stage is offered in every round, with the field `round`, until one keeps
    what became of it; `item` is its id in the pool. Stages of a round can ask the student that the round before has trained,
    and reach the records that earlier rounds kept, with `replay` and `retrieve`. What leaves is what each round kept, in order,
    and last, what none did with the reason of the last one.

    It ends after `n` rounds, when one keeps nothing, when `until` is reached, or when a `guard` falls. These name measures of
    the round's stages, as the report shows them, such as `evaluate.student.numeric` and `diversity.vendi`, or `kept`.
    """

    kind = "rounds"

    stages: list[dict[str, Any]] = Field(min_length=1, description="the stages of a round, as in a pipeline, without a source")
    n: int = Field(3, ge=1, description="most rounds")
    repeat: bool = Field(False, description="offer what a round has kept in the next ones, too")
    until: dict[str, float] = Field({}, description="end when each of these measures is at least so large")
    guard: dict[str, float] = Field({}, description="end when one of these falls by more than this share below its best so far")

    def within(self, given: Checking) -> tuple[tuple[Stage, ...], tuple[frozenset[str], ...]]:
        """The stages of a round and the fields after each; what they train can be asked from the first one on."""
        models = {name: spec for stage in self._likely() for name, spec in stage.makes(Path()).items()}
        fields = given.fields | {ROUND, ITEM}
        return checked(self.stages, Places(), replace(given, fields=fields, models={**given.models, **models}), sourced=False)

    def _likely(self, written: Sequence[Mapping[str, Any]] = ()) -> Iterator[Stage]:
        """The nested stages as they are written; a mistake in one is told where it is checked."""
        for item in written or self.stages:
            for kind, options in item.items():
                with suppress(ValueError, ConfigError):
                    options = {"filters": options} if isinstance(options, list) else options or {}
                    yield stage_class(kind).model_validate({"name": kind, **options})

    def files(self, project: Project) -> dict[str, Path]:
        """What the nested stages read."""
        return {name: path for stage in self._likely() for name, path in stage.files(project).items()}

    def models(self, project: Project) -> list[str]:
        """Whom the nested stages ask."""
        return [*dict.fromkeys(name for stage in self._likely() for name in stage.models(project))]

    def makes(self, directory: Path) -> Mapping[str, Spec]:
        """What the last round trained."""
        return {name: spec for stage in self._likely() for name, spec in stage.makes(directory / self.name / "last").items()}

    def check(self, given: Checking) -> frozenset[str]:
        """The nested stages fit together, in the first round and in the next ones."""
        for name in (ROUND, ITEM):
            if name in given.fields:
                raise ConfigError(f"the records have a field '{name}', which tells of rounds; give it another name")
        stages, fields = self.within(given)
        for name in (*self.until, *self.guard):
            stage = name.partition(".")[0]
            if name != "kept" and stage not in [each.name for each in stages]:
                raise ConfigError(f"'{name}' is no measure: it begins with the name of a nested stage, or is 'kept'")
        return fields[-1]

    def estimate(self, before: Estimate, samples: Sequence[Record], given: Checking) -> Estimate:
        """That of a round, as often as there can be rounds."""
        stages, fields = self.within(given)
        models = {**given.models, **self.makes(Path())}
        last, asked = before, dict.fromkeys(ASKED, 0)
        for stage, own in zip(stages, fields, strict=True):
            last = stage.estimate(last, samples, replace(given, fields=own, models=models))
            asked = {name: _sum(asked[name], getattr(last, name)) for name in ASKED}
        every = {name: None if value is None else value * self.n for name, value in asked.items()}
        return replace(last, rows=None if last.rows is None else last.rows * self.n, **every)

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Carry the rounds out that are not yet, then let their records go."""
        folder = job.directory / self.name
        own = {name: file_sha256(path) for name, path in self.files(job.project).items()}
        known = digest([self.model_dump(exclude={"n", "until", "guard"}), own, job.seed])
        with Spool(job) as pool:
            sha, split = hashlib.sha256(), False
            async for chunk in chunks:
                pool.add(chunk)
                sha.update(dumps([[record.id, record.dropped is None] for record in chunk]))
                split = split or any(SPLIT in record.fields for record in chunk)
            stages = list(self._likely(guarded(self.stages, job.project, split=split)))
            for chunk in pool.chunks():
                if out := [record for record in chunk if record.dropped]:
                    yield out
            state, history, kept = digest([known, sha.hexdigest()]), list[dict[str, float]](), set[str]()
            why, done = f"after {self.n} rounds", list[Path]()
            for number in range(self.n):
                place = folder / f"{number:02d}"
                if job.retry_failed or _told(place).get("state") != state:
                    offered = (record for chunk in pool.chunks() for record in chunk if not record.dropped)
                    pending = (record for record in offered if self.repeat or record.id not in kept)
                    within = replace(job, directory=place, earlier=tuple(done), history=tuple(history), measured={})
                    await self._round(number, pending, stages, state, within)
                told = _told(place)
                state = digest([state, told["sha256"]])
                history.append(told["measured"])
                done.append(place)
                kept |= {str(record.fields[ITEM]) for record in records_of(place) if not record.dropped}
                if reason := self._ends(history):
                    why = reason
                    break
            for stale in sorted(folder.glob("[0-9][0-9]*"))[len(done) :]:
                shutil.rmtree(stale)
            with suppress(FileNotFoundError):
                (folder / "last").unlink()
            os.symlink(done[-1].name, folder / "last")
            (folder / "rounds.json").write_bytes(dumps({"ended": why, "rounds": history}) + b"\n")
            job.measured[self.name] = {"rounds": len(done), **{f"{name}, last round": n for name, n in history[-1].items()}}
            leaving = chain.from_iterable((r for r in records_of(place) if not r.dropped) for place in done)
            left = (r for r in records_of(done[-1]) if r.dropped and r.fields.get(ITEM) not in kept)
            out_of = chain(leaving, left)
            while out := list(islice(out_of, CHUNK)):
                yield out

    async def _round(self, number: int, pool: Iterator[Record], stages: Sequence[Stage], state: str, job: Job) -> None:
        """Carry one round out in its directory; `round.json` is written last."""
        place = job.directory
        place.mkdir(parents=True, exist_ok=True)
        (place / "round.json").unlink(missing_ok=True)

        async def offered() -> Chunks:
            while some := list(islice(pool, CHUNK)):
                yield [_offered(record, number, self.name) for record in some]

        asked, hired = dict(job.teachers), list[Teacher]()

        def hire(found: Mapping[str, Spec]) -> None:
            hired.extend(job.teacher(name, spec) for name, spec in found.items())
            asked.update((teacher.name, teacher) for teacher in hired)

        chunks: Chunks = offered()
        for stage in stages:  # before it trains, the student of the round before; in the first round, what it is made from
            made = stage.makes(job.earlier[-1] if job.earlier else place)
            hire(made if job.earlier else {name: made["base"] for name in made if "base" in made})
        for stage in stages:
            chunks = stage.run(chunks, replace(job, teachers=dict(asked)))
            hire(stage.makes(place))
        sha, kept = hashlib.sha256(), 0
        partial = place / "records.jsonl.partial"
        try:
            with partial.open("wb") as out:
                async for chunk in chunks:
                    for record in chunk:
                        if record.fields.get(ROUND) == number:  # not what `replay` brought
                            line = dumps(record.row(), sort_keys=False) + b"\n"
                            out.write(line)
                            sha.update(line)
                            kept += record.dropped is None
        finally:
            await chunks.aclose()
            for teacher in hired:
                await teacher.stop(Stopped("the round is over"))
                await teacher.close()
        partial.replace(place / "records.jsonl")
        measured = {f"{stage}.{name}": value for stage, found in job.measured.items() for name, value in found.items()}
        told = {"state": state, "sha256": sha.hexdigest(), "measured": {"kept": kept, **measured}}
        (place / "round.json").write_bytes(dumps(told) + b"\n")

    def _ends(self, history: Sequence[Mapping[str, float]]) -> str:
        """Why the loop ends after the last of these rounds; nothing where it goes on."""
        last = history[-1]
        if not last["kept"]:
            return "a round kept nothing"
        if self.until and all(last.get(name, float("-inf")) >= least for name, least in self.until.items()):
            return "reached " + ", ".join(f"{name} {last[name]:g} >= {least:g}" for name, least in self.until.items())
        for name, share in self.guard.items():
            best = max(measured.get(name, float("-inf")) for measured in history)
            if last.get(name, best) < best - share * abs(best):
                return f"{name} fell to {last[name]:g}, more than {share:.0%} below {best:g}"
        return ""


def _offered(record: Record, number: int, stage: str) -> Record:
    """A record of the pool as one of a round, with an id of its own, so that what is drawn for it is drawn anew."""
    fields = {**record.fields, ROUND: number, ITEM: record.id}
    return replace(record, id=digest([record.id, stage, number]), fields=fields, parents=(record.id,))


def _told(place: Path) -> dict[str, Any]:
    """What a finished round has left; nothing of one that is not."""
    with suppress(FileNotFoundError):
        told: dict[str, Any] = orjson.loads((place / "round.json").read_bytes())
        return told
    return {}


def records_of(place: Path) -> Iterator[Record]:
    """The records of a finished round, in order."""
    with (place / "records.jsonl").open("rb") as lines:
        yield from (Record.from_row(loads_own(line)) for line in lines)


def _sum(total: Any, own: Any) -> Any:
    return None if total is None or own is None else total + own
