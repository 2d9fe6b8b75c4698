"""Progress of long work, on stderr: bars on a terminal, plain lines elsewhere, nothing on a hit."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from vrfstore.cli.render import size
from vrfstore.model import Event, Watcher

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["watching"]


@contextmanager
def watching(stream: TextIO | None = None, *, quiet: bool = False) -> Iterator[Watcher]:
    """Give a watcher that shows events as they come.

    Args:
        stream: Where to; by default stderr.
        quiet: Show nothing.
    """
    # None where the caller closed it before we began.
    target: TextIO | None = stream or sys.stderr
    if quiet or target is None:
        yield lambda _: None
    elif target.isatty():
        bars = _Bars(target)
        try:
            yield bars
        finally:
            bars.stop()
    else:
        yield _Lines(target)


class _Lines:
    """One line for each step that took time; no line for each byte."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        text = _sentence(event)
        if text:
            # Nobody may be listening; the work goes on.
            with suppress(OSError):
                self._stream.write(f"{text}\n")
                self._stream.flush()


def _sentence(event: Event) -> str:
    match event.kind:
        case "resolving":
            return f"resolving {event.subject}"
        case "resolved":
            return f"resolved {event.total} {'wheel' if event.total == 1 else 'wheels'}"
        case "waiting":
            return f"waiting for {event.subject}"
        case "fetched":
            return f"fetched {event.subject} ({size(event.size)})"
        case "compiling":
            modules = "module" if event.total == 1 else "modules"
            return f"compiling {event.total} {modules} for {event.subject}"
        case _:
            return ""


class _Bars:
    """One line: a spinner with what is being done, and a bar while wheels are fetched or modules compiled."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._guard = threading.Lock()
        self._done = 0
        self._bytes = 0
        self._began = 0.0

    def __call__(self, event: Event) -> None:
        with self._guard:
            self._show(event)

    def _show(self, event: Event) -> None:
        match event.kind:
            case "resolving" | "waiting" if not self._began:
                self._step(_sentence(event))
            case "missing":
                self._begin(event.subject or "fetching", event.total)
            case "linking":
                self._step("linking")
            case "compiling":
                self._done = 0
                self._step(f"compiling for {event.subject}", total=event.total)
            case _:
                self._count(event)

    def _count(self, event: Event) -> None:
        """Show that something went on with the step under way."""
        match event.kind:
            case "received":
                self._bytes += event.size
                self._update()
            case "unpacked":
                self._done += 1
                self._update()
            case "verified":
                if self._task is None:
                    self._begin("verifying", event.total)
                self._done += 1
                self._bytes += event.size
                self._update()
            case "compiled":
                self._done += event.size
                self._update(f"{self._done} modules")

    def _begin(self, text: str, total: int) -> None:
        self._began = time.monotonic()
        self._step(text, total=total)

    def _step(self, text: str, total: int | None = None) -> None:
        progress = self._started()
        if self._task is not None:
            progress.remove_task(self._task)
        self._task = progress.add_task(text, total=total, detail="")

    def _update(self, detail: str | None = None) -> None:
        if self._task is not None:
            speed = self._bytes / max(time.monotonic() - self._began, 0.1)
            shown = detail or f"{size(self._bytes)}, {size(speed)}/s"
            self._started().update(self._task, completed=self._done, detail=shown)

    def _started(self) -> Progress:
        if self._progress is None:
            from rich.console import Console  # noqa: PLC0415 - 50 ms that only long work pays
            from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn  # noqa: PLC0415
            from rich.progress_bar import ProgressBar  # noqa: PLC0415

            class Bar(BarColumn):
                """A bar only where there is something to count."""

                def render(self, task: Task) -> ProgressBar:
                    bar = super().render(task)
                    bar.width = 0 if task.total is None else 30
                    return bar

            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                Bar(),
                TextColumn("{task.fields[detail]}"),
            )
            self._progress = Progress(*columns, console=Console(file=self._stream), transient=True)
            self._progress.start()
        return self._progress

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.stop()
