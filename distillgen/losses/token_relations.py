"""token_relations: how the tokens of pictures relate, as a teacher sees them (Zhang et al. 2023, TRG).

Three terms compare the student's tokens with the teacher's, which are the last hidden states of the same
patches. Inside of a row, the squared difference of softmax(F Fᵀ / √width). Over tokens drawn from the whole
batch, the local term is KL(student ‖ teacher) of softmax_j A_ij, where A_ij = exp(−‖T_i − T_j‖² / 2σ) if j
is among the k nearest tokens of i, and 0 if not; and the global term is −log softmax_j(cos(T'_i, T_j) / τ) at
j = i, where T' are the student's tokens after a linear map. τ falls, so that the term begins coarse and ends
fine.

The paper's coefficients, k, σ and the course of τ were not at hand: the defaults here, the course warm ·
(cold / warm)^progress, and tokens of length 1 in the local term, so that one σ fits both networks, are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.networks.spec import NetworkSpec
from distillgen.project import Project
from distillgen.training.part import GIVEN_BY, Loss, PartSizes

if TYPE_CHECKING:
    from distillgen.training.step import Step


class TokenRelations(Loss):
    """Relations of tokens inside of each row, to their neighbours in the batch, and to the teacher's."""

    needs: ClassVar = {"teacher": "tokens"}
    tokens = False
    mixtures = True

    inner: float = Field(1.0, ge=0, description="weight of the relations inside of each row")
    local: float = Field(1.0, ge=0, description="weight of the relations to the nearest tokens of the batch")
    global_: float = Field(
        1.0, ge=0, alias="global", description="weight of telling the teacher's token from all others"
    )
    sampled: int = Field(64, ge=2, description="tokens of a batch that are drawn for the last two")
    k: int = Field(8, ge=1, description="nearest tokens of each")
    sigma: float = Field(1.0, gt=0, description="σ: how fast the weight of a near token falls with distance")
    warm: float = Field(1.0, gt=0, description="τ of the global term in the first step")
    cold: float = Field(0.1, gt=0, description="τ of the global term in the last step")

    def check_network(self, spec: NetworkSpec, project: Project) -> None:
        """Raise ConfigError if the network has no tokens."""
        if spec.module_of(project).tokens(project) == 0:
            raise ConfigError(
                f"it compares tokens, and student body '{spec.body}' has none; take {GIVEN_BY['tokens'][1]}"
            )

    def check_teacher(self, name: str, teacher: NetworkSpec, student: NetworkSpec, project: Project) -> None:
        """Raise ConfigError if the teacher has no tokens, or another number of them."""
        super().check_teacher(name, teacher, student, project)
        self.check_tokens(name, teacher, student, project)

    def module(self, sizes: PartSizes) -> Any:
        """Return a linear map for each teacher. Raise ConfigError where there are no tokens to map."""
        from torch import nn

        for name in (self.of, *self.teachers()):
            if name not in sizes.token_widths:
                raise ConfigError(f"token_relations: '{name}' gives no tokens")
        width = sizes.token_widths[self.of]
        return nn.ModuleList(nn.Linear(width, sizes.token_widths[name]) for name in self.teachers())

    def rows(self, step: Step, module: Any) -> Any:
        """Return the loss of each row: [rows], or [teachers, rows]."""
        pairs = zip(self.teachers(), module, strict=True)
        return step.over_teachers(self, [self._value(step, name, linear) for name, linear in pairs])

    def _value(self, step: Step, name: str, linear: Any) -> Any:
        """Return the loss [rows] for a teacher. Raise ConfigError if it has other tokens."""
        import torch

        student, teacher = step.tokens(self.of), step.tokens(name).detach()
        rows, count = student.shape[:2]
        if teacher.shape[1] != count:
            raise ConfigError(
                f"token_relations: '{self.of}' has {count} tokens a row, and '{name}' {teacher.shape[1]}; "
                "give both as many patches"
            )
        inner = (_context(student) - _context(teacher)).square().mean((1, 2))
        drawn = torch.randperm(rows * count, generator=step.generator("token_relations"))[: self.sampled]
        drawn = drawn.to(student.device)
        near, over = student.flatten(0, 1)[drawn], teacher.flatten(0, 1)[drawn]
        local, contrast = self._local(near, over), self._global(linear(near), over, step.progress)
        # of the row that a token is of; the mean over rows is the mean over tokens
        between = torch.zeros_like(inner).index_add(
            0, drawn // count, self.local * local + self.global_ * contrast
        )
        return self.inner * inner + between * (rows / len(drawn))

    def _local(self, student: Any, teacher: Any) -> Any:
        """Return KL(student ‖ teacher) of the relations of each token [tokens], in nats."""
        q, p = self._graph(student), self._graph(teacher)
        return (q.exp() * (q - p)).sum(-1)

    def _graph(self, tokens: Any) -> Any:
        """Return the log-distribution [tokens, others] of each token over all others."""
        import torch
        from torch.nn.functional import normalize

        count = len(tokens)
        units = normalize(tokens, dim=-1)
        others = ~torch.eye(count, dtype=torch.bool, device=tokens.device)
        distances = (2 - 2 * units @ units.T)[others].view(count, -1)
        nearest = distances.topk(min(self.k, count - 1), largest=False).indices
        there = torch.zeros_like(distances).scatter(1, nearest, 1.0)
        return ((-distances / (2 * self.sigma)).exp() * there).log_softmax(-1)

    def _global(self, student: Any, teacher: Any, progress: float) -> Any:
        """Return −log of the share [tokens] of the teacher's own token among those drawn, in nats."""
        from torch.nn.functional import normalize

        temperature = self.warm * (self.cold / self.warm) ** progress
        cosines = normalize(student, dim=-1) @ normalize(teacher, dim=-1).T
        return -(cosines / temperature).log_softmax(-1).diagonal()


def _context(tokens: Any) -> Any:
    """Return the relations [rows, tokens, tokens] inside of each row."""
    return (tokens @ tokens.transpose(1, 2) / tokens.shape[-1] ** 0.5).softmax(-1)
