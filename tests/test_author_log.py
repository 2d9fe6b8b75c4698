"""``link --log``: what authors are told, and that a log that is not read costs nobody anything."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from support.commands import Command, commands
from support.index import Index
from support.wheels import WheelSpec
from vrfstore.errors import ResolutionError, UsageError
from vrfstore.runner.log import Log
from vrfstore.store.store import Store


@pytest.fixture
def command(store: Store, capsys: pytest.CaptureFixture[str]) -> Command:
    return commands(store, capsys)


@pytest.fixture
def requirements(index: Index, tmp_path: Path) -> Path:
    index.add(WheelSpec(name="pear", requires=["plum"]))
    index.add(WheelSpec(name="plum"))
    path = tmp_path / "requirements.vrf"
    path.write_text("pear\n")
    return path


def test_a_log_says_what_is_done_and_what_is_used(
    command: Command, requirements: Path, tmp_path: Path
) -> None:
    log = tmp_path / "render.log"
    python = command("link", requirements, "--log", log).out.strip()
    first = log.read_text()
    # Two wheels come in any order.
    begun, *fetched = sorted(re.sub(r"\(\d.*B\)", "(size)", first).splitlines()[2:5], reverse=True)
    assert begun == "resolved 2 wheels"
    assert fetched == [f"fetched {name}-1.0-py3-none-any.whl (size)" for name in ("plum", "pear")]
    assert first.splitlines()[:2] == [f"linking {requirements}", f"resolving {requirements}"]
    assert first.splitlines()[5:] == ["linked environment (2 packages, 2 of them new)", f"python: {python}"]
    command("link", requirements, "--log", log)
    assert log.read_text().removeprefix(first).splitlines() == [
        f"linking {requirements}", "using cached environment (2 packages)", f"python: {python}",
    ]  # fmt: skip


@pytest.mark.parametrize("resolver", ["pip", "uv"])
def test_a_log_has_the_resolvers_words_and_then_what_they_mean(
    command: Command, requirements: Path, tmp_path: Path, resolver: str
) -> None:
    requirements.write_text("pear\npapaya>=3\n")
    log = tmp_path / "render.log"
    ended = command("link", requirements, "--log", log, "--json", "--resolver", resolver)
    lines = log.read_text().splitlines()
    at = lines.index(f"error: {requirements}:2: {ended.document['error']['message']}")
    words = [line for line in lines[:at] if line.startswith("  | ")]
    assert any("papaya" in line for line in words)
    assert lines[at - 1].startswith("  | ")
    if ended.document["error"]["hint"]:
        assert lines[at + 1] == f"  hint: {ended.document['error']['hint']}"


def test_each_line_is_there_when_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with Log.open(str(path)) as log:
        for number in range(3):
            log.say(f"line {number}")
            assert path.read_text().splitlines()[-1] == f"line {number}"


def test_what_a_name_of_a_file_could_do_to_a_terminal_it_does_not(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with Log.open(str(path)) as log:
        log.say("linking \x1b[2Jodd")
    assert path.read_text() == "linking \\x1b[2Jodd\n"


def test_a_fifo_that_nobody_reads_a_reader_that_goes_and_a_full_disk_cost_lines_only(
    command: Command, requirements: Path, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert command("link", requirements, "--log", fifo).code == 0
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with Log.open(str(fifo)) as log:
        log.say("heard")
        assert os.read(reader, 100) == b"heard\n"
        os.close(reader)
        for _ in range(2000):
            log.say("x" * 100)  # more than a pipe has room for
    assert command("link", requirements, "--refresh", "--log", fifo).code == 0
    assert command("link", requirements, "--refresh", "--log", "/dev/full").code == 0


def test_a_fifo_that_is_read_has_all_lines(command: Command, requirements: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    python = command("link", requirements, "--log", fifo).out.strip()
    assert os.read(reader, 1 << 16).decode().splitlines()[-1] == f"python: {python}"
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_log_that_cannot_be_opened_is_a_usage_error_before_anything_is_done(
    command: Command, index: Index, requirements: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    secret = tmp_path / "secret"
    secret.write_text("kept")
    (tmp_path / "link").symlink_to(secret)
    for name in ("folder", "absent/log", "link"):
        ended = command("link", requirements, "--json", "--log", tmp_path / name)
        assert (ended.code, ended.kind) == (2, "log-path"), name
    assert command("link", requirements, "--json", "--log", "").code == 2
    assert index.requests == []
    assert secret.read_text() == "kept"


def test_a_log_cannot_get_into_the_answer(tmp_path: Path) -> None:
    stdout = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    saved = os.dup(1)
    os.dup2(stdout, 1)
    try:
        with pytest.raises(UsageError):
            Log.open(str(tmp_path / "out"))
        with pytest.raises(UsageError):
            Log.open("/dev/stdout")
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(stdout)
    with Log.open(os.devnull) as log:
        log.say("nothing")


def test_a_log_is_added_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("of before\n")
    with Log.open(str(path)) as log:
        log.say("more")
    assert path.read_text() == "of before\nmore\n"
    assert stat.S_IMODE(path.stat().st_mode) & 0o111 == 0


def test_warnings_and_what_is_waited_for_are_in_the_log(
    command: Command, requirements: Path, tmp_path: Path
) -> None:
    requirements.write_text("")
    log = tmp_path / "log"
    ended = command("link", requirements, "--json", "--log", log)
    assert f"warning: {ended.warnings[0]}" in log.read_text().splitlines()


def test_of_pips_log_an_author_gets_neither_where_things_are_nor_what_gives_access(tmp_path: Path) -> None:
    words = tmp_path / "words"
    lines = [
        "Using pip 26.3 from /opt/site-packages/pip", "WARNING: Location 'file:///opt/index/' is ignored",
        "ERROR: Cannot install a and b because of https://me:secret@127.0.0.1/simple/a/?token=secret",
        "The conflict is caused by http://me:secret@[1", "    a 1.0 depends on c>2", "Exception information:",
        "Traceback (most recent call last):", '  File "/opt/site-packages/pip/x.py", line 1',
    ]  # fmt: skip
    words.write_text("".join(f"2026-07-31T06:09:00,123 {line}\n" for line in lines))
    path = tmp_path / "log"
    with Log.open(str(path)) as log:
        log.fail(ResolutionError("they conflict", path="a.vrf", line=3, log=str(words)))
        log.fail(ResolutionError("gone", log=str(tmp_path / "absent")))
    assert path.read_text().splitlines() == [
        "  | ERROR: Cannot install a and b because of https://127.0.0.1/simple/a/",
        "  | The conflict is caused by (a URL)", "  |     a 1.0 depends on c>2",
        "error: a.vrf:3: they conflict", "error: gone",
    ]  # fmt: skip
