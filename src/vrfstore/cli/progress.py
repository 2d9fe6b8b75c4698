"""Progress of long work, on stderr: bars on a terminal, plain lines elsewhere, nothing on a hit."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
    target = stream or sys.stderr
    if quiet:
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
        case _:
            return ""


class _Bars:
    """A spinner for what cannot be measured, a bar for each wheel that is on its way."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._guard = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._guard:
            self._show(event)

    def _show(self, event: Event) -> None:
        progress = self._started()
        match event.kind:
            case "resolving" | "linking":
                self._only(event.kind, f"{event.kind} {event.subject}".strip())
            case "resolved":
                self._only("resolved", f"resolved {event.total} wheels")
            case "fetching":
                self._tasks[event.subject] = progress.add_task(
                    _short(event.subject), total=event.total or None
                )
            case "received" if event.subject in self._tasks:
                progress.update(self._tasks[event.subject], advance=event.size)
            case "unpacked" if event.subject in self._tasks:
                progress.remove_task(self._tasks.pop(event.subject))

    def _only(self, name: str, text: str) -> None:
        for old in ("resolving", "resolved", "linking"):
            if old in self._tasks:
                self._started().remove_task(self._tasks.pop(old))
        self._tasks[name] = self._started().add_task(text, total=None)

    def _started(self) -> Progress:
        if self._progress is None:
            from rich.console import Console  # noqa: PLC0415 - 50 ms that only long work pays
            from rich.progress import (  # noqa: PLC0415
                BarColumn,
                DownloadColumn,
                Progress,
                SpinnerColumn,
                TextColumn,
                TransferSpeedColumn,
            )

            self._progress = Progress(
                SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn(),
                TransferSpeedColumn(), console=Console(file=self._stream), transient=True,
            )  # fmt: skip
            self._progress.start()
        return self._progress

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.stop()


def _short(filename: str) -> str:
    """Return name and version of a wheel's file name."""
    return "-".join(filename.split("-")[:2])
