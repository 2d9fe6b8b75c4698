"""Taking turns: each tool once in every round, so that the mood of the machine meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from comparison.model import Key, Series
from comparison.processes import CommandError

__all__ = ["Contender", "take_turns"]

Figures = Mapping[str, float]


def _nothing(_number: int) -> None:
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """What a tool does in each round; each is told the number of the round.

    Attributes:
        key: What its series is called.
        prepare: Makes ready what is not measured.
        run: Does it, and returns the figures.
        tidy: Removes what would be in the way of others, after all have had their turn.
        rounds: How many it takes part in; None for all.
    """

    key: Key
    prepare: Callable[[int], object] = field(default=_nothing)
    run: Callable[[int], Figures]
    tidy: Callable[[int], object] = field(default=_nothing)
    rounds: int | None = None


def take_turns(
    contenders: Sequence[Contender],
    rounds: int,
    *,
    until: float,
    calm: Callable[[], None],
    clock: Callable[[], float] = time.monotonic,
) -> list[Series]:
    """Return what each took.

    One that fails is not asked again. The first of one round is the last of the next. There is always one round.

    Args:
        contenders: In the order in which their series are returned.
        rounds: How many.
        until: When the clock shows this, no further round is begun.
        calm: Is called before each turn is measured.
        clock: Seconds that pass.
    """
    found: dict[Key, dict[int, Figures]] = {contender.key: {} for contender in contenders}
    failures: dict[Key, str] = {}
    for number in range(rounds):
        if number and clock() >= until:
            break
        taking_part = [
            contender
            for contender in contenders
            if contender.key not in failures and (contender.rounds is None or number < contender.rounds)
        ]
        for contender in taking_part if number % 2 == 0 else reversed(taking_part):
            try:
                contender.prepare(number)
                calm()
                found[contender.key][number] = contender.run(number)
            except CommandError as error:
                failures[contender.key] = error.line
        for contender in taking_part:
            contender.tidy(number)
    return [Series(key=key, rounds=each, failure=failures.get(key, "")) for key, each in found.items()]
