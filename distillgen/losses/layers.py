"""layers: the hidden states and the attention of a teacher with more layers (Ansell et al. 2023, BiStil).

A student of n layers has a teacher of n · f: its layer l learns from the teacher's layer l · f, and its
embeddings from the teacher's. Two terms, each the mean over the layers: the squared difference of the hidden
states, a mean over tokens and their numbers; and that of the shares of attention, a mean over those that are
not 0 of the teacher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.networks.spec import NetworkSpec
from distillgen.project import Project
from distillgen.training.part import Loss

if TYPE_CHECKING:
    from distillgen.training.step import Step


class LayersOfTeacher(Loss):
    """Mean squared difference of hidden states, and of attention, layer by layer: for decoders."""

    needs: ClassVar = {"teacher": "layers"}

    hidden: float = Field(1.0, ge=0, description="weight of the hidden states")
    attention: float = Field(1.0, ge=0, description="weight of the attention")

    def check_network(self, spec: NetworkSpec, project: Project) -> None:
        """Raise ConfigError: networks have no layers of attention."""
        raise ConfigError("it compares layers of attention; it is for language models, without 'inputs'")

    def rows(self, step: Step, module: Any) -> Any:
        """Return the loss of each row: [rows], or [teachers, rows]."""
        return step.over_teachers(self, [self._value(step, name) for name in self.teachers()])

    def _value(self, step: Step, name: str) -> Any:
        """Return the loss [rows] for a teacher. Raise ConfigError if its layers are no multiple."""
        import torch

        student, teacher = step.layers(self.of), step.layers(name)
        depth, depth_of_teacher = len(student.attention), len(teacher.attention)
        width, width_of_teacher = student.states[0].shape[-1], teacher.states[0].shape[-1]
        if depth_of_teacher % depth or width != width_of_teacher:
            raise ConfigError(
                f"layers: the student has {depth} layers of width {width}, and '{name}' {depth_of_teacher} "
                f"of width {width_of_teacher}; give widths that are equal, and layers that are a multiple"
            )
        every = depth_of_teacher // depth
        there = student.there[..., None].float()
        hidden = [
            _mean((state - teacher.states[i * every].detach()).square(), there.expand_as(state))
            for i, state in enumerate(student.states)
        ]
        attention = []
        for i, shares in enumerate(student.attention, 1):
            target = teacher.attention[i * every - 1].detach()
            if shares.shape != target.shape:
                raise ConfigError(f"layers: the student's layers have other heads than those of '{name}'")
            attention.append(_mean((shares - target).square(), (target != 0) & (there[:, None] > 0)))
        return self.hidden * torch.stack(hidden).mean(0) + self.attention * torch.stack(attention).mean(0)


def _mean(values: Any, counted: Any) -> Any:
    """Return the mean of each row [rows] over the values that are counted."""
    places = tuple(range(1, values.dim()))
    return (values * counted).sum(places) / counted.sum(places).clamp(min=1)
