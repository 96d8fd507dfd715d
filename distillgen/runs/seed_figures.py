"""What the runs of several seeds have measured: means over seeds, and paired differences between models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from distillgen.algorithms.sign_flips import sign_flip_p
from distillgen.runs.directory import Run, evaluations


class Figure(NamedTuple):
    """A number that each seed measures."""

    stage: str
    metric: str
    model: str
    """The model that was evaluated; empty for a measure of records or of a training."""
    share: bool
    """Whether it is a mean of values between 0 and 1, which people read in percent."""

    @property
    def of_models(self) -> tuple[str, str]:
        """The stage and the metric, which are the same for all models."""
        return self.stage, self.metric


def summary(by_seed: Sequence[Mapping[Figure, float] | None]) -> dict[str, list[dict[str, Any]]]:
    """Return the figures over seeds, and the comparisons of each two models, as `seeds.json` has them.

    `by_seed` are the figures of each run, None for one that is not finished. The standard error is that of
    the mean over seeds, the deviation over the square root of their number; None for a single seed.
    """
    figures = list(dict.fromkeys(figure for of_seed in by_seed for figure in of_seed or ()))
    metrics = list(dict.fromkeys(figure.of_models for figure in figures))
    figures.sort(key=lambda figure: metrics.index(figure.of_models))
    values = {figure: [of_seed.get(figure) if of_seed else None for of_seed in by_seed] for figure in figures}
    means = [
        {**figure._asdict(), **_mean([v for v in of_seeds if v is not None]), "values": of_seeds}
        for figure, of_seeds in values.items()
    ]
    pairs = [
        (first, second)
        for first, second in combinations(values, 2)
        if first.of_models == second.of_models and first.model
    ]
    return {"figures": means, "comparisons": [_compared(*pair, values) for pair in pairs]}


def apart(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Return the rows of metrics, and those of what they measure beside their own, such as `exact.f1`."""
    main = [row for row in rows if "." not in row["metric"]]
    return main, [row for row in rows if "." in row["metric"]]


def _compared(
    first: Figure, second: Figure, values: Mapping[Figure, Sequence[float | None]]
) -> dict[str, Any]:
    """Return the mean difference of two models over the seeds that both have, and its exact p.

    `wins` counts the seeds in which the first has the larger figure, `losses` those in which it has the
    smaller one.
    """
    both = zip(values[first], values[second], strict=True)
    differences = [one - other for one, other in both if one is not None and other is not None]
    mean = _mean(differences)
    return {
        "stage": first.stage,
        "metric": first.metric,
        "share": first.share,
        "first": first.model,
        "second": second.model,
        "difference": mean.pop("mean"),
        **mean,
        "wins": sum(difference > 0 for difference in differences),
        "losses": sum(difference < 0 for difference in differences),
        "p": sign_flip_p(differences),
    }


def _mean(values: Sequence[float]) -> dict[str, Any]:
    several = len(values) > 1
    return {
        "mean": fmean(values) if values else None,
        "standard_error": stdev(values) / math.sqrt(len(values)) if several else None,
        "seeds": len(values),
    }


def figures_of(run: Run) -> dict[Figure, float]:
    """Return the figures of the models that a run evaluates, then what its other stages measured."""
    figures = dict(_evaluated(run.directory, ""))
    for stage in run.state["stages"]:
        if stage["kind"] != "evaluate":
            for title, value in stage["measured"].items():
                figures[Figure(stage["name"], title, "", share=False)] = value
    return figures


def _evaluated(directory: Path, outside: str) -> Iterator[tuple[Figure, float]]:
    """Yield the figures of the evaluations of a run, and of the last round of its loops."""
    for result in evaluations(directory):
        for model, report in result["models"].items():
            for metric, value, share in _of_model(report):
                yield Figure(outside + result["name"], metric, model, share), value
    for last in sorted(directory.glob("*/last")):
        yield from _evaluated(last, f"{outside}{last.parent.name}.")


def _of_model(report: Mapping[str, Any]) -> Iterator[tuple[str, float, bool]]:
    """Yield the metric, the value and whether it is a share, of all figures in the report of a model."""
    shares = dict(_shares(report))
    yield from ((metric, value, True) for metric, value in shares.items())
    for metric in ("perplexity", "ece"):
        if metric in report and metric not in shares:
            yield metric, report[metric], False
    yield from ((figure, value, False) for figure, value in report["judges"].items())
    for name, value in report["numbers"].items():
        if shares.get(name) != value:  # a number of 0 or 1 has the same mean as its share
            yield f"mean {name}", value, False


def _shares(report: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the metrics, and the figures of the same form, that have a value."""
    for part, value in report.items():
        for metric, figure in {part: value, **(value if isinstance(value, Mapping) else {})}.items():
            if isinstance(figure, Mapping) and isinstance(figure.get("mean"), float | int):
                yield metric, figure["mean"]
