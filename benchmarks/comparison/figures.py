"""Medians with their spread, and ratios pair by pair. Pure.

Two series are compared round by round, because the mood of a machine changes: what both took in the same round was
measured side by side. The median of these ratios is not the ratio of the medians, and the better of the two to know.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from comparison.model import Series

__all__ = ["Spread", "described", "ratio", "spread"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """A median, and the quartiles about it.

    Attributes:
        low: A quarter of all is below it.
        median: Half of all is.
        high: Three quarters are.
        count: How many there are.
    """

    low: float
    median: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread | None:
    """Return how values are spread; None for none. Quartiles are between the smallest and the largest value."""
    if not values:
        return None
    if len(values) == 1:
        return Spread(low=values[0], median=values[0], high=values[0], count=1)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low=low, median=statistics.median(values), high=high, count=len(values))


def described(values: Sequence[float], digits: int) -> dict[str, float]:
    """Return median, quartiles and number of values, of which there is one at least, as they are written to a file."""
    found = spread(values)
    if found is None:
        raise ValueError("there are no values")
    return {
        "median": round(found.median, digits),
        "low": round(found.low, digits),
        "high": round(found.high, digits),
        "runs": found.count,
    }


def ratio(ours: Series, theirs: Series, figure: str, their_figure: str = "") -> Spread | None:
    """Return how many times as much as ours theirs is, in the rounds that both have.

    Args:
        ours: What is divided by.
        theirs: What is divided.
        figure: The name of the figure.
        their_figure: Its name in theirs, if that is another one.
    """
    their_figure = their_figure or figure
    common = sorted(ours.rounds.keys() & theirs.rounds.keys())
    pairs = [(ours.rounds[number].get(figure), theirs.rounds[number].get(their_figure)) for number in common]
    return spread([their / our for our, their in pairs if our and their is not None])
