"""What the documents show is what happens: every command and every program in them is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.index import Index
from support.wheels import WheelSpec

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[Path, str]]:
    return [
        (document, body)
        for document in DOCUMENTS
        for found, body in BLOCK.findall(document.read_text())
        if found == language
    ]


@pytest.fixture
def project(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory as the documents assume it: a requirements file, and the command on PATH."""
    index.add(WheelSpec(name="pandas", version="2.9", requires=["numpy-stand-in"]))
    index.add(WheelSpec(name="numpy-stand-in"))
    index.add(WheelSpec(name="matplotlib"))
    directory = tmp_path / "project"
    directory.mkdir()
    (written,) = (body for _, body in blocks("text") if body.startswith("# requirements.vrf"))
    (directory / "requirements.vrf").write_text(written)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("VRFSTORE_HOME", str(tmp_path / "store"))
    return directory


def test_every_command_that_is_shown_succeeds(project: Path) -> None:
    commands = [
        line.removeprefix("$ ")
        for _, body in blocks("console")
        for line in body.splitlines()
        if line.startswith("$ ")
    ]
    assert len(commands) > 5
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=project, capture_output=True, text=True, check=False)  # noqa: S602
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_every_program_that_is_shown_runs(project: Path) -> None:
    programs = blocks("python")
    assert programs
    for document, body in programs:
        done = subprocess.run(
            [sys.executable, "-c", body], cwd=project, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{document.name}\n{done.stderr}"


def test_every_link_between_the_documents_leads_somewhere() -> None:
    others = [ROOT / "CHANGELOG.md", ROOT / "clients/node/README.md", *ROOT.glob("examples/*/README.md")]
    for document in [*DOCUMENTS, *others]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_word_of_the_glossary_is_said_once() -> None:
    words = re.findall(r"^\| \*\*(.+?)\*\*", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    assert words == sorted(set(words))


def test_every_exit_code_of_an_error_is_documented() -> None:
    from vrfstore import errors

    listed = (ROOT / "docs/design.md").read_text().split("## 11.")[1].split("## 12.")[0]
    for name in errors.__all__:
        code = getattr(errors, name).exit_code
        assert re.search(rf"(^|[^\d]){code} [a-z]", listed), (name, code)
