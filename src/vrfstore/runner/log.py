"""What a link does, in words: a stream for authors, who see their document's log and not our stderr.

Flushed line by line, because it is one write(2) for each. The stream is somebody else's: a reader that has gone, a
pipe that nobody empties or a full disk costs lines, and never the link.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import threading
from collections.abc import Sequence

from vrfstore.errors import UsageError, VrfstoreError
from vrfstore.model import Event
from vrfstore.units import size_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__all__ = ["Log", "packages_text", "sentence"]

_MOST_WORDS = 200
"""Lines of a resolver's words that are repeated, the last ones."""

_LARGEST_WORDS = 1 << 20
"""Bytes of them that are read."""

_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3} ")
"""How each line of pip's log begins."""

_OWN_CODE = "Exception information:"
"""The line of pip's log that its traceback follows."""

_URL = re.compile(r"https?://[^\s'\"<>()]+")

_LAST_CONTROL = 0x9F


class Log:
    """A log that is open, or none; a ``Watcher``, and used in a ``with`` statement.

    Args:
        descriptor: Where it goes; -1 for nowhere. It is ours to close.
    """

    def __init__(self, descriptor: int = -1) -> None:
        self._descriptor = descriptor
        self._guard = threading.Lock()

    @classmethod
    def open(cls, path: str) -> Self:
        """Open a log: a file, to which it is added; a FIFO, whether anybody reads it or not; or a device.

        Raises:
            UsageError: It cannot be opened, is a link, or is where the answer goes.
        """
        # Never waits for a reader of a FIFO, and is never told that there is none, as one of its two ends is ours.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        if not path.startswith("/dev/"):
            # The directory may be a document's, which must not choose what of ours is written to.
            flags |= os.O_NOFOLLOW
        try:
            try:
                descriptor = os.open(path, flags, 0o644)
            except PermissionError:  # a file that we may write and not read
                descriptor = os.open(path, flags & ~os.O_RDWR | os.O_WRONLY, 0o644)
        except OSError as error:
            reason = "it is a link" if error.errno == errno.ELOOP else error.strerror
            raise _unusable(f"the log cannot be opened: {reason}", path) from error
        if _is_stdout(descriptor):
            os.close(descriptor)
            raise _unusable("the log would be where the answer goes", path)
        return cls(descriptor)

    def say(self, text: str) -> None:
        """Add lines."""
        if self._descriptor < 0:
            return
        data = memoryview(
            "".join(f"{_visible(line)}\n" for line in text.splitlines()).encode(errors="replace")
        )
        # Nobody may be listening, or too slowly; the work goes on.
        with self._guard, contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._descriptor, data) :]

    def warn(self, warnings: Sequence[str]) -> None:
        """Add warnings."""
        for warning in warnings:
            self.say(f"warning: {warning}")

    def fail(self, error: VrfstoreError) -> None:
        """Add an error: what another program said of it, and then what it means."""
        if error.log is not None:
            for line in _last_words(error.log):
                self.say(f"  | {line}")
        self.say(f"error: {error}")
        if error.hint:
            self.say(f"  hint: {error.hint}")

    def __call__(self, event: Event) -> None:
        """Add what a long step did, if there are words for it."""
        text = sentence(event)
        if text:
            self.say(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._guard:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)


def sentence(event: Event) -> str:
    """Return what a long step did, in words; nothing where that is of no interest by itself."""
    match event.kind:
        case "resolving":
            return f"resolving {event.subject}"
        case "resolved":
            return f"resolved {event.total} {'wheel' if event.total == 1 else 'wheels'}"
        case "waiting":
            return f"waiting for {event.subject}"
        case "building":
            return f"building {event.subject}"
        case "fetched":
            return f"fetched {event.subject} ({size_text(event.size)})"
        case "compiling":
            modules = "module" if event.total == 1 else "modules"
            return f"compiling {event.total} {modules} for {event.subject}"
        case _:
            return ""


def packages_text(number: int) -> str:
    """Return a number of packages with its noun."""
    return f"{number} {'package' if number == 1 else 'packages'}"


def _unusable(message: str, path: str) -> UsageError:
    return UsageError(
        message, kind="log-path", path=path, hint="give a file of your own with --log, or leave it out"
    )


def _is_stdout(descriptor: int) -> bool:
    """Whether a descriptor leads where stdout does: what is written there would get into the answer."""
    try:
        ours, stdout = os.fstat(descriptor), os.fstat(1)
    except OSError:
        return False
    # Of a device that keeps nothing, no answer is read.
    return os.path.samestat(ours, stdout) and not (
        stat.S_ISCHR(ours.st_mode) and ours.st_rdev in {os.makedev(1, 3), os.makedev(1, 7)}
    )


def _last_words(path: str) -> list[str]:
    """Return what a resolver or a build complained of; nothing where that cannot be read.

    pip's log begins with what it looked at and where that lies, and ends with where in its own code it gave up, neither
    of which is for authors.
    """
    try:
        with open(path, "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - _LARGEST_WORDS))
            text = stream.read(_LARGEST_WORDS).decode(errors="replace")
    except OSError:
        return []
    lines = [_TIME.sub("", line) for line in text.splitlines()]
    begin = next((number for number, line in enumerate(lines) if _is_complaint(line)), 0)
    end = lines.index(_OWN_CODE, begin) if _OWN_CODE in lines[begin:] else len(lines)
    return [_URL.sub(_harmless, line) for line in lines[begin:end]][-_MOST_WORDS:]


def _is_complaint(line: str) -> bool:
    return line.lstrip().lower().startswith("error:")


def _harmless(url: re.Match[str]) -> str:
    """Return a URL without anything that may give access."""
    try:
        from vrfstore.requirements.urls import without_credentials  # noqa: PLC0415 - for what has failed

        return without_credentials(url[0].partition("?")[0])
    except ValueError:  # it is none
        return "(a URL)"


def _visible(text: str) -> str:
    """Return a line in which names of files cannot do anything to a terminal."""
    return "".join(
        character
        if character.isprintable() or character == "\t" or ord(character) > _LAST_CONTROL
        else repr(character)[1:-1]
        for character in text
    )
