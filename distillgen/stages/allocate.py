"""allocate: what a round asks the teacher, by what the rounds before it have shown of the student."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, model_validator

from distillgen.algorithms.allocation import apportion, drawn, equilibrium, factors, with_unsure
from distillgen.errors import ConfigError, did_you_mean
from distillgen.flow.stage import Checking, Chunks, Estimate, Job, Stage
from distillgen.flow.whole_set import Spool, number_of
from distillgen.record import SPLIT, Record, digest, text_of


class Allocate(Stage):
    """Let `budget` records of a round go on to those who are asked about them; the others are dropped as not drawn, and offered
    again in the next round. Held-out records pass. Whole-set: records wait on disk.

    How many of each `group`: by the factors of DDK (Liu et al. 2024), from the gap between `student` and `teacher` in what
    `evaluate` with `by` measured in the rounds before, and in this one where it stands before this stage; equally many while
    nothing is measured. Where the measures are no perplexities but shares of right answers, the gap is a surrogate: the share of
    wrong ones takes the place of the cross-entropy.

    Which of a group: at random (uniform), those of which the student is least sure (margin), or by the equilibrium of Robust
    Active Distillation (Baykal et al. 2023), which does not bet on records that the teacher may answer wrongly, but
    gives none that it bets on less chance than a draw at random.
    """

    kind = "allocate"
    reads = (
        "the field `group`, the score or field `confidence`, and what `evaluate` measured in this round "
        "and the ones before"
    )
    writes = "nothing; drops the records that are not drawn"
    selects = True

    budget: int = Field(ge=1, description="records of a round that go on")
    group: str | None = Field(
        None, description="the field with a record's domain; default: there is only one"
    )
    student: str | None = Field(
        None, description="the measure of the student by group, such as evaluate.student.perplexity"
    )
    teacher: str | None = Field(None, description="that of the teacher")
    alpha: float = Field(0.5, ge=0, le=1, description="weight of the gaps; the rest is shared equally")
    by: Literal["uniform", "margin", "equilibrium"] = Field(
        "uniform", description="how records of a group are chosen"
    )
    confidence: str | None = Field(
        None, description="the score or field that says how sure the student is, 0 to 1 or a logprob"
    )
    wrong: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of the teacher's answers that are wrong; default: as measured, where by accuracy",
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
            and (self.teacher is None or _perplexity(self.teacher))
        ):
            raise ValueError(
                "'by: equilibrium' needs 'wrong', the share of the teacher's answers to expect wrong"
            )
        return self

    def check(self, given: Checking) -> frozenset[str]:
        """The group is there."""
        if self.group:
            given.need(self.group, "'group'")
        return given.fields

    def estimate(self, before: Estimate, samples: Sequence[Record], given: Checking) -> Estimate:
        """The budget goes on, and what is held out, of which nobody knows how much there is."""
        if before.rows is None or SPLIT in given.fields:
            return Estimate(before.rows, made_bytes=before.made_bytes)
        rows = min(before.rows, self.budget)
        return Estimate(rows, made_bytes=before.made_bytes, spared=before.rows - rows)

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Gather the round, share out, draw."""
        confidence, there = defaultdict[str, list[float | None]](list), Counter[str]()
        with Spool(job) as spool:
            async for chunk in chunks:
                spool.add(chunk)
                for record in chunk:
                    if self._waits(record):
                        confidence[self._group(record)].append(
                            number_of(record, self.confidence) if self.confidence else None
                        )
            there.update({group: len(some) for group, some in confidence.items()})
            measured = {
                f"{stage}.{name}": value
                for stage, found in job.measured.items()
                for name, value in found.items()
            }
            shares, told = self._shares([*job.history, measured], sorted(there))
            counts = apportion(self.budget, shares, there)
            chosen = {
                g: self._chosen(g, some, counts[g], told, job) for g, some in sorted(confidence.items())
            }
            asked = sum(map(len, chosen.values()))
            told |= {"drawn": asked, "not drawn": there.total() - asked}
            job.measured[self.name] = told | {
                f"share of {group}": share for group, share in shares.items() if self.group
            }
            seen = Counter[str]()
            for chunk in spool.chunks():
                out = []
                for record in chunk:
                    if self._waits(record):
                        group = self._group(record)
                        if seen[group] not in chosen[group]:
                            why = f"not among the {counts[group]} drawn of {there[group]}"
                            record = record.drop(
                                self.name, "not_drawn", f"{why} in {group}" if self.group else why
                            )
                        seen[group] += 1
                    out.append(record)
                yield out

    def _waits(self, record: Record) -> bool:
        return not record.dropped and not record.held_out

    def _group(self, record: Record) -> str:
        return text_of(record.fields.get(self.group)) if self.group else ""

    def _shares(
        self, history: Sequence[Mapping[str, float]], groups: Sequence[str]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """The share of each group, and what it follows from: the last gaps, and the share of wrong answers, by group."""
        if not self.student or not self.teacher:
            return {group: 1 / len(groups) for group in groups}, {}
        marks = [f"{name} in " for name in (self.student, self.teacher)]
        seen = [found for found in history if any(name.startswith(marks[0]) for name in found)]
        if not seen:
            if len(history) > 1:
                known = {name.partition(" in ")[0] for found in history for name in found}
                remedy = did_you_mean(self.student, known)
                raise ConfigError(
                    f"stage '{self.name}': no round has measured '{self.student}' by group{remedy}"
                )
            return {group: 1 / len(groups) for group in groups}, {}
        domains = [name.removeprefix(marks[0]) for name in seen[0] if name.startswith(marks[0])]
        for group in {*groups, *domains}:
            for mark in marks:
                if any(mark + group not in found for found in seen):
                    raise ConfigError(
                        f"stage '{self.name}': '{mark}{group}' is not measured; evaluate items of every group"
                    )
        ratios = [
            {d: self._ratio(found[marks[0] + d], found[marks[1] + d]) for d in domains} for found in seen
        ]
        kind = "perplexity" if _perplexity(self.student) else "accuracy, a surrogate"
        told = {f"gap in {domain}, by {kind}": ratio for domain, ratio in ratios[-1].items()}
        if not _perplexity(self.teacher):
            told |= {
                f"teacher's wrong share in {domain}": 1 - seen[-1][marks[1] + domain] for domain in domains
            }
        return factors(ratios, alpha=self.alpha), told

    def _ratio(self, student: float, teacher: float) -> float:
        """The student's perplexity over the teacher's; of shares of right answers, what they are with the share of wrong ones as
        cross-entropy.
        """
        return student / teacher if _perplexity(str(self.student)) else math.exp(teacher - student)

    def _chosen(
        self, group: str, confidence: Sequence[float | None], count: int, told: Mapping[str, float], job: Job
    ) -> set[int]:
        """The places of the drawn among the records of a group."""
        chance = random.Random(digest([job.seed, self.name, len(job.history), group]))
        if self.confidence is None or all(
            value is None for value in confidence
        ):  # as before a student is trained
            return set(chance.sample(range(len(confidence)), count))
        certain = math.exp if self.confidence.endswith("logprob") else float
        gains = [1.0 if value is None else min(1.0, max(0.0, 1 - certain(value))) for value in confidence]
        if self.by == "margin":
            return set(drawn([0.0] * len(gains), gains, count, chance))
        share = told.get(f"teacher's wrong share in {group}", 0.0) if self.wrong is None else self.wrong
        return set(drawn(with_unsure(equilibrium(gains, share * len(gains))), gains, count, chance))


def _perplexity(measure: str) -> bool:
    return measure.endswith(".perplexity")
