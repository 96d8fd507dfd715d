"""What recorded teachers say of a batch: distributions over classes or tokens, and vectors. It needs torch.

The outcomes that a teacher named are only part of a distribution. The rest is one more outcome, the tail, for
teacher and student alike: alternatives that are renormalised to sum to 1 teach that nothing else is possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from distillgen.networks.network import Out

FLOOR = -30.0  # the least log-probability that a teacher gives an outcome: e-13
ABSENT = -1e4  # the logit of an outcome that a row does not have, for student and teacher alike
COLUMN = "teacher."  # before the name of a recorded teacher, in a batch


@dataclass(frozen=True)
class RecordedClasses:
    """A teacher whose class distributions or vectors were recorded, one a row."""

    name: str
    width: int = 0
    """The width of its vectors; 0 if it gave none."""

    def _column(self, kind: str) -> str:
        return f"{COLUMN}{self.name}.{kind}"

    def out(self, batch: Mapping[str, Any]) -> Out:
        """Return its log-probabilities [rows, classes] and its vectors [rows, width].

        The classes that it did not name share its tail.
        """
        vectors = batch.get(self._column("vector"))
        place = torch.arange(len(batch["row"]), device=batch["row"].device)
        if self._column("logprobs") not in batch:
            return Out({}, place, vectors)
        logprobs, mask, tail = self._distribution(batch)
        spread = tail - (~mask).sum(-1).clamp(min=1).log()
        return Out({"class": torch.where(mask, logprobs, spread[:, None])}, place, vectors)

    def _distribution(self, batch: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """Return the log-probabilities [rows, classes], which classes are named, and the tail's [rows]."""
        logprobs = batch[self._column("logprobs")]
        mask = ~logprobs.isnan()
        logprobs = torch.where(mask, logprobs, ABSENT).clamp(max=0.0)
        rest = (1 - logprobs.exp().sum(-1)).clamp(min=0.0)
        return torch.where(mask, logprobs.clamp(min=FLOOR), logprobs), mask, rest.log().clamp(min=FLOOR)

    def pair(self, logits: Any, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return the student's and the teacher's logits [rows, classes + 1], the tail last."""
        logprobs, mask, tail = self._distribution(batch)
        student = logits.log_softmax(-1)
        complete = mask.all(-1)
        others = student.masked_fill(mask, -torch.inf)
        others = others.masked_fill(complete[:, None], 0.0).logsumexp(-1)
        absent = torch.full_like(tail, ABSENT)
        return (
            torch.cat([student.masked_fill(~mask, ABSENT), others.where(~complete, absent)[:, None]], -1),
            torch.cat([logprobs, tail.where(~complete, absent)[:, None]], -1),
        )


@dataclass(frozen=True)
class RecordedTokens:
    """A teacher whose likeliest tokens were recorded with its answer, at each token.

    The batch has `top_ids` and `top_probabilities` [positions, k]: 0 where there are fewer than k.
    """

    width: int = 0

    def out(self, batch: Mapping[str, Any]) -> Out:
        """Raise ValueError: it gives no distribution over all tokens."""
        raise ValueError("a recorded teacher gives only its likeliest tokens")

    def pair(self, logits: Any, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return the student's and the teacher's logits [positions, k + 1], the tail last."""
        ids, probabilities = batch["top_ids"], batch["top_probabilities"]
        present = probabilities > 0
        outside = logits.scatter(-1, ids.where(present, ids[:, :1]), -torch.inf)
        complete = outside.isneginf().all(-1, keepdim=True)  # there is no other token
        others = outside.masked_fill(complete, 0.0).logsumexp(-1, keepdim=True)
        student = torch.cat([logits.gather(-1, ids), others], -1) - logits.logsumexp(-1, keepdim=True)
        total = probabilities.sum(-1, keepdim=True)
        # rounded probabilities may sum to a little more than 1
        top = probabilities / total.where(complete, total.clamp(min=1.0))
        teacher = torch.cat([top, (1 - top.sum(-1, keepdim=True)).clamp(min=0.0)], -1).log().clamp(min=FLOOR)
        outcomes = torch.cat([present, ~complete], -1)
        return student.masked_fill(~outcomes, ABSENT), teacher.masked_fill(~outcomes, ABSENT)


RecordedTeacher = RecordedClasses | RecordedTokens
