"""Which layers of a student learn from which of its teacher's (He et al. 2021, Distiller, layer mapping).

Of n layers of a student and m of a teacher, `skip` compares the layer i with the layer i · ⌊m / n⌋, and
`last` with the layer i + m − n. `emd` compares all pairs: each of the student's layers has the mass 1 / n,
each of the teacher's 1 / m, and the weight of a pair is what the cheapest transport between them moves,
where its cost is the mean loss of the pair over the batch (Li et al. 2020, BERT-EMD).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from distillgen.errors import ConfigError
from distillgen.networks.spec import NetworkSpec
from distillgen.project import Project
from distillgen.training.part import Loss, PartSizes

if TYPE_CHECKING:
    from distillgen.training.step import Step

LayerMapping: TypeAlias = Literal["skip", "last", "emd"]
DESCRIPTION = (
    "layers that are compared, of networks that have some: skip, every so many of the teacher's; last, its "
    "last ones; emd, all pairs, weighed by the cheapest transport; default: the last features alone"
)


def check_layers(mapping: LayerMapping | None, spec: NetworkSpec, project: Project) -> None:
    """Raise ConfigError if layers are to be compared, and the network that learns has none."""
    if mapping and not spec.module_of(project).layers():
        raise ConfigError(
            f"mapping: it compares layers, and student body '{spec.body}' has none that it gives; take "
            "{mlp: [64, 32]}"
        )


def widths_of_pairs(loss: Loss, mapping: LayerMapping | None, sizes: PartSizes) -> list[tuple[int, int]]:
    """Return the widths of student and teacher of each pair that is compared, teacher by teacher.

    Raise ConfigError where there is nothing to compare.
    """
    names = [loss.of, *loss.teachers()]
    widths_of = sizes.layer_widths if mapping else {name: [width] for name, width in sizes.widths.items()}
    for name in names:
        if name not in widths_of:
            raise ConfigError(f"'{name}' gives no {'layers' if mapping else 'vectors'}")
    student, *teachers = (widths_of[name] for name in names)
    return [
        (student[i], teacher[j])
        for name, teacher in zip(names[1:], teachers, strict=True)
        for i, j in _places(mapping, len(student), len(teacher), name)
    ]


def pairs(loss: Loss, mapping: LayerMapping | None, step: Step, name: str) -> Iterator[tuple[Any, Any]]:
    """Yield the numbers [rows, width] of student and teacher of each pair that is compared."""
    if mapping is None:
        yield step.vector(loss.of), step.vector(name).detach()
        return
    student, teacher = step.states(loss.of), step.states(name)
    for i, j in _places(mapping, len(student), len(teacher), name):
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


def over_pairs(mapping: LayerMapping | None, step: Step, of: str, values: Sequence[Any]) -> Any:
    """Return the loss [rows] of those of all pairs: their mean, or weighed by the cheapest transport."""
    import torch

    losses = torch.stack(list(values))
    if mapping != "emd":
        return losses.mean(0)
    costs = losses.detach().mean(1).view(len(step.states(of)), -1)
    return (torch.tensor(transport(costs.tolist())).to(losses).view(-1, 1) * losses).sum(0)


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
