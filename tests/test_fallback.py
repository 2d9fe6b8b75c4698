"""``link --fallback``: whatever fails, a document gets a python that was looked at."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support.bases import base_with, site_packages
from support.commands import Command, commands
from support.index import Index
from support.wheels import WheelSpec
from vrfstore.errors import InterpreterError
from vrfstore.interpreter import default_executable
from vrfstore.runner import fallback
from vrfstore.store.store import Store


@pytest.fixture
def command(store: Store, capsys: pytest.CaptureFixture[str]) -> Command:
    return commands(store, capsys)


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A base that has what a kernel needs, as far as can be seen."""
    kernel = {"ipykernel/__init__.py": "", "ipykernel/kernelapp.py": "print('ready')\n"}
    return base_with(tmp_path / "base", WheelSpec(name="ipykernel", files=kernel))


@pytest.fixture
def requirements(index: Index, tmp_path: Path) -> Path:
    index.add(WheelSpec(name="pear"))
    path = tmp_path / "requirements.vrf"
    path.write_text("pear\n")
    return path


FAILURES = {
    "no such package": ("papaya\n", [], 11, "package-missing"),
    "no requirement": ("papaya >> 1\n", [], 10, "requirement-syntax"),
    "refused": ("pear\n", ["--no-install"], 12, "not-permitted"),
    "too much": ("pear\n", ["--max-packages", "0"], 13, "max-packages"),
    "no network": ("pear\n", ["--index-url", "http://127.0.0.1:9/simple"], 14, "index-unreachable"),
    "no time": ("pear\n", ["--timeout", "0"], 13, "max-time"),
}


@pytest.mark.parametrize(("text", "options", "code", "kind"), FAILURES.values(), ids=FAILURES.keys())
def test_every_failure_ends_with_0_the_base_and_the_reason(
    command: Command,
    base: str,
    requirements: Path,
    tmp_path: Path,
    text: str,
    options: list[str],
    code: int,
    kind: str,
) -> None:
    requirements.write_text(text)
    log = tmp_path / "render.log"
    ended = command("link", requirements, "--python", base, "--json", "--fallback", "--log", log, *options)
    assert ended.code == 0
    document = ended.document
    assert (document["status"], document["python"]) == ("fallback", base)
    assert (document["error"]["code"], document["error"]["kind"]) == (code, kind)
    assert document["warnings"] == []
    assert document["error"]["message"] in ended.err
    written = log.read_text()
    assert f"error: {requirements}" in written or document["error"]["message"] in written
    assert written.endswith(f"packages of the document: {base}\npython: {base}\n")


def test_a_store_that_cannot_be_used_is_fallen_back_from_too(
    capsys: pytest.CaptureFixture[str], base: str, requirements: Path, tmp_path: Path
) -> None:
    from vrfstore.cli.running import run

    (tmp_path / "file").touch()
    arguments = ["link", str(requirements), "--store", str(tmp_path / "file"), "--python", base, "--fallback"]
    assert run(arguments) == 0
    assert capsys.readouterr().out == f"{base}\n"


def test_a_bug_is_fallen_back_from_and_shown(
    command: Command, base: str, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vrfstore.runner.linking.Linking.run", lambda *_: 1 / 0)
    ended = command("link", requirements, "--python", base, "--json", "--fallback")
    assert (ended.code, ended.document["error"]["code"]) == (0, 70)
    assert "ZeroDivisionError" in ended.err


@pytest.mark.parametrize(
    "options",
    [["--frobnicate"], ["--force"], ["--root", "../x"], ["--target", "x.json"], ["--lease-ttl", "0"]],
)
def test_a_usage_error_is_none_of_them(command: Command, requirements: Path, options: list[str]) -> None:
    ended = command("link", requirements, "--json", "--fallback", *options)
    assert ended.code == 2
    assert ended.document["status"] == "error"


def test_an_environment_that_can_be_had_is_what_there_is(command: Command, requirements: Path) -> None:
    assert command("link", requirements, "--json", "--fallback").document["status"] == "built"


def test_what_the_base_lacks_for_a_kernel_is_a_warning(
    command: Command, base: str, requirements: Path
) -> None:
    (site_packages(Path(base).parents[1]) / "ipykernel/kernelapp.py").write_text("import absent_module\n")
    ended = command("link", requirements, "--python", base, "--json", "--fallback", "--no-install")
    (warning,) = ended.warnings
    assert "No module named 'absent_module'" in warning
    assert "cannot run a kernel" in warning


@pytest.mark.parametrize(
    "text", ["#!/bin/sh\nexit 3\n", "#!/bin/sh\nsleep 600 & wait\n"], ids=["fails", "hangs"]
)
def test_a_base_that_does_not_start_gives_way_to_the_usual_one(
    command: Command, requirements: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr("vrfstore.runner.fallback._PATIENCE", 2.0)
    monkeypatch.setattr("vrfstore.interpreter._TIMEOUT", 1.0)
    broken = tmp_path / "python"
    broken.write_text(text)
    broken.chmod(0o755)
    ended = command("link", requirements, "--python", broken, "--json", "--fallback")
    assert ended.code == 0
    assert ended.document["python"] == default_executable()
    assert ended.document["error"]["kind"] == "interpreter-broken"
    assert str(broken) in ended.warnings[0]


def test_where_nothing_starts_the_error_stands(
    command: Command, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(python: str, *_: object, **__: object) -> None:
        raise InterpreterError(f"{python} does not start")

    monkeypatch.setattr("vrfstore.runner.fallback.start", fail)
    ended = command("link", requirements, "--json", "--fallback", "--no-install")
    assert (ended.code, ended.document["status"]) == (12, "error")
    assert fallback.find(None) is None


def test_a_command_that_uses_the_answer_runs_on_the_base(
    command: Command, base: str, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    monkeypatch.delenv("PYTHONHOME")
    document = command(
        "link", requirements, "--python", base, "--json", "--fallback", "--no-install"
    ).document
    code = "import sys, os; print(sys.executable, os.environ['QUARTO_PYTHON'])"
    done = subprocess.run(
        ["python", "-c", code], env=os.environ | document["env"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [base, base]
    assert document["env"]["VIRTUAL_ENV"] == str(Path(base).parents[1])
