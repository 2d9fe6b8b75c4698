"""What people see of long work: bars on a terminal, lines elsewhere, nothing when asked for silence."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import time
from collections.abc import Iterator

import pytest

from vrfstore.cli.progress import watching
from vrfstore.model import Event

EVENTS = (
    Event(kind="resolving", subject="requirements.vrf"),
    Event(kind="waiting", subject="another vrfstore that resolves the same request"),
    Event(kind="resolved", total=2),
    Event(kind="missing", total=2),
    Event(kind="received", subject="pear-1.5-py3-none-any.whl", size=600_000),
    Event(kind="waiting", subject="another vrfstore that fetches fig-1.0-py3-none-any.whl"),
    Event(kind="fetched", subject="pear-1.5-py3-none-any.whl", size=600_000),
    Event(kind="unpacked", subject="pear-1.5-py3-none-any.whl"),
    Event(kind="linking", total=2),
)


class Terminal:
    """A real pseudo-terminal of 80 columns: ``stream`` is the program's end, and all that it shows is kept."""

    def __init__(self) -> None:
        self._other, end = os.openpty()
        self.stream = os.fdopen(end, "w")
        self.shown = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        # EIO: the program's end has been closed.
        with contextlib.suppress(OSError):
            while data := os.read(self._other, 65536):
                self.shown += data

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown.decode())

    def wait_for(self, pattern: str) -> None:
        deadline = time.monotonic() + 10
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, self.text
            time.sleep(0.01)

    def close(self) -> None:
        self.stream.close()
        self._reader.join()
        os.close(self._other)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    opened = Terminal()
    yield opened
    if not opened.stream.closed:
        opened.close()


def test_without_a_terminal_each_step_is_a_line() -> None:
    stream = io.StringIO()
    with watching(stream) as watch:
        for event in EVENTS:
            watch(event)
    assert stream.getvalue().splitlines() == [
        "resolving requirements.vrf",
        "waiting for another vrfstore that resolves the same request",
        "resolved 2 wheels",
        "waiting for another vrfstore that fetches fig-1.0-py3-none-any.whl",
        "fetched pear-1.5-py3-none-any.whl (600 kB)",
    ]


def test_quiet_is_silent() -> None:
    stream = io.StringIO()
    with watching(stream, quiet=True) as watch:
        for event in EVENTS:
            watch(event)
    assert stream.getvalue() == ""


def test_on_a_terminal_there_is_one_line_that_is_gone_in_the_end(terminal: Terminal) -> None:
    with watching(terminal.stream) as watch:
        for event in EVENTS:
            watch(event)
            if event.kind == "resolving":
                terminal.wait_for("resolving requirements.vrf")
            if event.kind == "unpacked":
                terminal.wait_for(r"fetching ━+.* 600 kB, .*/s")
    terminal.close()
    # Up to the line, erase it, and the cursor is back.
    assert b"\x1b[1A\x1b[2K" in terminal.shown[-40:]
    assert b"\x1b[?25h" in terminal.shown[-40:]


def test_without_events_nothing_is_shown_even_on_a_terminal(terminal: Terminal) -> None:
    with watching(terminal.stream):
        pass
    terminal.close()
    assert terminal.shown == b""


def test_what_is_left_is_said_where_it_is_known(terminal: Terminal) -> None:
    with watching(terminal.stream) as watch:
        watch(Event(kind="missing", total=2, size=4_000_000))
        watch(Event(kind="received", subject="pear-1.5-py3-none-any.whl", size=1_000_000))
        watch(Event(kind="unpacked", subject="pear-1.5-py3-none-any.whl"))
        terminal.wait_for(r"fetching ━+.* 1\.0 MB of 4\.0 MB, .*/s, \d+ s left")


def test_it_becomes_known_with_the_last_wheel_whose_length_is_announced(terminal: Terminal) -> None:
    with watching(terminal.stream) as watch:
        watch(Event(kind="missing", total=2))
        watch(Event(kind="fetching", subject="pear-1.5-py3-none-any.whl", total=3_000_000))
        watch(Event(kind="unpacked", subject="fig-1.0-py3-none-any.whl"))
        terminal.wait_for(r"0 B, 0 B/s")
        watch(Event(kind="fetching", subject="fig-1.0-py3-none-any.whl", total=1_000_000))
        terminal.wait_for(r"0 B of 4\.0 MB")


def test_a_terminal_without_colours_gets_none(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with watching(terminal.stream) as watch:
        watch(Event(kind="missing", total=2, size=4_000_000))
        watch(Event(kind="received", subject="pear-1.5-py3-none-any.whl", size=1_000_000))
        terminal.wait_for("MB")
    terminal.close()
    # Bold and the like are no colours.
    assert not re.search(rb"\x1b\[[0-9;]*(3[0-8]|9[0-7])[0-9;]*m", terminal.shown)


def test_a_terminal_that_can_do_nothing_gets_lines(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with watching(terminal.stream) as watch:
        watch(Event(kind="resolving", subject="requirements.vrf"))
    terminal.close()
    assert terminal.shown == b"resolving requirements.vrf\r\n"


def test_a_log_hears_from_time_to_time_what_is_under_way() -> None:
    stream = io.StringIO()

    def wait_for(pattern: str) -> None:
        deadline = time.monotonic() + 10
        while not re.search(pattern, stream.getvalue()):
            assert time.monotonic() < deadline, stream.getvalue()
            time.sleep(0.01)

    with watching(stream, interval=0.05) as watch:
        watch(Event(kind="resolving", subject="requirements.vrf"))
        wait_for(r"\nstill resolving requirements\.vrf: \d+ s\n")
        watch(Event(kind="resolved", total=2))
        watch(Event(kind="missing", total=2, size=4_000_000))
        watch(Event(kind="received", subject="pear-1.5-py3-none-any.whl", size=1_000_000))
        watch(Event(kind="unpacked", subject="pear-1.5-py3-none-any.whl"))
        wait_for(r"still fetching: 1 of 2 done, 1\.0 MB of 4\.0 MB, .*/s, \d+ s left\n")
        watch(Event(kind="linking", total=2))
        said = stream.getvalue()
        time.sleep(0.2)
        assert stream.getvalue() == said
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_a_log_is_not_told_again_what_it_has_just_been_told() -> None:
    stream = io.StringIO()
    with watching(stream, interval=0.4) as watch:
        watch(Event(kind="missing", total=9))
        for _ in range(8):
            time.sleep(0.1)
            watch(Event(kind="fetched", subject="pear-1.5-py3-none-any.whl", size=600_000))
    assert "still" not in stream.getvalue()


def test_long_times_are_in_minutes(terminal: Terminal) -> None:
    with watching(terminal.stream) as watch:
        watch(Event(kind="missing", total=2, size=40_000_000_000))
        watch(Event(kind="received", subject="pear-1.5-py3-none-any.whl", size=1_000_000))
        watch(Event(kind="unpacked", subject="pear-1.5-py3-none-any.whl"))
        terminal.wait_for(r"\d+ min left")
