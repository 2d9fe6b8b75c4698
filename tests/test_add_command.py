"""``vrfstore add`` as its users meet it: many wheels, some of which will not do, and what is too much."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.crash import litter, tree, wheel_digest
from support.wheels import WheelSpec, build_wheel
from vrfstore.cli.running import run
from vrfstore.store.store import Added, Store


@pytest.fixture(autouse=True)
def _home(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRFSTORE_HOME", store.root)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where wheels are."""
    path = tmp_path / "wheels"
    path.mkdir()
    return path


@pytest.fixture
def good(folder: Path) -> list[str]:
    """Three that are all right."""
    return [str(build_wheel(WheelSpec(name=name), folder)) for name in ("ant", "bee", "cat")]


@pytest.fixture
def bad(folder: Path) -> dict[str, str]:
    """Those that are not, by the kind of the error."""
    paths = {
        "wheel-unreadable": "absent-1.0-py3-none-any.whl",
        "directory": "folder-1.0-py3-none-any.whl",
        "fifo": "pipe-1.0-py3-none-any.whl",
        "loop": "loop-1.0-py3-none-any.whl",
        "wheel-filename": "ant.whl",
        "wheel-archive": "empty-1.0-py3-none-any.whl",
    }
    found = {kind: str(folder / name) for kind, name in paths.items()}
    os.mkdir(found["directory"])
    os.mkfifo(found["fifo"])
    os.symlink(os.path.basename(found["loop"]), found["loop"])
    shutil.copy(build_wheel(WheelSpec(name="dog"), folder), found["wheel-filename"])
    Path(found["wheel-archive"]).touch()
    return found


def answer(capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_results_come_in_the_order_given_and_a_refusal_keeps_nobody_out(
    store: Store, good: list[str], bad: dict[str, str]
) -> None:
    wheels = [path for pair in zip(bad.values(), good * 2, strict=True) for path in pair]
    results = store.add_all(wheels)
    assert len(results) == len(wheels)
    for path, result in zip(wheels, results, strict=True):
        if isinstance(result, Added):
            assert path in good
            assert result.plan.reference.digest == wheel_digest(Path(path))
        else:
            assert path in bad.values()
            assert (result.exit_code, os.path.basename(result.path or "")) == (18, os.path.basename(path))
    # The same wheel twice in one call is unpacked once.
    assert sum(isinstance(result, Added) and result.new for result in results) == 3
    assert len(store.entries()) == 3
    assert litter(store) == []


def test_what_is_no_file_is_refused_without_waiting_for_it(store: Store, bad: dict[str, str]) -> None:
    before = tree(store.root, without=("holds",))
    results = store.add_all(list(bad.values()))
    kinds = {kind: getattr(result, "kind", None) for kind, result in zip(bad, results, strict=True)}
    unreadable = dict.fromkeys(("wheel-unreadable", "directory", "fifo", "loop"), "wheel-unreadable")
    assert kinds == unreadable | {kind: kind for kind in ("wheel-filename", "wheel-archive")}
    assert tree(store.root, without=("holds",)) == before


def test_nothing_is_nothing(store: Store) -> None:
    assert store.add_all([]) == []


def test_refused_and_added_wheels_are_told_apart_in_text(
    store: Store, good: list[str], bad: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["add", good[0]]) == 0
    capsys.readouterr()
    assert run(["add", good[0], bad["wheel-archive"], good[1], bad["fifo"]]) == 18
    out, err = capsys.readouterr()
    names = [
        f"{wheel_digest(Path(path))[:20]}-{name}-1.0"
        for path, name in zip(good, ("ant", "bee"), strict=False)
    ]
    assert out.splitlines() == [f"{names[0]}  (was there)", names[1]]
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [
        "error: empty-1.0-py3-none-any.whl: there is no end record: not a zip archive, or one that was cut off",
        f"error: {bad['fifo']}: the file cannot be read: not a regular file",
    ]


def test_json_has_entries_and_errors(
    good: list[str], bad: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["add", "--json", good[0], bad["wheel-archive"], good[1], bad["wheel-filename"]]) == 18
    said, _ = answer(capsys)
    assert (said["schema_version"], said["status"]) == (1, "error")
    assert [entry["name"] for entry in said["entries"]] == ["ant", "bee"]
    assert said["entries"][0] == {
        "name": "ant",
        "version": "1.0",
        "digest": wheel_digest(Path(good[0])),
        "entry": f"{wheel_digest(Path(good[0]))[:20]}-ant-1.0",
        "new": True,
        "warnings": [],
    }
    assert [(error["kind"], error["code"]) for error in said["errors"]] == [
        ("wheel-archive", 18),
        ("wheel-filename", 18),
    ]
    assert said["error"] == said["errors"][0]
    assert run(["add", "--json", *good]) == 0
    said, err = answer(capsys)
    assert (said["status"], err, "errors" in said, "error" in said) == ("done", "", False, False)
    assert [entry["new"] for entry in said["entries"]] == [False, False, True]


def test_members_that_are_equal_but_for_case_are_warned_of(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = build_wheel(WheelSpec(name="ant", files={"ant/One.py": "", "ant/one.py": ""}), folder)
    assert run(["add", "--json", str(wheel)]) == 0
    said, err = answer(capsys)
    (warning,) = said["entries"][0]["warnings"]
    assert "'ant/One.py', 'ant/one.py'" in warning
    assert err == f"warning: {said['entries'][0]['entry']}: {warning}\n"
    # It is said once, when somebody can still decide about it.
    assert run(["add", "--json", str(wheel)]) == 0
    assert answer(capsys)[0]["entries"][0]["warnings"] == []


LIMITS = [
    (["--max-unpacked", "1M"], {"a.bin": b"x" * 1_000_000}, "wheel-bomb", None),
    (["--max-unpacked", "1MiB"], {"a.bin": b"x" * 1_048_576}, "wheel-bomb", None),
    (["--max-files", "9"], {f"{number}.py": b"" for number in range(8)}, "wheel-bomb", None),
    (["--max-ratio", "20"], {"a.bin": bytes(70_000_000)}, "wheel-bomb", None),
    (["--max-depth", "4"], {"a/b/c/d/e/f.py": b""}, "wheel-member-name", "a/b/c/d/e/f.py"),
]


@pytest.mark.parametrize("case", LIMITS, ids=lambda case: "".join(case[0]))
def test_what_is_too_much_can_be_said(
    store: Store,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    case: tuple[list[str], dict[str, bytes], str, str | None],
) -> None:
    options, files, kind, member = case
    wheel = str(build_wheel(WheelSpec(name="ant", files=files), folder))
    before = tree(store.root, without=("holds",))
    assert run(["add", "--json", *options, wheel]) == 18
    error = answer(capsys)[0]["error"]
    assert (error["kind"], error["member"]) == (kind, member)
    assert options[1].rstrip("MiB") in error["message"].replace("1000000", "1").replace("1048576", "1")
    assert tree(store.root, without=("holds",)) == before
    plenty = {"1M": "2M", "1MiB": "2MiB", "9": "12", "20": "100000", "4": "5"}[options[1]]
    assert run(["add", options[0], plenty, wheel]) == 0


@pytest.mark.parametrize(
    "size",
    ["", "-1", "M", "1X", "1.M", ".5M", "1e5", "0x10", "1 000", "1iB", "nan", "inf", "9" * 400, "9" * 6000],
    ids=lambda size: size[:8] or "empty",
)
def test_a_size_that_is_none_is_a_usage_error(
    size: str, good: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["add", "--json", "--max-unpacked", size, good[0]]) == 2
    assert answer(capsys)[0]["error"]["kind"] == "usage"


@pytest.mark.parametrize("option", ["--max-files", "--max-ratio", "--max-depth"])
@pytest.mark.parametrize("number", ["0", "-1", "1M", "many", "9" * 6000], ids=lambda number: number[:8])
def test_a_number_that_is_none_is_a_usage_error(
    option: str, number: str, good: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["add", option, number, good[0]]) == 2
    assert option in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace to count system calls with")
@pytest.mark.parametrize(("options", "synced"), [([], True), (["--no-sync"], False)])
def test_syncs_are_made_unless_they_are_not_wanted(
    good: list[str], tmp_path: Path, options: list[str], synced: bool
) -> None:
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-e", "trace=sync,syncfs,fsync,fdatasync", "-o", str(trace)]
    ran = subprocess.run(
        [*command, sys.executable, "-m", "vrfstore", "add", *options, *good],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode and "ptrace" in ran.stderr:
        pytest.skip("strace may not trace here")
    assert ran.returncode == 0, ran.stderr
    assert ("syncfs(" in trace.read_text()) == synced
