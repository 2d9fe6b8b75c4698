"""Progress of long work, on stderr: bars on a terminal, plain lines elsewhere, nothing on a hit."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vrfstore.cli.render import size
from vrfstore.model import Event, Watcher
from vrfstore.runner.log import sentence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from rich.progress import Progress, TaskID

__all__ = ["watching"]

_INTERVAL = 10.0
"""Seconds after which a log hears again of what is under way."""

_REFRESH = 0.1
"""Seconds between two looks at a bar; bytes come more often."""


@contextmanager
def watching(
    stream: TextIO | None = None, *, quiet: bool = False, interval: float = _INTERVAL
) -> Iterator[Watcher]:
    """Give a watcher that shows events as they come.

    Args:
        stream: Where to; by default stderr.
        quiet: Show nothing.
        interval: Seconds of silence after which a line says what is still under way, where there is no terminal.
    """
    # None where the caller closed it before we began.
    target: TextIO | None = stream or sys.stderr
    if quiet or target is None:
        yield lambda _: None
    elif target.isatty() and os.environ.get("TERM") != "dumb":
        bars = _Bars(target)
        try:
            yield bars
        finally:
            bars.stop()
    else:
        lines = _Lines(target, interval)
        try:
            yield lines
        finally:
            lines.stop()


class _Tally:
    """How far fetching is; what it says is the same everywhere."""

    def __init__(self, wheels: int = 0, expected: int = 0) -> None:
        self.wheels = wheels
        self.expected = expected
        self.came = 0
        self.done = 0
        self._announced: dict[str, int] = {}
        self._began = time.monotonic()

    def count(self, event: Event) -> None:
        """Take an event into account."""
        match event.kind:
            case "received":
                self.came += event.size
            case "unpacked":
                self.done += 1
            case "fetching":
                self._announced[event.subject] = event.total
                if len(self._announced) == self.wheels:
                    self.expected = self.expected or sum(self._announced.values())

    def __str__(self) -> str:
        speed = self.came / max(time.monotonic() - self._began, 0.1)
        left = self.expected - self.came
        words = [size(self.came) + (f" of {size(self.expected)}" if left >= 0 < self.expected else "")]
        words.append(f"{size(speed)}/s")
        if left > 0 < speed:
            words.append(f"{_length(left / speed)} left")
        return ", ".join(words)


def _length(seconds: float) -> str:
    """Return a length of time for people: ``8 s``, ``2 min``."""
    minute = 60
    return f"{seconds:.0f} s" if seconds < 2 * minute else f"{seconds / minute:.0f} min"


class _Lines:
    """One line for each step that took time and for each wheel; while nothing is said, one every few seconds."""

    def __init__(self, stream: TextIO, interval: float) -> None:
        self._stream = stream
        self._interval = interval
        self._guard = threading.Lock()
        self._tally: _Tally | None = None
        self._step = ""
        self._began = self._said = 0.0
        self._over = threading.Event()
        self._reminder: threading.Thread | None = None

    def __call__(self, event: Event) -> None:
        with self._guard:
            self._note(event)
            text = sentence(event)
            if text:
                self._say(text)

    def _note(self, event: Event) -> None:
        """Remember what is under way."""
        if event.kind == "missing":
            self._tally = _Tally(event.total, event.size)
        elif self._tally is not None:
            self._tally.count(event)
        if event.kind in {"resolving", "compiling", "missing"}:
            self._step = sentence(event) or event.subject or "fetching"
            self._began = self._said = time.monotonic()
            if self._reminder is None:
                self._reminder = threading.Thread(target=self._remind, name="progress", daemon=True)
                self._reminder.start()
        elif event.kind in {"resolved", "linking"}:
            self._step, self._tally = "", None

    def _remind(self) -> None:
        while not self._over.wait(self._interval / 4):
            with self._guard:
                now = time.monotonic()
                if self._step and now - self._said >= self._interval:
                    self._say(f"still {self._step}: {self._state(now)}")

    def _state(self, now: float) -> str:
        if self._tally is None:
            return _length(now - self._began)
        return f"{self._tally.done} of {self._tally.wheels} done, {self._tally}"

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        # Nobody may be listening; the work goes on.
        with suppress(OSError):
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def stop(self) -> None:
        """Say nothing more."""
        self._over.set()
        if self._reminder is not None:
            self._reminder.join()


class _Bars:
    """One line: a spinner with what is being done, and a bar while wheels are fetched or modules compiled."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._guard = threading.Lock()
        self._tally: _Tally | None = None
        self._done = 0
        self._shown = 0.0

    def __call__(self, event: Event) -> None:
        with self._guard:
            self._show(event)

    def _show(self, event: Event) -> None:
        match event.kind:
            case "resolving" | "waiting" if self._tally is None:
                self._step(sentence(event))
            case "missing":
                self._tally = _Tally(event.total, event.size)
                self._step(event.subject or "fetching", total=event.size or event.total)
            case "linking":
                self._step("linking")
            case "compiling":
                self._done = 0
                self._step(f"compiling for {event.subject}", total=event.total)
            case "verified":
                self._verified(event)
            case "compiled":
                self._done += event.size
                self._update(f"{self._done} modules", self._done)
            case _ if self._tally is not None:
                self._fetching(event, self._tally)

    def _fetching(self, event: Event, tally: _Tally) -> None:
        """Show how far fetching is: in bytes where it is known how many there are, else in wheels."""
        known = tally.expected
        tally.count(event)
        often = event.kind == "received" and time.monotonic() - self._shown < _REFRESH
        if event.kind in {"fetching", "received", "unpacked"} and not often:
            total = tally.expected if tally.expected != known else None
            self._update(str(tally), tally.came if tally.expected else tally.done, total)

    def _verified(self, event: Event) -> None:
        if self._tally is None:
            self._tally = _Tally()
            self._step("verifying", total=event.total)
        self._done += 1
        self._tally.came += event.size
        self._update(str(self._tally), self._done)

    def _step(self, text: str, total: int | None = None) -> None:
        progress = self._started()
        if self._task is not None:
            progress.remove_task(self._task)
        self._task = progress.add_task(text, total=total, detail="")

    def _update(self, detail: str, done: int, total: int | None = None) -> None:
        if self._task is not None:
            self._shown = time.monotonic()
            self._started().update(self._task, completed=done, total=total, detail=detail)

    def _started(self) -> Progress:
        if self._progress is None:
            from rich.console import Console  # noqa: PLC0415 - 50 ms that only long work pays
            from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn  # noqa: PLC0415
            from rich.progress_bar import ProgressBar  # noqa: PLC0415

            class Bar(BarColumn):
                """A bar only where there is something to count."""

                def render(self, task: Task) -> ProgressBar:
                    bar = super().render(task)
                    bar.width = 0 if task.total is None else 20
                    return bar

            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                Bar(),
                TextColumn("{task.fields[detail]}"),
            )
            # Rich knows NO_COLOR itself.
            self._progress = Progress(*columns, console=Console(file=self._stream), transient=True)
            self._progress.start()
        return self._progress

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.stop()
