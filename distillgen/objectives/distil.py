"""distil: a student learns by losses from teachers of any kind (Hinton et al. 2015, Buciluǎ et al. 2006).

A loss gives a number a row, a weight multiplies it, and one loop trains the student, its peers, and whatever
the losses and weights learn themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillgen.inference.logprobs import Signal
from distillgen.networks.body import shape_of
from distillgen.objectives._teaching import Teaching
from distillgen.record import Record, is_reference, text_of
from distillgen.training.inputs import Prepared, TrainingInputs
from distillgen.training.objective import Gives
from distillgen.training.part import chance_of, losses_of, weights_of
from distillgen.training.rows import Row, Unusable
from distillgen.training.sources import KINDS, words
from distillgen.training.token_rows import TOKENS, token_row

COLUMN, INPUT, NEIGHBOURS, GROUP = "teacher.", "input.", "neighbours", "group"


class Distil(Teaching):
    """Train a network, or a language model, by losses and weights that `losses/` holds.

    With `inputs`, the student is a network over these fields. Without, it is a language model that learns the
    answers of dialogues.
    """

    signals = True

    def rate(self) -> float:
        """Return the default learning rate: of a network that begins with random weights, 0.001."""
        return self.learning_rate if self.inputs is None else 1e-3

    def gives(self) -> Gives:
        """Return what the student answers: classes, or texts."""
        return "text" if self.inputs is None else "classes"

    def answers(self) -> tuple[str, ...]:
        """Return the columns of the recorded teachers, and of the edges; without any, that of the labels.

        What live teachers say is exchanged inside of each batch.
        """
        if self.inputs is None:
            return TOKENS if self.recorded() else () if self.models() else super().answers()
        if self.shuffle is not None:
            names = [name for name in self.shuffle if name in self.recorded()]
            return tuple(f"{COLUMN}{name}.{kind}" for name in names for kind in KINDS)
        columns = [f"{COLUMN}{name}.{kind}" for name in self.recorded() for kind in KINDS]
        live = any(source.model for source in self.teachers.values())
        return (*columns, NEIGHBOURS) if columns or live else (NEIGHBOURS, "label")

    def learns_all_parts(self) -> bool:
        """Return whether it learns from validation and held-out records, too, without their labels."""
        return self.transductive

    def row(self, record: Record, signals: Mapping[str, Signal]) -> Row:
        """Return the inputs, the label, and what each recorded teacher said. Raises Unusable."""
        if self.inputs is None:
            return self._dialogue(record, signals)
        row: Row = {"id": record.id}
        for name in self._fields():
            row[f"{INPUT}{name}"] = _input(record.fields.get(name), name)
        label = record.fields.get(self.label) if self.label else None
        row["label"] = [] if label is None else [text_of(label)]
        if self.group is not None:
            if record.fields.get(self.group) is None:
                raise Unusable(f"'{self.group}' is missing")
            row[GROUP] = text_of(record.fields[self.group])
        for name, source in self.recorded().items():
            columns = words(record, signals, source)
            row |= {f"{COLUMN}{name}.{column}": value for column, value in columns.items()}
        if isinstance(record.fields.get(self.neighbours), list):
            row["node"] = text_of(record.fields.get(self.node))
            row[NEIGHBOURS] = [text_of(node) for node in record.fields[self.neighbours]]
        return row

    def _dialogue(self, record: Record, signals: Mapping[str, Signal]) -> Row:
        example = self.example(record)
        source = next(iter(self.recorded().values()), None)
        if source is None:
            return {"id": record.id, **example, **self.offered(record)}
        return {"id": record.id} | token_row(example, signals.get(str(source.stage), Signal()))

    # in the training's process

    def prepare(self, inputs: TrainingInputs) -> Prepared:
        """Prepare the loop with the student, its peers and its teachers."""
        from distillgen.training.assembly import Lesson, network_loop
        from distillgen.training.language_loop import language_loop

        losses, weights = losses_of(self.losses, inputs.project), weights_of(self.weights, inputs.project)
        lesson = Lesson(
            losses,
            weights,
            self.teachers,
            self.inputs,
            self.transductive,
            self.learn_validation,
            mixup=self.mixup,
            shuffle=self.shuffle,
            draw=chance_of(self.draw, inputs.project),
            blend=self.blend,
        )
        return (language_loop if self.inputs is None else network_loop)(lesson, inputs)


def _input(value: Any, name: str) -> Any:
    """Return an input as nested lists of numbers, a text, or a reference to a file. Raises Unusable."""
    if isinstance(value, str) and value.strip() or is_reference(value):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = [value]
    try:
        shape_of(value)
    except ValueError as error:
        raise Unusable(f"'{name}' holds neither numbers nor a text: {error}") from error
    return value
