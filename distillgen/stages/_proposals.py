"""Which choices a search tries next."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal

from distillgen.extras import need
from distillgen.record import dumps

Strategy = Literal["all", "random", "tpe", "evolution"]
OF_OPTUNA = ("tpe", "evolution")
MOST_ASKS = 50  # proposals in vain, for each trial, after which a strategy has nothing new

Space = Mapping[str, Sequence[Any]]
Choices = dict[str, Any]


def size_of(space: Space) -> int:
    """Return the number of combinations."""
    return math.prod(len(values) for values in space.values())


def combinations(space: Space) -> Iterator[Choices]:
    """Yield all combinations; the last path changes fastest."""
    for values in product(*space.values()):
        yield dict(zip(space, values, strict=True))


def each_alone(space: Space) -> Iterator[Choices]:
    """Yield the first combination, and those that differ from it in one choice."""
    first = {path: values[0] for path, values in space.items()}
    yield first
    for path, values in space.items():
        for value in values[1:]:
            yield {**first, path: value}


class Proposals:
    """Yields choices, none twice. Each is to be told its value before the next is asked for."""

    def __init__(self, space: Space, strategy: Strategy, n: int, seed: int, lowest: bool) -> None:
        self._space, self._strategy, self._seed = space, strategy, seed
        self._n, self._lowest = min(n, size_of(space)), lowest
        self._values: dict[bytes, float | None] = {}

    def tell(self, choices: Choices, value: float | None) -> None:
        """Say what came of choices; None if nothing did."""
        self._values[dumps(choices)] = value

    def __iter__(self) -> Iterator[Choices]:
        if self._strategy == "all":
            yield from combinations(self._space)
        elif self._strategy == "random":
            for place in random.Random(self._seed).sample(range(size_of(self._space)), self._n):
                yield self._at(place)
        else:
            yield from self._of_optuna()

    def _at(self, place: int) -> Choices:
        choices = {}
        for path, values in reversed([*self._space.items()]):
            place, i = divmod(place, len(values))
            choices[path] = values[i]
        return {path: choices[path] for path in self._space}

    def _of_optuna(self) -> Iterator[Choices]:
        """Yield what a sampler of optuna proposes, which is the same for the same seed and values."""
        need(f"strategy: {self._strategy}", "optuna")
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = (
            optuna.samplers.TPESampler(seed=self._seed)
            if self._strategy == "tpe"
            else optuna.samplers.NSGAIISampler(seed=self._seed, population_size=max(2, self._n // 4))
        )
        study = optuna.create_study(direction="minimize" if self._lowest else "maximize", sampler=sampler)
        places = {
            path: optuna.distributions.CategoricalDistribution(range(len(values)))
            for path, values in self._space.items()
        }
        for _ in range(MOST_ASKS * self._n):
            trial = study.ask(places)
            choices = {path: values[trial.params[path]] for path, values in self._space.items()}
            if dumps(choices) not in self._values:
                yield choices
            value = self._values[dumps(choices)]
            if value is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, value)
            if len(self._values) >= self._n:
                return
