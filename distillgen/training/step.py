"""One step of the loop, as losses and weights see it: the batch, and what every network says of it.

It needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.func import functional_call

from distillgen.errors import ConfigError
from distillgen.networks.network import Layers, Out
from distillgen.training.mixup import LABEL, SHARE

STUDENT = "student"


class Step:
    """A batch, and what the networks say of it, computed once."""

    def __init__(
        self,
        learner: Any,
        batch: Mapping[str, Any],
        *,
        at: Mapping[str, Any] | None = None,
        weights: Mapping[str, Any] | None = None,
        learning: bool = False,
    ) -> None:
        self.batch, self.learning = batch, learning
        """`learning` is true in the step that trains, and false where a loss is only looked at: state
        advances in the former.
        """
        self.progress, self.epoch, self.count = learner.when
        """The share of the training that is done, the passes over the rows, and the updates so far."""
        self._learner, self._at, self._outs = learner, at, dict[str, Out]()
        self._weights = dict(weights or {})

    def out(self, name: str = STUDENT) -> Out:
        """Return what a network or teacher says of the batch.

        The student and its peers have gradients; live teachers are frozen; recorded ones are columns.
        """
        if name not in self._outs:
            self._outs[name] = self._learner.ask(name, self.batch, self._at if name == STUDENT else None)
        return self._outs[name]

    def logits(self, loss: Any) -> Any:
        """Return the logits [positions, outcomes] of the head that learns by a loss, by class."""
        out = self.out(loss.of)
        return self._learner.by_class(loss.of, loss.head or next(iter(out.classes)), out)

    def subclasses(self, loss: Any) -> Any:
        """Return the logits [rows, classes · groups] of the head that learns by a loss, by subclass."""
        classes = self.out(loss.of).classes
        return classes[loss.head or next(iter(classes))]

    def teacher(self, name: str) -> Any:
        """Return the logits [rows, classes] of a teacher, or of `student`, in the order of the student's.

        What a recorded teacher leaves over is shared among the classes that it does not name.
        """
        return self._learner.in_order(name, self._of_teacher(name))

    def vector(self, name: str, *, exchanged: bool = True) -> Any:
        """Return the features of a network, or the vectors that a teacher gave [rows, width].

        Without `exchanged`, they are those of the rows themselves, also in a control arm that gives them to
        others. Raise ConfigError if there are none.
        """
        network = self._learner.network_of(name)
        vectors = (self._of_teacher(name) if exchanged else self.out(network)).features
        if vectors is None:
            raise ConfigError(
                f"'{name}' gives no vectors; name a stage embed, a field of numbers or a network"
            )
        return vectors

    def tokens(self, name: str) -> Any:
        """Return the tokens [rows, tokens, width] of a network or live teacher. Raise ConfigError without."""
        tokens = self._of_teacher(name).tokens
        if tokens is None:
            raise ConfigError(f"'{name}' gives no tokens; name a network whose body has some")
        return tokens

    def layers(self, name: str) -> Layers:
        """Return what a language model says layer by layer. Raise ConfigError if it says nothing so."""
        layers = self._of_teacher(name).layers
        if layers is None:
            raise ConfigError(f"'{name}' gives no layers; name a decoder on this machine")
        return layers

    def states(self, name: str) -> Sequence[Any]:
        """Return the numbers [rows, width] of each layer of a network or live teacher.

        Raise ConfigError if it gives none.
        """
        states: Sequence[Any] | None = self._of_teacher(name).states
        if not states:
            raise ConfigError(f"'{name}' gives no layers; name a network such as {{mlp: [64, 32]}}")
        return states

    def projections(self, name: str) -> Any:
        """Return queries, keys and values [rows, 3, tokens, width] of a network or live teacher.

        Raise ConfigError if there are none.
        """
        projections = self._of_teacher(name).projections
        if projections is None:
            raise ConfigError(f"'{name}' gives no queries, keys and values; name a network {{supernet: …}}")
        return projections

    def _of_teacher(self, name: str) -> Out:
        """Return what a network or teacher says of the rows, or of others if a control arm exchanges it."""
        out = self.out(self._learner.network_of(name))
        return _exchanged(out) if name in self._learner.teachers.exchanged else out

    def pairs(self, loss: Any) -> list[tuple[Any, Any]]:
        """Return the logits of student and teacher over the teacher's outcomes, for each teacher of a loss.

        The outcomes are all classes or tokens; or, where a teacher named only some of them, these, and the
        tail: one more outcome for all others. The teacher's are detached, unless the loss has an option
        `through` that is true.
        """
        names = loss.teacher if isinstance(loss.teacher, list) else [str(loss.teacher)]
        logits = self.logits(loss)
        pairs = [self._learner.pair(name, logits, self) for name in names]
        if getattr(loss, "through", False):
            return pairs
        return [(student, teacher.detach()) for student, teacher in pairs]

    def over_teachers(self, loss: Any, values: Sequence[Any]) -> Any:
        """Return values by teacher as a loss returns them: [rows] for one teacher, else [teachers, rows]."""
        return torch.stack(list(values)) if isinstance(loss.teacher, list) else values[0]

    @property
    def size(self) -> int:
        """The number of rows."""
        return len(self.batch["row"])

    @property
    def label(self) -> Any:
        """The class of each row, or each learnt token [positions]; -100 where there is none."""
        return self._learner.label(self.batch)

    @property
    def labels(self) -> list[tuple[Any, Any]]:
        """The labels as `label` gives them, with their shares: of mixtures of two rows, those of both."""
        if SHARE not in self.batch:
            return [(self.label, 1.0)]
        share = self.batch[SHARE]
        return [(self.label, share), (self.batch[LABEL], 1 - share)]

    def per_row(self, values: Any, of: str = STUDENT) -> Any:
        """Return the mean of values [positions] over each row's positions [rows]; 0 for a row without any."""
        place = self.out(of).place
        counts = torch.bincount(place, minlength=self.size).clamp(min=1)
        return values.new_zeros(self.size).index_add(0, place, values) / counts

    def weight(self, formula: float | str) -> Any:
        """Return the value of a weight: a number, or arithmetic over weights, progress and epoch."""
        if not isinstance(formula, str):
            return formula
        arithmetic = self._learner.arithmetic(formula)
        names = {name: self._value(name) for name in arithmetic.names}
        return arithmetic.value(names)

    def _value(self, name: str) -> Any:
        if name in ("progress", "epoch"):
            return getattr(self, name)
        if name not in self._weights:
            self._weights[name] = self._learner.weight_rows(name, self)
        return self._weights[name]

    def total(self) -> Any:
        """Return the mean over the rows of all losses, each times its weight; over teachers, the sum."""
        total = 0.0
        for loss, module in self._learner.losses_with_modules:
            rows = self.weight(loss.weight) * loss.rows(self, module)
            total = total + (rows.sum(0) if rows.dim() == 2 else rows).mean()
        return total

    def parameters(self, *, detached: bool = True) -> dict[str, Any]:
        """Return copies of the student's trained weights, for which a gradient can be taken.

        With `detached: false` they are the weights themselves, which then learn through a step from them.
        """
        student = self._learner.networks[STUDENT]
        weights = {name: value for name, value in student.named_parameters() if value.requires_grad}
        if not detached:
            return weights
        return {name: value.detach().clone().requires_grad_() for name, value in weights.items()}

    def again(
        self,
        *,
        at: Mapping[str, Any] | None = None,
        batch: Mapping[str, Any] | None = None,
        weights: Mapping[str, Any] | None = None,
    ) -> Step:
        """Return the same step with other weights of the student, other rows, or other values of weights.

        Recorded and live teachers are asked about the rows anew. No state advances in it.
        """
        return Step(self._learner, self.batch if batch is None else batch, at=at, weights=weights)

    def draw(self, part: str, count: int) -> Mapping[str, Any]:
        """Return up to `count` validation rows: a pure function of the seed, `part` and the step."""
        rows: Mapping[str, Any] = self._learner.draw(part, count, self.count)
        return rows

    def generator(self, part: str) -> Any:
        """Return a generator of random numbers: a pure function of the seed, `part` and the step."""
        return self._learner.generator(part, self.count)

    def mean(self, value: Any) -> Any:
        """Return the mean of a value over all processes that train together."""
        value = value.detach().clone()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(value)
            value = value / torch.distributed.get_world_size()
        return value


def _exchanged(out: Out) -> Out:
    """Return what a network says of other rows of the batch."""
    features, tokens, projections = (
        None if values is None else _rolled(values) for values in (out.features, out.tokens, out.projections)
    )
    layers = out.layers and Layers(
        [_rolled(values) for values in out.layers.states],
        [_rolled(values) for values in out.layers.attention],
        _rolled(out.layers.there),
    )
    logits = {name: _rolled(values) for name, values in out.classes.items()}
    states = [_rolled(values) for values in out.states]
    return Out(logits, out.place, features, tokens, layers=layers, projections=projections, states=states)


def _rolled(values: Any) -> Any:
    """Return values with those of the first half behind those of the second."""
    return values.roll(max(1, len(values) // 2), 0)


def descended(at: Mapping[str, Any], loss: Any, rate: float) -> dict[str, Any]:
    """Return the weights after a step of gradient descent, as a function of what the loss depends on."""
    gradients = torch.autograd.grad(loss, list(at.values()), create_graph=True, allow_unused=True)
    return {
        name: value if gradient is None else value - rate * gradient
        for (name, value), gradient in zip(at.items(), gradients, strict=True)
    }


def called(network: Any, batch: Mapping[str, Any], at: Mapping[str, Any] | None) -> Out:
    """Return what a network says of a batch, at other weights if there are some."""
    out: Out = functional_call(network, dict(at), (batch,)) if at is not None else network(batch)
    return out
