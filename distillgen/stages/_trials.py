"""The trials of a search, as they are carried out, and what comes of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from distillgen.algorithms.rank_correlation import kendall_tau
from distillgen.errors import ConfigError, DistillgenError, Stopped, did_you_mean
from distillgen.flow.measures import Measure, by_title
from distillgen.flow.stage import BoundStage, CheckContext, Job
from distillgen.flow.whole_set import Spool
from distillgen.networks.spec import NetworkSpec
from distillgen.project import file_sha256
from distillgen.record import TRAIN, Record, digest, dumps
from distillgen.stages._one_round import Round
from distillgen.stages._proposals import Choices, Proposals
from distillgen.stages._rounds import finished_round
from distillgen.stages._search_money import MoneyShort, SearchMoney
from distillgen.stages._search_options import USD, SearchOptions
from distillgen.state_files import Damaged, load_state, remove_folder, replace_bytes, replace_link
from distillgen.training.options import TrainingOptions
from distillgen.training.score import Score

FILE = "trial.json"
END = "search.json"  # is there if the search has ended
BEST = "best"  # the link to the folder of the best trial


@dataclass
class Trial:
    """What came of one combination: a row of `trials.jsonl`."""

    trial: int
    """The place in the order in which the strategy proposed it."""
    choices: dict[str, Any]
    status: Literal["finished", "failed", "skipped"] = "finished"
    reason: str = ""
    value: float | None = None
    """The number by which the search chooses."""
    scores: dict[str, float] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)
    usd: float = 0.0
    seconds: float = 0.0

    def write(self, folder: Path, state: str) -> None:
        """Write `trial.json`, which marks the trial as ended."""
        folder.mkdir(parents=True, exist_ok=True)
        replace_bytes(folder / FILE, dumps({"state": state, "trial": asdict(self)}) + b"\n")


def ended_trial(folder: Path, state: str) -> Trial | None:
    """Return the trial that ended in a folder; None if none did, or one that depended on something else."""
    try:
        content = load_state(folder / FILE, "state", "trial")
    except (FileNotFoundError, Damaged):
        return None
    return Trial(**content["trial"]) if content["state"] == state else None


class Trials:
    """The trials of a search, as they are carried out."""

    def __init__(
        self,
        stage: SearchOptions,
        context: CheckContext,
        scores: Mapping[str, Score],
        money: SearchMoney,
        pool: Spool,
        sha256: str,
        job: Job,
    ) -> None:
        self._stage, self._context, self._scores, self._money = stage, context, scores, money
        self._pool, self._sha256, self._job = pool, sha256, job
        self._folder = job.context.directory / stage.name
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / END).unlink(missing_ok=True)
        self._ended: list[Trial] = []
        self._rows: list[Record] | None = None
        self._lowest = stage.best == "lowest"

    async def carry_out(self) -> Path:
        """Carry out all trials, and the best of those that a score ranks. Return the folder of the best."""
        stage, job = self._stage, self._job
        proposals = Proposals(stage.space, stage.strategy, stage.n, stage.seed, self._lowest)
        for number, choices in enumerate(proposals):
            job.services.notes[self._stage.name] = f"trial {number}"  # as in trials.jsonl
            trial = await self._trial(number, choices)
            proposals.tell(choices, trial.value)
            self._ended.append(trial)
            self._write_rows()
        job.services.notes.pop(self._stage.name, None)
        finished = [trial for trial in self._ended if trial.value is not None]
        if not finished:
            first = next((trial for trial in self._ended if trial.status == "failed"), self._ended[0])
            raise ConfigError(f"stage '{self._stage.name}': no trial has a value: {first.reason}")
        best = (min if self._lowest else max)(finished, key=lambda trial: float(trial.value or 0.0))
        folder = self._place(best.choices)
        if stage.keep and not stage.measure:
            await self._train(folder, self._variant(best.choices))
        self._conclude(best, folder, finished)
        return folder

    def _variant(self, choices: Choices) -> tuple[BoundStage, ...]:
        return self._stage.variant(self._context, choices)

    def _place(self, choices: Choices) -> Path:
        return self._folder / digest(choices, 12)

    async def _trial(self, number: int, choices: Choices) -> Trial:
        """Return the trial of a combination: the one that has ended, or a new one."""
        folder = self._place(choices)
        try:
            stages = self._variant(choices)
        except ConfigError as error:
            return Trial(number, choices, "failed", error.message)
        state = digest([self._state(stages), self._chosen_by()])
        before = ended_trial(folder, state)
        again = self._job.context.retry_failed and before is not None and before.status != "finished"
        if before and not again and not (before.status == "skipped" and self._money.left_usd() != 0.0):
            return replace(before, trial=number)
        start, before_usd, trial = time.monotonic(), self._money.spending_usd(), Trial(number, choices)
        try:
            await self._judge(trial, stages, folder)
        except MoneyShort as short:
            trial.status, trial.reason = "skipped", str(short)
        except Stopped:
            raise
        except DistillgenError as error:
            trial.status, trial.reason = "failed", str(error)
        trial.usd = self._money.spending_usd() - before_usd
        trial.seconds = round(time.monotonic() - start, 3)
        trial.write(folder, state)
        return trial

    async def _judge(self, trial: Trial, stages: Sequence[BoundStage], folder: Path) -> None:
        """Give a trial its scores, and its value unless it is too large. Raise DistillgenError."""
        if self._scores:
            trial.scores = await asyncio.to_thread(self._rate, stages)
        for name, most in self._stage.within.items():
            if name != USD and trial.scores[name] > most:
                trial.status, trial.reason = "skipped", f"{name} {trial.scores[name]:g} > {most:g}"
                return
        if not self._stage.measure:
            trial.value = trial.scores[self._stage.entries()[0].label]
            return
        if self._money.left_usd() == 0.0:
            trial.status, trial.reason = "skipped", f"usd: {self._stage.within[USD]:g} are spent"
            return
        measures = await self._train(folder, stages)
        of_test = ("held-out loss", "before")  # a search does not look at test records
        trial.measures = {
            title: value for title, value in by_title(measures).items() if not title.endswith(of_test)
        }
        if self._stage.measure not in trial.measures:
            near = did_you_mean(self._stage.measure, trial.measures)
            raise ConfigError(f"by: the trial has no measure '{self._stage.measure}'{near}")
        trial.value = trial.measures[self._stage.measure]

    def _rate(self, stages: Sequence[BoundStage]) -> dict[str, float]:
        from distillgen.training.untrained import Untrained

        network, inputs, label = first_network(stages) or (None, [], "")
        assert network is not None
        if self._rows is None:
            live = (record for chunk in self._pool.chunks() for record in chunk if not record.dropped)
            self._rows = [r for r in live if r.part == TRAIN and r.fields.get(label) is not None]
        if not self._rows:
            raise ConfigError(f"no training record has a '{label}'")
        student = Untrained(
            network, inputs, label, self._rows, self._job.context.project, self._models(), self._stage.seed
        )
        scores = {}
        for name, score in self._scores.items():
            for part, value in score.rate(student).items():
                scores[f"{name}.{part}" if part else name] = value
        return scores

    def _models(self) -> dict[str, Path]:
        """Return the folders of the earlier students."""
        directory = self._job.context.directory
        return {
            name: Path(spec.model)
            for bound in self._job.context.stages
            for name, spec in bound.makes(directory).items()
        }

    async def _train(self, folder: Path, stages: Sequence[BoundStage]) -> Mapping[Measure, float]:
        """Carry out the stages of a trial in its folder, unless they have ended."""
        state = self._state(stages)
        done = None if self._job.context.retry_failed else finished_round(folder)
        if done is None or done.state != state:
            live = (record for chunk in self._pool.chunks() for record in chunk if not record.dropped)
            context = replace(self._job.context, directory=folder, earlier=(), history=())
            with self._money.capped():
                one = Round(stages, "", self._context.models)
                done = await one.carry_out(None, live, state, Job(context, self._job.services))
        return done.measures

    def _state(self, stages: Sequence[BoundStage]) -> str:
        """Return a digest of everything that the stages of a trial depend on besides the ledger."""
        job = self._job
        options = [[bound.stage.kind, bound.stage.model_dump()] for bound in stages]
        files = {name: file_sha256(path) for bound in stages for name, path in bound.all_files.items()}
        inside = {name for bound in stages for name in bound.makes(Path())}
        asked_models = {name: None for bound in stages for name in bound.models if name not in inside}
        teachers = [job.services.teachers[name] for name in asked_models]
        models = [[teacher.identity, teacher.model, teacher.spec.sampling_options()] for teacher in teachers]
        return digest([self._sha256, options, files, models, job.context.seed])

    def _chosen_by(self) -> list[Any]:
        """Return what the value of a trial depends on besides its stages."""
        scores = {name: score.model_dump() for name, score in self._scores.items()}
        return [self._stage.by, self._stage.within, scores, self._stage.seed]

    def _write_rows(self) -> None:
        rows = [dumps(asdict(trial), sort_keys=False) + b"\n" for trial in self._ended]
        replace_bytes(self._folder / "trials.jsonl", b"".join(rows))

    def _conclude(self, best: Trial, folder: Path, finished: Sequence[Trial]) -> None:
        """Remove stale trials, link the best, and write `search.json` and the measures."""
        places = {self._place(trial.choices) for trial in self._ended}
        for place in self._folder.iterdir():
            if place.is_dir() and not place.is_symlink() and place not in places:
                remove_folder(place)
        replace_link(self._folder / BEST, folder.name)
        taus = {}
        for name in finished[0].scores if self._stage.measure and len(finished) > 2 else ():
            pairs = [(trial.scores[name], float(trial.value or 0.0)) for trial in finished]
            taus[f"tau of {name}"] = kendall_tau(*zip(*pairs, strict=True))
        counts = {
            "trials": len(self._ended),
            **{
                status: sum(trial.status == status for trial in self._ended)
                for status in ("failed", "skipped")
                if any(trial.status == status for trial in self._ended)
            },
        }
        content = {"by": self._stage.measure or next(iter(self._scores)), "best": best.trial}
        replace_bytes(self._folder / END, dumps({**content, "lowest": self._lowest, **taus}) + b"\n")
        measures = {**counts, "best value": float(best.value or 0.0), **taus}
        self._job.services.measures.update((Measure(name), value) for name, value in measures.items())


def first_network(stages: Sequence[BoundStage]) -> tuple[Any, Sequence[str], str] | None:
    """Return the network that the first training begins with, its inputs and its label, if it is one."""
    for bound in stages:
        options = bound.stage.model_extra or {}
        if isinstance(bound.stage, TrainingOptions):
            if bound.stage.network is None or not options.get("inputs"):
                return None
            spec = NetworkSpec.of(bound.stage.network, bound.context.project)
            return spec, options["inputs"], str(options.get("label", "label"))
    return None
