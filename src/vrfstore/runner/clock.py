"""How long the steps of a call take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from vrfstore.values import dataclass, field

__all__ = ["Clock"]


@dataclass(slots=True)
class Clock:
    """Measures steps, in seconds; a step that comes again adds to what it took before."""

    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def finish(self) -> dict[str, float]:
        """Return the seconds of each step, and ``total``."""
        return {**self.seconds, "total": time.perf_counter() - self.began}
