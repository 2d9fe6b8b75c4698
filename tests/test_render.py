"""How answers look: tables, sizes and times for people, objects for machines; and lengths of time as options."""

import io
import json
import math
import sys

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vrfstore.cli import render
from vrfstore.cli.options import DURATION
from vrfstore.cli.progress import watching
from vrfstore.errors import RequirementsError
from vrfstore.model import Event

Captured = pytest.CaptureFixture[str]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


# --- what no encoding has


@pytest.mark.parametrize(("text", "data"), [("a\udcff", b"a\xff\n"), ("a\ud800", b"a\\ud800\n")])
def test_text_that_has_no_encoding_is_printed_all_the_same(
    monkeypatch: pytest.MonkeyPatch, text: str, data: bytes
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="utf-8"))
    render.plain(text)
    assert written.getvalue() == data


# --- sizes, times, tables


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (812, "812 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_900, "99.9 kB"),
        (123_456, "123 kB"),
        (3_400_000, "3.4 MB"),
        (999_000_000, "999 MB"),
        (2_000_000_000, "2.0 GB"),
        (5_500_000_000_000, "5.5 TB"),
        (5_500_000_000_000_000, "5500.0 TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert render.size(count) == text


@given(one=st.integers(0, 10**15), other=st.integers(0, 10**15))
def test_sizes_keep_their_order_within_what_is_shown(one: int, other: int) -> None:
    units = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

    def value(count: int) -> float:
        number, unit = render.size(count).split(" ")
        return float(number) * units[unit]

    assert math.isclose(value(one), one, rel_tol=0.05, abs_tol=0.5)
    if one <= other:
        assert value(one) <= value(other)


@given(count=st.integers(0, 10**14))
@example(count=999_999)
def test_a_size_never_reaches_a_thousand_of_its_unit(count: int) -> None:
    assert float(render.size(count).split(" ")[0]) < 1000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "just now"),
        (59.9, "just now"),
        (60, "1 minute ago"),
        (119, "1 minute ago"),
        (120, "2 minutes ago"),
        (3600, "1 hour ago"),
        (86_399, "23 hours ago"),
        (86_400, "1 day ago"),
        (30 * 86_400, "30 days ago"),
    ],
)
def test_times_ago(seconds: float, text: str) -> None:
    assert render.age(seconds) == text


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert render.table(["NAME", "N"], [["a", "1"], ["longer", "22"]]) == ("NAME    N\na       1\nlonger  22")


def test_a_table_without_rows_is_its_headings() -> None:
    assert render.table(["NAME", "SIZE"], []) == "NAME  SIZE"


@given(
    rows=st.lists(st.tuples(*[st.text("abc é", max_size=8)] * 3), max_size=5),
)
def test_every_line_of_a_table_has_its_cells_in_columns(rows: list[tuple[str, str, str]]) -> None:
    lines = render.table(["ONE", "TWO", "THREE"], rows).split("\n")
    assert len(lines) == len(rows) + 1
    starts = [lines[0].index(heading) for heading in ("ONE", "TWO", "THREE")]
    for line, row in zip(lines[1:], rows, strict=True):
        assert line == line.rstrip()
        for start, cell in zip(starts, row, strict=True):
            assert line.ljust(start + len(cell))[start : start + len(cell)] == cell


# --- stdout and stderr


def test_json_is_one_object_with_the_schema_first(capsys: Captured) -> None:
    render.print_json({"status": "done", "é": None})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"schema_version": 1, "status": "done", "é": None}
    assert next(iter(json.loads(out))) == "schema_version"
    assert (out[-1], err) == ("\n", "")


def test_an_error_is_told_on_stderr_with_what_to_do(capsys: Captured) -> None:
    found = RequirementsError("bad", path="f.vrf", line=3, hint="write it well", log="/logs/x.log")
    assert render.error(found, as_json=False) == 10
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: f.vrf:3: bad\n  hint: write it well\n  log: /logs/x.log\n")


def test_an_error_without_more_is_one_line(capsys: Captured) -> None:
    render.error(RequirementsError("bad"), as_json=False)
    assert capsys.readouterr() == ("", "error: bad\n")


def test_an_error_for_machines_has_every_field_and_stays_on_stderr_too(capsys: Captured) -> None:
    assert render.error(RequirementsError("bad", path="f.vrf", line=3), as_json=True) == 10
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "schema_version": 1,
        "status": "error",
        "error": {
            "code": 10,
            "kind": "requirement-syntax",
            "member": None,
            "message": "bad",
            "path": "f.vrf",
            "line": 3,
            "hint": None,
            "log": None,
        },
    }
    assert err == "error: f.vrf:3: bad\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_usage_error_says_where_the_help_is(capsys: Captured, as_json: bool) -> None:
    command = click.Command("link")
    found = click.UsageError("No such option '--x'.", ctx=click.Context(command, info_name="vrfstore link"))
    assert render.usage(found, as_json=as_json) == 2
    out, err = capsys.readouterr()
    assert err == "error: No such option '--x'.\n  hint: see: vrfstore link --help\n"
    assert (json.loads(out)["error"]["kind"] == "usage") if as_json else out == ""


def test_a_usage_error_of_nothing_in_particular_points_to_the_whole(capsys: Captured) -> None:
    render.usage(click.UsageError("what?"), as_json=False)
    assert capsys.readouterr().err.endswith("hint: see: vrfstore --help\n")


def test_a_warning_goes_to_stderr(capsys: Captured) -> None:
    render.warn("careful")
    assert capsys.readouterr() == ("", "warning: careful\n")


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("", True), ("1", False), ("0", False)])
def test_colours_are_for_terminals_of_people_who_want_them(
    monkeypatch: pytest.MonkeyPatch, no_color: str | None, coloured: bool
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    render.warn("careful")
    assert terminal.getvalue() == ("\x1b[33mwarning:\x1b[0m careful\n" if coloured else "warning: careful\n")


# --- progress

EVENTS = [
    Event(kind="resolving", subject="requirements.vrf"),
    Event(kind="resolved", total=2),
    Event(kind="missing", total=2),
    Event(kind="fetching", subject="alpha-1.0-py3-none-any.whl", total=2000),
    Event(kind="received", subject="alpha-1.0-py3-none-any.whl", size=2000),
    Event(kind="fetched", subject="alpha-1.0-py3-none-any.whl", size=2000),
    Event(kind="unpacked", subject="alpha-1.0-py3-none-any.whl"),
    Event(kind="linking"),
    Event(kind="something new", subject="x"),
]


def shown(stream: io.StringIO, *, quiet: bool = False) -> str:
    with watching(stream, quiet=quiet) as watch:
        for event in EVENTS:
            watch(event)
    return stream.getvalue()


def test_without_a_terminal_each_step_is_a_line() -> None:
    assert shown(io.StringIO()) == (
        "resolving requirements.vrf\nresolved 2 wheels\nfetched alpha-1.0-py3-none-any.whl (2.0 kB)\n"
    )


def test_one_wheel_is_one_wheel() -> None:
    stream = io.StringIO()
    with watching(stream) as watch:
        watch(Event(kind="resolved", total=1))
        watch(Event(kind="waiting", subject="another process"))
    assert stream.getvalue() == "resolved 1 wheel\nwaiting for another process\n"


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["file", "terminal"])
def test_quiet_is_quiet(stream: io.StringIO) -> None:
    assert shown(stream, quiet=True) == ""


def test_a_terminal_gets_one_line_for_what_is_on_its_way_and_its_cursor_back() -> None:
    terminal = Terminal()
    with watching(terminal) as watch:
        watch(Event(kind="resolving", subject="requirements.vrf"))
        watch(Event(kind="missing", total=3))
        watch(Event(kind="received", subject="alpha-1.0-py3-none-any.whl", size=2000))
    text = terminal.getvalue()
    assert "fetching" in text
    assert "2.0 kB" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0


def test_a_terminal_takes_any_event_in_any_order() -> None:
    for events in (EVENTS, EVENTS[::-1]):
        with watching(Terminal()) as watch:
            for event in events:
                watch(event)


def test_a_terminal_sees_nothing_of_work_that_is_not_there() -> None:
    terminal = Terminal()
    with watching(terminal):
        pass
    assert terminal.getvalue() == ""


# --- lengths of time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("30d", 30 * 86_400),
        ("30", 30 * 86_400),
        ("1.5h", 5400),
        ("90s", 90),
        ("10m", 600),
        ("2w", 14 * 86_400),
        (" 1d ", 86_400),
    ],
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "-1d", "1y", "d", "1 d", "1e3", "inf", "nan", "1d2h", ".5h"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a length of time such as 30d, 12h or 0") as caught:
        DURATION.convert(text, None, None)
    assert repr(text) in caught.value.message


def test_a_length_that_is_a_number_already_is_seconds() -> None:
    assert DURATION.convert(2.5, None, None) == 2.5
