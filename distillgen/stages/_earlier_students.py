"""The students of earlier trainings: which there are, where they are, and what they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from distillgen.errors import ConfigError
from distillgen.flow.stage import BoundStage, CheckContext
from distillgen.networks.body import Body
from distillgen.networks.spec import NetworkSpec
from distillgen.project import Project
from distillgen.stages._train_options import TrainOptions
from distillgen.training import students
from distillgen.training.objective import Objective


@dataclass(frozen=True)
class BoundTraining(BoundStage):
    """A stage that trains, with what later trainings ask about it."""

    stage: TrainOptions
    learning: Objective = field(kw_only=True)
    first: str = field(kw_only=True)
    """The student that the training begins with; in rounds, that of the first round; "" for a network."""


class EarlierStudent(NamedTuple):
    """A student that an earlier stage trains, and its folder from the directory of the stage at hand."""

    training: BoundTraining
    folder: Path
    peer: str = ""
    """The name of the peer, if the student is one."""

    @property
    def demonstrated(self) -> bool:
        """Whether the student reads demonstrations as vectors."""
        return self.training.learning.gives() == "demonstrated"

    @property
    def inputs(self) -> list[str] | None:
        """The fields that the student reads; None for a language model."""
        return self.training.learning.network_inputs(self.peer)


EarlierStudents = Mapping[str, EarlierStudent]
"""The students of earlier trainings, and their peers, by name."""


def earlier_students(context: CheckContext) -> dict[str, EarlierStudent]:
    """Return the students that earlier stages train, also those in earlier loops, by name."""

    def within(bound: BoundStage, directory: Path) -> Iterator[tuple[str, EarlierStudent]]:
        if isinstance(bound, BoundTraining):
            name = bound.stage.student_name
            yield name, EarlierStudent(bound, directory / name)
            for peer in bound.learning.peers():
                yield f"{name}-{peer}", EarlierStudent(bound, directory / name / students.PEERS / peer, peer)
        for inner in bound.inner():  # the student of a loop is that of its last round
            yield from within(inner, directory / bound.name / "last")

    return {
        name: student
        for place, bound in enumerate(context.stages)
        for name, student in within(bound, Path(*[".."] * 2 * context.loops_behind(place)))
    }


def lineage(name: str, earlier: EarlierStudents) -> Iterator[tuple[str, EarlierStudent]]:
    """Yield an earlier student, the student that its training began with, and so on; each with its name."""
    while name in earlier:
        yield name, earlier[name]
        training = earlier[name].training
        name, earlier = training.first, earlier_students(training.context)


def token_donors(name: str, earlier: EarlierStudents) -> Iterator[str]:
    """Yield an earlier student, and those from which it has its tokens."""
    while name in earlier:
        yield name
        training = earlier[name].training
        donor = training.stage.tiny.donor if training.stage.tiny else None
        name, earlier = donor or training.first, earlier_students(training.context)


def sees_pictures(stage: TrainOptions, first: str, earlier: EarlierStudents, root: Path) -> bool | None:
    """Return whether the language model that a stage trains takes pictures; None if that is unknown."""
    for _, student in lineage(first, earlier):
        stage, first = student.training.stage, student.training.first
    return students.outline(first, root, tiny=stage.tiny).sees if first else False


def network_of(name: str, earlier: EarlierStudents, project: Project) -> NetworkSpec:
    """Return the network that an earlier student or peer is."""
    training, _, peer = earlier[name]
    if peer:
        return NetworkSpec.of(training.learning.peers()[peer].peer or {}, project)
    if isinstance(training.stage.student, dict):
        return NetworkSpec.of(training.stage.student, project)
    return network_of(training.first, earlier_students(training.context), project)


def body_of(name: str, earlier: EarlierStudents, project: Project) -> Body:
    """Return the body of an earlier student or peer. Raise ConfigError if it is no network."""
    if earlier[name].inputs is None:
        raise ConfigError(f"'{name}' is no network")
    return network_of(name, earlier, project).module_of(project)
