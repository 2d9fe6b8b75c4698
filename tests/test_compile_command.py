"""``vrfstore compile``: which entries for which interpreters, and what is said of it."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from support.crash import base, litter, make_environment
from support.pythons import pythons
from support.wheels import WheelSpec, build_wheel
from test_progress import Terminal
from vrfstore import codec, fs, interpreter
from vrfstore.cli import compile_command, render
from vrfstore.cli.progress import watching
from vrfstore.errors import UsageError, VrfstoreError
from vrfstore.model import Event
from vrfstore.runner.compile import CompileReport, _fits, compile_store
from vrfstore.store.bytecode import is_compiled, read_records
from vrfstore.store.store import Store

BAD = {f"bad/m{number}.py": "def f(:\n" for number in range(7)}


@pytest.fixture(autouse=True)
def _home(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRFSTORE_HOME", store.root)
    monkeypatch.setattr(fs, "_syncfs", lambda _descriptor: None)


@pytest.fixture
def wheel(tmp_path: Path) -> Callable[..., Path]:
    def build(name: str, **options: Any) -> Path:
        return build_wheel(WheelSpec(name=name, **options), tmp_path)

    return build


def run(*arguments: str) -> int:
    """Run the command as the application does, which renders errors."""
    try:
        code = compile_command.command.main(list(arguments), standalone_mode=False)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except VrfstoreError as error:
        return render.error(error, as_json="--json" in arguments)
    return code if isinstance(code, int) else 0


def added(store: Store, path: Path) -> str:
    return store.add(path).plan.reference.directory


def compiled_for(store: Store) -> dict[str, set[str]]:
    """Return the cache tags for which each entry, by its name, has been compiled."""
    return {
        directory.split("-")[1]: {record.cache_tag for record in read_records(store.layout, directory)}
        for directory in store.entries()
    }


def compile_all(store: Store, *targets: str, **options: Any) -> CompileReport:
    return compile_store(store, targets, watch=lambda _: None, **options)


def other_python() -> str:
    """Return a python of another version than the base."""
    for python in pythons():
        if interpreter.probe(python).cache_tag != base().cache_tag:
            return python
    pytest.skip("there is only one version of Python")


def rewrite(store: Store, environment: str, **changes: object) -> None:
    path = Path(store.layout.record(environment))
    path.write_bytes(codec.dumps(codec.loads(path.read_bytes()) | changes))


# Which.


def test_without_targets_it_is_what_environments_link_to(store: Store, wheel: Callable[..., Path]) -> None:
    make_environment(store, wheel("a"), wheel("b"))
    added(store, wheel("lonely"))
    report = compile_all(store)
    assert report.warnings == ()
    assert [entry.state for done in report.compiled for entry in done.entries] == ["compiled"] * 2
    tag = base().cache_tag
    assert compiled_for(store) == {"a": {tag}, "b": {tag}, "lonely": set()}
    assert litter(store) == []


def test_all_is_every_entry_that_fits_for_every_interpreter(store: Store, wheel: Callable[..., Path]) -> None:
    added(store, wheel("pure"))
    added(store, wheel("elsewhere", tag="cp38-cp38-any"))
    compile_all(store, everything=True)
    tag = base().cache_tag
    assert compiled_for(store) == {"pure": {tag}, "elsewhere": set()}
    python = other_python()
    found = interpreter.probe(python)
    environment = make_environment(store, wheel("a")).directory
    rewrite(store, environment, executable=found.executable, interpreter=found.identity)
    compile_all(store, everything=True)
    assert compiled_for(store) == {"pure": {tag, found.cache_tag}, "elsewhere": set(), "a": {found.cache_tag}}


def test_python_takes_the_place_of_those_of_environments(store: Store, wheel: Callable[..., Path]) -> None:
    python = other_python()
    tag = interpreter.probe(python).cache_tag
    make_environment(store, wheel("a"))
    lonely = added(store, wheel("lonely"))
    compile_all(store, python=python)
    assert compiled_for(store) == {"a": {tag}, "lonely": set()}
    compile_all(store, lonely, python=python)
    assert compiled_for(store) == {"a": {tag}, "lonely": {tag}}


def test_targets_are_environments_and_entries(store: Store, wheel: Callable[..., Path]) -> None:
    first = make_environment(store, wheel("a")).directory
    make_environment(store, wheel("b"))
    lonely = added(store, wheel("lonely"))
    path = store.layout.of("environments", first)
    compile_all(store, f"{path}/", lonely[:20])
    tag = base().cache_tag
    assert compiled_for(store) == {"a": {tag}, "b": set(), "lonely": {tag}}
    with pytest.raises(UsageError, match="is not in the store"):
        compile_all(store, "nonsense")


def test_an_entry_is_compiled_for_the_interpreters_of_its_environments(
    store: Store, wheel: Callable[..., Path]
) -> None:
    found = interpreter.probe(other_python())
    record = make_environment(store, wheel("a"))
    make_environment(store, wheel("b"))
    rewrite(store, record.directory, executable=found.executable, interpreter=found.identity)
    compile_all(store, record.wheels[0].directory)
    assert compiled_for(store) == {"a": {found.cache_tag}, "b": set()}


def test_an_environment_whose_interpreter_is_gone_is_named_and_passed_over(
    store: Store, wheel: Callable[..., Path]
) -> None:
    gone, changed, torn, good = (make_environment(store, wheel(name)).directory for name in "abcd")
    rewrite(store, gone, executable="/nowhere/bin/python")
    rewrite(store, changed, interpreter=base().identity | {"cache_tag": "cpython-38", "version": "3.8.1"})
    Path(store.layout.record(torn)).write_bytes(b"{")
    report = compile_all(store)
    tag = base().cache_tag
    assert compiled_for(store) == {"a": set(), "b": set(), "c": set(), "d": {tag}}
    assert good not in str(report.warnings)
    words = {
        gone: "/nowhere/bin/python does not start",
        changed: "is not the Python 3.8.1 that it was",
        torn: "the record cannot be read",
    }
    assert len(report.warnings) == len(words)
    for name, text in words.items():
        assert any(
            warning.startswith(f"environments/{name} is") and text in warning for warning in report.warnings
        )


@pytest.mark.parametrize(
    ("tag", "fits"),
    [
        ("py3-none-any", True), ("py2.py3-none-any", True), ("py2-none-any", False), ("py39-none-any", True),
        ("py312-none-any", False), ("cp311-cp311-linux_x86_64", True), ("cp311-none-any", True),
        ("cp310-cp310-linux_x86_64", False), ("cp310-none-any", False), ("cp312-abi3-linux_x86_64", False),
        ("cp38-abi3-linux_x86_64", True), ("pp311-pypy311-linux_x86_64", False), ("cp-x-any", False),
        ("py3x-none-any", True), ("x-none-any", False),
    ],
)  # fmt: skip
def test_which_wheels_are_for_a_version(tag: str, fits: bool) -> None:
    pythons_of_tag, _, rest = tag.partition("-")
    assert _fits([f"{python}-{rest}" for python in pythons_of_tag.split(".")], "3.11") is fits


# What is said.


def test_it_says_what_was_compiled_and_names_the_first_modules_that_do_not(
    store: Store, wheel: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = (
        make_environment(store, wheel("pear", files={"pear.py": "", "fig.py": "", **BAD})).wheels[0].directory
    )
    make_environment(store, wheel("plum"))
    assert run() == 0
    out, err = capsys.readouterr()
    version = base().version
    assert err == f"compiling 10 modules for Python {version}\n"
    lines = out.splitlines()
    assert lines[:2] == [f"Python {version}: compiled 2 entries, 3 modules", "  7 modules do not compile:"]
    assert [line.split(": ")[:3] for line in lines[2:7]] == [
        [f"  {directory}", f"site-packages/bad/m{number}.py", "SyntaxError"] for number in range(5)
    ]
    assert lines[7:] == ["  and 2 more; see --json"]
    assert run() == 0
    out, err = capsys.readouterr()
    assert (out, err) == (f"Python {version}: compiled 0 entries, 0 modules, 2 were compiled before\n", "")


def test_json_has_all_of_it(
    store: Store, wheel: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = make_environment(store, wheel("pear", files={"pear.py": "", **BAD})).wheels[0].directory
    assert run("--json", "--quiet") == 0
    out, err = capsys.readouterr()
    assert err == ""
    answer = json.loads(out)
    assert (answer["schema_version"], answer["status"], answer["warnings"]) == (1, "done", [])
    (done,) = answer["interpreters"]
    assert (done["python"], done["version"], done["cache_tag"], done["magic"]) == (
        base().real, base().version, base().cache_tag, base().magic,
    )  # fmt: skip
    (entry,) = done["entries"]
    assert (entry["entry"], entry["state"], entry["modules"]) == (directory, "compiled", 1)
    assert [failed["path"] for failed in entry["failed"]] == [f"site-packages/{name}" for name in sorted(BAD)]


def test_a_damaged_entry_is_an_error_and_the_others_are_compiled(
    store: Store, wheel: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    damaged, good = (make_environment(store, wheel(name)).wheels[0].directory for name in "ab")
    Path(store.layout.of("entries", damaged), "manifest.json").unlink()
    assert run("--json") == 17
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert (answer["status"], answer["error"]["kind"]) == ("error", "store-damaged")
    assert f"vrfstore verify --repair {damaged}" in err
    assert is_compiled(store.layout, good, base())


def test_where_there_is_nothing_it_says_so(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert capsys.readouterr() == ("nothing to compile\n", "")
    assert run("--all") == 0
    assert capsys.readouterr() == ("nothing to compile\n", "")


def test_wrong_usage(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--all", "x") == 2
    assert run("--python", "/nowhere/python") == 22
    assert run("nonsense") == 2
    assert capsys.readouterr().out == ""


def test_a_warning_is_printed_unless_quiet(
    store: Store, wheel: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    environment = make_environment(store, wheel("a")).directory
    rewrite(store, environment, executable="/nowhere/bin/python")
    for arguments, words in (((), f"warning: environments/{environment} is passed over"), (("-q",), "")):
        assert run(*arguments) == 0
        out, err = capsys.readouterr()
        assert out == "nothing to compile\n"
        assert err.startswith(words)
        assert bool(err) is bool(words)


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert "vrfstore compile --all" in out


# Progress.


EVENTS = (
    Event(kind="compiling", subject="Python 3.13.0", total=3),
    Event(kind="compiled", subject="x", size=2),
    Event(kind="waiting", subject="another vrfstore that compiles x"),
    Event(kind="compiled", subject="x", size=1),
)


def test_without_a_terminal_there_is_a_line() -> None:
    stream = io.StringIO()
    with watching(stream) as watch:
        for event in (*EVENTS, Event(kind="compiling", subject="Python 3.9.1", total=1)):
            watch(event)
    assert stream.getvalue().splitlines() == [
        "compiling 3 modules for Python 3.13.0",
        "waiting for another vrfstore that compiles x",
        "compiling 1 module for Python 3.9.1",
    ]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(max(80, shutil.get_terminal_size().columns)))
    opened = Terminal()
    yield opened
    if not opened.stream.closed:
        opened.close()


def test_on_a_terminal_there_is_a_bar(terminal: Terminal) -> None:
    with watching(terminal.stream) as watch:
        watch(EVENTS[0])
        watch(EVENTS[1])
        terminal.wait_for(r"compiling for Python 3\.13\.0 .*━+.* 2 modules")
        watch(EVENTS[2])
        terminal.wait_for("waiting for another vrfstore that compiles x")
        watch(EVENTS[3])
        terminal.wait_for("waiting for another vrfstore that compiles x .*3 modules")
    terminal.close()


def test_it_runs_where_nobody_listens(store: Store, wheel: Callable[..., Path]) -> None:
    make_environment(store, wheel("a"))
    with open(os.devnull) as closed, watching(closed) as watch:
        report = compile_store(store, watch=watch)
    assert [len(done.entries) for done in report.compiled] == [1]
