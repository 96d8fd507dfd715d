"""Which layers of a student learn from which of its teacher's (He et al. 2021, Distiller, layer mapping).

Of n layers of a student and m of a teacher, `skip` compares the layer i with the layer i · ⌊m / n⌋, and
`last` with the layer i + m − n. `emd` compares all pairs: each of the student's layers has the mass 1 / n,
each of the teacher's 1 / m, and the weight of a pair is what the cheapest transport between them moves,
where its cost is the mean loss of the pair over the batch (Li et al. 2020, BERT-EMD).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.networks.spec import NetworkSpec
from distillgen.project import Project
from distillgen.training.part import Loss, PartSizes, Signal

if TYPE_CHECKING:
    from distillgen.training.step import Step

LayerMapping: TypeAlias = Literal["skip", "last", "emd"]


class FeatureLoss(Loss):
    """A loss between the features of a network and a teacher's vectors, or between their layers, by pairs."""

    needs: ClassVar = {"teacher": "vector"}
    features = True
    tokens = False
    mixtures = True

    mapping: LayerMapping | None = Field(
        None,
        description="layers that are compared, of networks that have some: skip, every so many of the "
        "teacher's; last, its last ones; emd, all pairs, weighed by the cheapest transport; default: the "
        "last features alone",
    )

    def teachers(self) -> Mapping[str, Signal]:
        """Return the teachers: a mapping reads their layers."""
        teachers = super().teachers()
        return dict.fromkeys(teachers, "layers") if self.mapping else teachers

    def check_network(self, spec: NetworkSpec, project: Project) -> None:
        """Raise ConfigError if the network has no features, or no layers where a mapping reads them."""
        super().check_network(spec, project)
        if self.mapping and not spec.module_of(project).layers():
            raise ConfigError(
                f"mapping: it compares layers, and student body '{spec.body}' has none that it gives; take "
                "{mlp: [64, 32]}"
            )

    def check_teacher(self, name: str, teacher: NetworkSpec, student: NetworkSpec, project: Project) -> None:
        """Raise ConfigError if the teacher has no features, or too few layers for the mapping."""
        super().check_teacher(name, teacher, student, project)
        if self.mapping:
            _places(
                self.mapping, student.module_of(project).layers(), teacher.module_of(project).layers(), name
            )

    def pair_widths(self, sizes: PartSizes) -> list[tuple[int, int]]:
        """Return the widths of student and teacher of each pair that is compared, teacher by teacher.

        Raise ConfigError where there is nothing to compare.
        """
        signal, names = ("layers" if self.mapping else "vectors"), [self.of, *self.teachers()]
        widths = (
            sizes.layer_widths if self.mapping else {name: [width] for name, width in sizes.widths.items()}
        )
        for name in names:
            if name not in widths:
                raise ConfigError(f"{type(self).__name__.lower()}: '{name}' gives no {signal}")
        student, *teachers = (widths[name] for name in names)
        return [
            (student[i], teacher[j])
            for name, teacher in zip(names[1:], teachers, strict=True)
            for i, j in _places(self.mapping, len(student), len(teacher), name)
        ]

    def over_pairs(self, step: Step, measure: Callable[[Any, Any], Any]) -> Any:
        """Return the loss of each row, [rows] or [teachers, rows], by that of each pair of a teacher.

        `measure` takes the numbers [rows, width] of student and teacher, in the order of `pair_widths`, and
        returns [rows]. The loss is the mean over the pairs, or weighed by the cheapest transport.
        """
        import torch

        values = []
        for name in self.teachers():
            losses = torch.stack([measure(*pair) for pair in self._pairs(step, name)])
            if self.mapping == "emd":
                costs = losses.detach().mean(1).view(len(step.states(self.of)), -1)
                moved = torch.tensor(transport(costs.tolist())).to(losses)
                values.append((moved.view(-1, 1) * losses).sum(0))
            else:
                values.append(losses.mean(0))
        return step.over_teachers(self, values)

    def _pairs(self, step: Step, name: str) -> Iterator[tuple[Any, Any]]:
        """Yield the numbers [rows, width] of student and teacher of each pair that is compared."""
        if self.mapping is None:
            yield step.vector(self.of), step.vector(name).detach()
            return
        student, teacher = step.states(self.of), step.states(name)
        for i, j in _places(self.mapping, len(student), len(teacher), name):
            yield student[i], teacher[j].detach()


def _places(mapping: LayerMapping | None, student: int, teacher: int, name: str) -> Sequence[tuple[int, int]]:
    """Return the places, from 0, of the layers that are compared. Raise ConfigError if there are too few."""
    if mapping == "emd":
        return [(i, j) for i in range(student) for j in range(teacher)]
    if teacher < student:
        raise ConfigError(f"mapping: the student has {student} layers, and '{name}' {teacher}; take emd")
    if mapping == "skip":
        return [(i, (i + 1) * (teacher // student) - 1) for i in range(student)]
    return [(i, i + teacher - student) for i in range(student)]


def transport(costs: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return what the cheapest transport moves between equal masses: of each row 1 / n, to each column 1 / m.

    `costs` [n, m] are those of one unit; all that is moved sums to 1.
    """
    import numpy
    from scipy.optimize import linprog

    n, m = len(costs), len(costs[0])
    rows = numpy.kron(numpy.eye(n), numpy.ones(m))
    columns = numpy.kron(numpy.ones(n), numpy.eye(m))
    masses = [1 / n] * n + [1 / m] * m
    plan = linprog(numpy.ravel(costs), A_eq=numpy.vstack([rows, columns]), b_eq=masses, method="highs").x
    moved: list[list[float]] = plan.reshape(n, m).tolist()
    return moved
