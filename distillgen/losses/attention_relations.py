"""attention_relations: how tokens relate in a teacher's last attention (Wang et al. 2021, MiniLMv2).

Queries, keys and values of the last attention are split anew into as many heads for student and teacher, so
that networks of any width are compared: for each of the three, A = softmax(Z Zᵀ / √d), where Z [tokens, d] is
one head. The loss is the sum over the three of KL(teacher's A ‖ student's A), as the papers have it, or of
the squared difference of Z Zᵀ / √d, as in AutoDistil's release; the mean over heads and tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from distillgen.errors import ConfigError
from distillgen.networks.spec import NetworkSpec
from distillgen.project import Project
from distillgen.training.part import GIVEN_BY, Loss

if TYPE_CHECKING:
    from distillgen.training.step import Step


class AttentionRelations(Loss):
    """Relations of tokens by the queries, the keys and the values of the last attention."""

    needs: ClassVar = {"teacher": "projections"}
    tokens = False
    mixtures = True

    heads: PositiveInt = Field(4, description="heads into which both are split")
    kind: Literal["kl", "mse"] = Field(
        "kl", description="kl: divergence of the softmaxed relations; mse: squared difference of the raw ones"
    )

    def check_network(self, spec: NetworkSpec, project: Project) -> None:
        """Raise ConfigError if the network has no queries, keys and values of widths that can be split."""
        if not spec.module_of(project).projections(project):
            raise ConfigError(
                f"it compares queries, keys and values, and student body '{spec.body}' has none; take "
                f"{GIVEN_BY['projections'][1]}"
            )
        self._check_widths("the student", spec, project)

    def check_teacher(self, name: str, teacher: NetworkSpec, student: NetworkSpec, project: Project) -> None:
        """Raise ConfigError if the teacher has no queries, keys and values of widths that can be split."""
        super().check_teacher(name, teacher, student, project)
        self.check_tokens(name, teacher, student, project)
        self._check_widths(f"'{name}'", teacher, project)

    def _check_widths(self, network: str, spec: NetworkSpec, project: Project) -> None:
        for width in spec.module_of(project).projections(project):
            if width % self.heads:
                raise ConfigError(f"heads: {self.heads} do not divide the width {width} of {network}")

    def rows(self, step: Step, module: Any) -> Any:
        """Return the loss of each row: [rows], or [teachers, rows]."""
        return step.over_teachers(self, [self._value(step, name) for name in self.teachers()])

    def _value(self, step: Step, name: str) -> Any:
        """Return the loss [rows] for a teacher. Raise ConfigError if its tokens or its width do not fit."""
        student, teacher = step.projections(self.of), step.projections(name).detach()
        if teacher.shape[2] != student.shape[2] or any(z.shape[3] % self.heads for z in (student, teacher)):
            ours, theirs = (f"{z.shape[2]} tokens a row of width {z.shape[3]}" for z in (student, teacher))
            raise ConfigError(
                f"attention_relations: '{self.of}' has {ours}, and '{name}' {theirs}; give both as many "
                f"patches, and widths that {self.heads} heads divide"
            )
        ours, theirs = self._relations(student), self._relations(teacher)
        if self.kind == "mse":
            return (ours - theirs).square().mean((2, 3, 4)).sum(1)
        q, p = ours.log_softmax(-1), theirs.log_softmax(-1)
        return (p.exp() * (p - q)).sum(-1).mean((2, 3)).sum(1)

    def _relations(self, projections: Any) -> Any:
        """Return Z Zᵀ / √d [rows, 3, heads, tokens, tokens]."""
        heads = projections.unflatten(-1, (self.heads, -1)).transpose(2, 3)
        return heads @ heads.transpose(-1, -2) / heads.shape[-1] ** 0.5
