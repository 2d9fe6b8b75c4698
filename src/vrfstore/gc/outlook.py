"""What the next collection takes, and when the rest becomes due. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

from vrfstore.gc.graph import Graph
from vrfstore.values import dataclass

__all__ = ["Prospect", "due"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prospect:
    """What is going to become of something.

    Attributes:
        name: ``environments/<directory>``, or ``entries/<directory>`` where no environment refers to it.
        due: When a collection takes it if nobody uses it again, seconds since the epoch; None where that depends on
            somebody.
        why: What keeps it until then, in words.
    """

    name: str
    due: float | None
    why: tuple[str, ...]


def due(graph: Graph, going: Collection[str]) -> tuple[Prospect, ...]:
    """Return when what the next collection leaves becomes due, the soonest first.

    Args:
        graph: Who keeps what.
        going: The names that the next collection takes.
    """
    return tuple(
        sorted(
            _prospects(graph, going),
            key=lambda found: (math.inf if found.due is None else found.due, found.name),
        )
    )


def _prospects(graph: Graph, going: Collection[str]) -> Iterator[Prospect]:
    for name in graph:
        part = name.partition("/")[0]
        # The other entries, and locks, stay with their environments.
        listed = part == "environments" or (part == "entries" and not graph.referrers(name))
        if listed and name not in going:
            when = graph.due(name)
            # Where it depends on somebody, what ends by itself says nothing.
            keepers = (
                keeper for keeper in graph.keepers_of(name) if when is not None or keeper.until is None
            )
            yield Prospect(name=name, due=when, why=tuple(dict.fromkeys(keeper.words for keeper in keepers)))
