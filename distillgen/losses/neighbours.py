"""neighbours: what a teacher says of neighbours in a graph (Wu et al. 2023, FF-G2M).

Low frequencies: the mean over edges i → j, and over each node itself, of KL(teacher of j ‖ student of i).
High frequencies: the mean over edges of KL between softmax(|z_i − z_j| / temperature) of teacher and
student. An edge counts for the row that it starts from, so that the loss has one number a row. z are logits
less their mean, because recorded probabilities give logits but for a constant; the authors take them as
they are. They, too, have a temperature in the second term only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from distillgen.training.part import Loss

if TYPE_CHECKING:
    from distillgen.training.step import Step


class Neighbours(Loss):
    """Divergence from the teacher's words about a node's neighbours, and about the differences to them."""

    edges = True
    tokens = False

    low: float = Field(1.0, ge=0, description="weight of what is alike in neighbours")
    high: float = Field(1.0, ge=0, description="weight of what differs between neighbours")
    temperature: float = Field(1.5, gt=0, description="the differences are divided by it")

    def rows(self, step: Step, module: Any) -> Any:
        """Return the loss of each row, in nats: [rows], or [teachers, rows]."""
        values = [self._value(step, step.teacher(name).detach()) for name in self.teachers()]
        return step.over_teachers(self, values)

    def _value(self, step: Step, teacher: Any) -> Any:
        """Return the loss [rows] for a teacher's logits [rows, classes]."""
        import torch

        student, edges = step.logits(self), step.batch["edges"]
        nodes = torch.arange(step.size, device=edges.device).expand(2, -1)
        near, over = self._difference(student, edges), self._difference(teacher, edges)
        start, end = torch.cat([edges, nodes], 1)
        alike = _kl(teacher.log_softmax(-1)[end], student.log_softmax(-1)[start])
        return self.low * _by_start(alike, start, step.size) + self.high * _by_start(
            _kl(over, near), edges[0], step.size
        )

    def _difference(self, logits: Any, edges: Any) -> Any:
        """Return the log-distribution [edges, classes] over what differs between the ends of an edge."""
        z = logits - logits.mean(-1, keepdim=True)
        return ((z[edges[0]] - z[edges[1]]).abs() / self.temperature).log_softmax(-1)


def _kl(p: Any, q: Any) -> Any:
    return (p.exp() * (p - q)).sum(-1)


def _by_start(values: Any, start: Any, size: int) -> Any:
    """Return values of edges by the row that they start from; the mean over rows is the mean over edges."""
    return values.new_zeros(size).index_add(0, start, values) * (size / max(1, len(values)))
