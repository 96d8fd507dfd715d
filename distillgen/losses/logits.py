"""logits: the squared difference of logits (Ba and Caruana 2014; in Distiller, He et al. 2021, MSE)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distillgen.training.part import Loss

if TYPE_CHECKING:
    from distillgen.training.step import Step


class LogitsOfTeacher(Loss):
    """Mean over the outcomes of the squared difference of the logits of student and teacher.

    Of a teacher that recorded probabilities, these are the logarithms of both, and the tail is an outcome.
    """

    mixtures = True

    def rows(self, step: Step, module: Any) -> Any:
        """Return the loss of each row: [rows], or [teachers, rows]."""
        values = [step.per_row(_distance(*pair), self.of) for pair in step.pairs(self)]
        return step.over_teachers(self, values)


def _distance(student: Any, teacher: Any) -> Any:
    """Return the mean squared difference [positions] over the outcomes that the teacher has."""
    from distillgen.training.signals import ABSENT

    there = teacher > ABSENT / 2
    return ((student - teacher).square() * there).sum(-1) / there.sum(-1)
