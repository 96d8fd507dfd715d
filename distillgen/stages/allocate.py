"""allocate: choose by the student's results about which records of a round the teacher is asked."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field, model_validator

from distillgen.algorithms.allocation import apportion, drawn, equilibrium, factors, with_unsure
from distillgen.errors import ConfigError, did_you_mean
from distillgen.flow.in_thread import in_thread
from distillgen.flow.measures import LAST_ROUND, Measure, Measures, measures_of
from distillgen.flow.stage import CheckContext, Chunks, Estimate, Job, Stage
from distillgen.flow.whole_set import Spool, number_of
from distillgen.record import SPLIT, Record, digest, text_of


class Allocate(Stage):
    """Let at most `budget` records of each round go on; drop the others as not drawn.

    Dropped records are offered again in the next round. Held-out records always pass. The stage waits for
    all records of the round, on disk.

    `group` and `student` say how the budget is shared out among groups. The shares follow the factors of
    DDK (Liu et al. 2024): they grow with the gap between `student` and `teacher` in the measures of a
    stage `evaluate` with `by`, over all rounds so far. Before anything is measured, groups get equal
    shares. Where the measures are shares of right answers and not perplexities, the share of wrong
    answers replaces the cross-entropy.

    `by` says which records of a group are drawn: `uniform` draws at random; `margin` draws more often
    where the student is less sure; `equilibrium` is the sampling of Robust Active Distillation (Baykal et
    al. 2023), which avoids records that the teacher may answer wrongly; every other record has at least
    the chance of a uniform draw.
    """

    kind = "allocate"
    scope = "set"
    reads = (
        "the field `group`, the score or field `confidence`, and what `evaluate` measured in this round "
        "and the ones before"
    )
    writes = "nothing; drops the records that are not drawn"
    selects = True

    budget: int = Field(ge=1, description="number of records that go on in each round")
    group: str | None = Field(
        None, description="field with the record's domain; default: all records are of one domain"
    )
    student: str | None = Field(
        None, description="measure of the student by group, such as evaluate.student.perplexity"
    )
    teacher: str | None = Field(
        None, description="measure of the teacher by group, such as evaluate.teacher.perplexity"
    )
    alpha: float = Field(
        0.5,
        ge=0,
        le=1,
        description="weight of the gaps between student and teacher; the rest of the budget is shared "
        "equally",
    )
    by: Literal["uniform", "margin", "equilibrium"] = Field(
        "uniform", description="how records of a group are chosen"
    )
    confidence: str | None = Field(
        None, description="score or field with the student's confidence: 0 to 1, or a log-probability"
    )
    wrong: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of the teacher's answers that are wrong; default: as measured where `teacher` "
        "is an accuracy, else 0",
    )

    @model_validator(mode="after")
    def _together(self) -> Allocate:
        if (self.student is None) != (self.teacher is None):
            raise ValueError("a gap is one between two: give both 'student' and 'teacher', or neither")
        if self.student and not self.group:
            raise ValueError("'student' and 'teacher' are measures by group: give 'group'")
        if (self.by == "uniform") != (self.confidence is None):
            raise ValueError("'by: margin' and 'by: equilibrium' go by a 'confidence', and 'uniform' by none")
        if (
            self.by == "equilibrium"
            and self.wrong is None
            and (self.teacher is None or _is_perplexity(self.teacher))
        ):
            raise ValueError(
                "'by: equilibrium' needs 'wrong', the share of the teacher's answers to expect wrong"
            )
        return self

    def uses_seed(self) -> bool:
        """Return True: it draws by the pipeline's seed."""
        return True

    def check(self, context: CheckContext) -> frozenset[str]:
        """Return the fields; raise ConfigError if no record has the field `group`."""
        if self.group:
            context.need(self.group, "'group'")
        return context.fields

    def estimate(self, before: Estimate, samples: Sequence[Record], context: CheckContext) -> Estimate:
        """Return at most `budget` records; an unknown number if some are held out, because these all pass."""
        if before.rows is None or SPLIT in context.fields:
            return Estimate(before.rows, made_bytes=before.made_bytes)
        rows = min(before.rows, self.budget)
        return Estimate(rows, made_bytes=before.made_bytes, spared=before.rows - rows)

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Spool the records of the round, apportion the budget, and draw."""
        confidence, there = defaultdict[str, list[float | None]](list), Counter[str]()
        with Spool(job) as spool:
            async for chunk in chunks:
                spool.add(chunk)
                for record in chunk:
                    if self._waits(record):
                        confidence[self._group(record)].append(
                            number_of(record, self.confidence) if self.confidence else None
                        )
            there.update({group: len(values) for group, values in confidence.items()})
            shares = self._shares([*job.context.history, _round_so_far(job)], sorted(there))
            counts = apportion(self.budget, shares.by_group, there)
            chosen = await in_thread(
                lambda: {
                    group: self._chosen(group, values, counts[group], shares.wrong.get(group, 0.0), job)
                    for group, values in sorted(confidence.items())
                }
            )
            drawn_count = sum(map(len, chosen.values()))
            job.services.measures.update(measures_of(shares.figures))
            job.services.measures[Measure("drawn")] = drawn_count
            job.services.measures[Measure("not drawn")] = there.total() - drawn_count
            for group, share in shares.by_group.items() if self.group else ():
                job.services.measures[Measure(f"share of {group}")] = share
            positions = Counter[str]()
            for chunk in spool.chunks():
                out = []
                for record in chunk:
                    if self._waits(record):
                        group = self._group(record)
                        if positions[group] not in chosen[group]:
                            why = f"not among the {counts[group]} drawn of {there[group]}"
                            record = record.drop(
                                self.name, "not_drawn", f"{why} in {group}" if self.group else why
                            )
                        positions[group] += 1
                    out.append(record)
                yield out

    def _waits(self, record: Record) -> bool:
        return not record.dropped and not record.held_out

    def _group(self, record: Record) -> str:
        return text_of(record.fields.get(self.group)) if self.group else ""

    def _shares(self, rounds: Sequence[Measures], groups: Sequence[str]) -> _Shares:
        """Return the share of each group; raise ConfigError if a round measured only some of the groups."""
        equal = _Shares({group: 1 / len(groups) for group in groups})
        if not self.student or not self.teacher:
            return equal
        student = [values for measures in rounds if (values := _by_group(measures, self.student))]
        if not student:
            if len(rounds) > 1:
                titles = {measure._replace(group=None).title for measures in rounds for measure in measures}
                remedy = did_you_mean(self.student, titles)
                raise ConfigError(
                    f"stage '{self.name}': no round has measured '{self.student}' by group{remedy}"
                )
            return equal
        teacher = [
            _by_group(measures, self.teacher) for measures in rounds if _by_group(measures, self.student)
        ]
        for reference, history in ((self.student, student), (self.teacher, teacher)):
            for group in {*groups, *student[0]}:
                if any(group not in values for values in history):
                    message = f"'{reference} in {group}' is not measured"
                    raise ConfigError(f"stage '{self.name}': {message}; evaluate items of every group")
        ratios = [
            {group: self._ratio(of_student[group], of_teacher[group]) for group in student[0]}
            for of_student, of_teacher in zip(student, teacher, strict=True)
        ]
        kind = "perplexity" if _is_perplexity(self.student) else "accuracy, a surrogate"
        wrong = (
            {} if _is_perplexity(self.teacher) else {group: 1 - teacher[-1][group] for group in student[0]}
        )
        figures = {f"gap in {group}, by {kind}": ratio for group, ratio in ratios[-1].items()}
        figures |= {f"teacher's wrong share in {group}": share for group, share in wrong.items()}
        return _Shares(factors(ratios, alpha=self.alpha), wrong, figures)

    def _ratio(self, student: float, teacher: float) -> float:
        """Return the student's perplexity divided by the teacher's.

        Shares of right answers give the same ratio with the share of wrong answers in place of the
        cross-entropy.
        """
        return student / teacher if _is_perplexity(str(self.student)) else math.exp(teacher - student)

    def _chosen(
        self, group: str, confidence: Sequence[float | None], count: int, wrong: float, job: Job
    ) -> set[int]:
        """Return the indices of the drawn records in their group."""
        chance = random.Random(digest([job.context.seed, self.name, len(job.context.history), group]))
        if self.confidence is None or all(
            value is None for value in confidence
        ):  # as before a student is trained
            return set(chance.sample(range(len(confidence)), count))
        certain = math.exp if self.confidence.endswith("logprob") else float
        gains = [1.0 if value is None else min(1.0, max(0.0, 1 - certain(value))) for value in confidence]
        if self.by == "margin":
            return set(drawn([0.0] * len(gains), gains, count, chance))
        share = wrong if self.wrong is None else self.wrong
        return set(drawn(with_unsure(equilibrium(gains, share * len(gains))), gains, count, chance))


@dataclass(frozen=True)
class _Shares:
    by_group: Mapping[str, float]
    """The share of the budget, by group."""
    wrong: Mapping[str, float] = field(default_factory=dict)
    """The share of wrong answers of the teacher, by group, if it was measured."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """The measures that determine the shares, for the report."""


def _round_so_far(job: Job) -> Measures:
    """Return the measures of the earlier stages of this round."""
    stages = zip(job.context.stages, job.services.measures_before, strict=True)
    return {
        measure.of_stage(stage.name): value
        for stage, measures in stages
        for measure, value in measures.items()
    }


def _by_group(measures: Measures, reference: str) -> dict[str, float]:
    """Return the measure with the title `reference`, by group."""
    return {
        measure.group: value
        for measure, value in measures.items()
        if measure.group is not None and measure._replace(group=None).title == reference
    }


def _is_perplexity(reference: str) -> bool:
    return reference.removesuffix(LAST_ROUND).endswith(".perplexity")
