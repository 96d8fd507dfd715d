"""Figures over paired seeds, as the benchmarks print them."""

from collections.abc import Sequence
from statistics import fmean, stdev

from distillgen.algorithms.sign_flips import sign_flip_p


def spread(values: Sequence[float], digits: int = 1, sign: str = "") -> str:
    """Return the mean over seeds with its standard error."""
    return f"{fmean(values):{sign}.{digits}f} ± {stdev(values) / len(values) ** 0.5:.{digits}f}"


def difference(gaps: Sequence[float], digits: int = 1) -> str:
    """Return the mean of paired differences with its standard error, and the p of a sign-flip test."""
    larger = sum(gap > 0 for gap in gaps)
    return f"{spread(gaps, digits, '+')}, larger in {larger} of {len(gaps)} seeds, p {sign_flip_p(gaps):.3f}"
