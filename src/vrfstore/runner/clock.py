"""How long the steps of a call take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from vrfstore.values import dataclass, field

__all__ = ["Clock"]


@dataclass(slots=True)
class Clock:
    """Measures steps, in seconds; a step that comes again adds to what it took before.

    What a step takes inside of another one is not the other's, so that all together are not more than there was.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)
    inside: float = 0.0
    """What steps have taken so far inside of the one that is under way."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        began = time.perf_counter()
        before, self.inside = self.inside, 0.0
        try:
            yield
        finally:
            took = time.perf_counter() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + took - self.inside
            self.inside = before + took

    def finish(self) -> dict[str, float]:
        """Return the seconds of each step, and ``total``."""
        return {**self.seconds, "total": time.perf_counter() - self.began}
