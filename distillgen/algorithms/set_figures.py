"""Figures of a whole set of answers, which are no means over its items: balanced accuracy, macro-F1, and the
expected calibration error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from distillgen.algorithms.resampling import (
    Cell,
    Sums,
    bootstrap,
    bootstrap_interval,
    exchange_p,
    rows_of,
    sums,
)

BINS = 15  # of the calibration error (Guo et al. 2017, section 5)
METHOD = "double-or-nothing bootstrap of figures of the set"


class Guess(NamedTuple):
    """An answer to one item."""

    answer: str | None
    """Its class; None if it is no class of the gold answers."""
    gold: str
    probability: float | None = None
    """That of the answer, from 0 to 1; None if unknown."""

    @property
    def right(self) -> bool:
        """Whether it is the gold answer."""
        return self.answer == self.gold


class SetFigure(NamedTuple):
    """A figure from 0 to 1."""

    cells: Callable[[Sequence[Guess], Sequence[str]], list[Cell]]
    """The cells of answers, and of the classes of the gold answers; the same cells for every model."""
    value: Callable[[Sums], float]
    of_probabilities: bool = False
    """Whether it needs the probability of the answer."""


def _classes(guesses: Sequence[Guess], classes: Sequence[str]) -> list[Cell]:
    """Return three cells of each class: items that are of it, answers that are it, and both."""
    return [
        Cell(rows_of(selectors))
        for name in classes
        for selectors in (
            [guess.gold == name for guess in guesses],
            [guess.answer == name for guess in guesses],
            [guess.gold == name == guess.answer for guess in guesses],
        )
    ]


def _balanced_accuracy(of_classes: Sums) -> float:
    """Return the mean recall of the classes that the items have (Brodersen et al. 2010)."""
    recalls = [hits / gold for gold, hits in zip(of_classes[::3], of_classes[2::3], strict=True) if gold]
    return sum(recalls) / len(recalls)


def _macro_f1(of_classes: Sums) -> float:
    """Return the mean F1 of the classes that the items or the answers have; 0 for one without a hit."""
    columns = zip(of_classes[::3], of_classes[1::3], of_classes[2::3], strict=True)
    f1 = [2 * hits / (gold + answers) for gold, answers, hits in columns if gold + answers]
    return sum(f1) / len(f1)


def _bins(guesses: Sequence[Guess], classes: Sequence[str]) -> list[Cell]:
    """Return a cell of all rows, and for each bin one of the right and one of the wrong answers, whose value
    is their mean probability less 1, or less 0.
    """
    cells = [Cell((1 << len(guesses)) - 1)]
    bins = [min(int((guess.probability or 0.0) * BINS), BINS - 1) for guess in guesses]
    for number in range(BINS):
        for right in (True, False):
            selectors = [
                place == number and guess.right == right for place, guess in zip(bins, guesses, strict=True)
            ]
            rows = [g.probability or 0.0 for g, inside in zip(guesses, selectors, strict=True) if inside]
            cells.append(Cell(rows_of(selectors), sum(rows) / len(rows) - right if rows else 0.0))
    return cells


def _ece(of_bins: Sums) -> float:
    """Return the expected calibration error (Guo et al. 2017, equation 3), in BINS bins of equal width."""
    rows, *halves = of_bins
    return sum(abs(one + other) for one, other in zip(halves[::2], halves[1::2], strict=True)) / rows


FIGURES: Mapping[str, SetFigure] = {
    "balanced_accuracy": SetFigure(_classes, _balanced_accuracy),
    "macro_f1": SetFigure(_classes, _macro_f1),
    "ece": SetFigure(_bins, _ece, of_probabilities=True),
}


class Measured:
    """A figure of the answers of one model, one an item; None for an item without an answer."""

    def __init__(self, name: str, guesses: Sequence[Guess | None]) -> None:
        self.name, self.guesses, self._figure = name, guesses, FIGURES[name]
        self.usable = [i for i, guess in enumerate(guesses) if guess and not self._lacks_probability(guess)]
        """The numbers of the items of which it is a figure."""

    def _lacks_probability(self, guess: Guess) -> bool:
        return self._figure.of_probabilities and guess.probability is None

    def of(self, items: Sequence[int]) -> Measured:
        """Return the figure of some items, in this order."""
        return Measured(self.name, [self.guesses[i] for i in items])

    @cached_property
    def _rows(self) -> list[Guess]:
        return [guess for i in self.usable if (guess := self.guesses[i])]

    @cached_property
    def cells(self) -> list[Cell]:
        """The cells of the usable answers."""
        return self._figure.cells(self._rows, sorted({guess.gold for guess in self._rows}))

    def value(self, of_cells: Sums) -> float:
        """Return the figure of sums over the cells."""
        return self._figure.value(of_cells)

    @cached_property
    def mean(self) -> float:
        """The figure of all usable answers, of which there must be one."""
        return self.value(sums(self.cells, (1 << len(self.usable)) - 1))

    @cached_property
    def resampled(self) -> list[float]:
        """The figure of random subsets of the usable answers."""
        return bootstrap(len(self.usable), lambda rows: self.value(sums(self.cells, rows)))

    def summary(self) -> dict[str, Any]:
        """Return the figure as `mean`, its 95 % interval, the method, and the number of answers."""
        if not self.usable:
            return {"n": 0}
        low, high = bootstrap_interval(self.mean, self.resampled)
        low, high = min(max(low, 0.0), self.mean), max(min(high, 1.0), self.mean)
        return {"mean": self.mean, "low": low, "high": high, "method": METHOD, "n": len(self.usable)}


def compared(first: Measured, second: Measured) -> dict[str, Any] | None:
    """Return the difference of two models on the items that both have a usable answer to, its 95 % interval,
    and the two-sided p of a test that exchanges their answers item by item; None without such an item.
    """
    if first.usable != second.usable:
        both = sorted({*first.usable} & {*second.usable})
        first, second = first.of(both), second.of(both)
    if not first.usable:
        return None
    difference = first.mean - second.mean
    values = [one - other for one, other in zip(first.resampled, second.resampled, strict=True)]
    low, high = bootstrap_interval(difference, values)
    low, high = max(min(low, difference), -1.0), min(max(high, difference), 1.0)
    p = _exchange_p(first, second)
    return {"difference": difference, "low": low, "high": high, "method": METHOD, "p": p}


def _exchange_p(first: Measured, second: Measured) -> float:
    """Return the p of two models with usable answers to the same items."""
    order = sorted(first.usable, key=lambda i: first.guesses[i] == second.guesses[i])
    unequal = sum(first.guesses[i] != second.guesses[i] for i in order)
    ones, others, every = first.of(order), second.of(order), (1 << len(order)) - 1
    totals = [*zip(sums(ones.cells, every), sums(others.cells, every), strict=True)]

    def difference(rows: int) -> float:
        moved = [b - a for a, b in zip(sums(ones.cells, rows), sums(others.cells, rows), strict=True)]
        one = [a + change for (a, _), change in zip(totals, moved, strict=True)]
        other = [b - change for (_, b), change in zip(totals, moved, strict=True)]
        return first.value(one) - first.value(other)

    return exchange_p(unequal, difference)
