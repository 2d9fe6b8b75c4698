"""What the documents show is what happens: every command and every program in them is run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from xml.etree import ElementTree as ET

import click
import pytest

from support.index import Index
from support.wheels import WheelSpec
from vrfstore.cli.application import application
from vrfstore.runner import configuration

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
GUIDES = [*DOCUMENTS, *sorted(ROOT.glob("examples/*/README.md")), ROOT / "clients/node/README.md"]
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")

NOT_RUN = {
    "make demo": "asks the package index; test_acceptance runs it where that may be asked",
    "make test": "it is what runs this",
    "pip install": "asks the package index; that there are such extras is looked at below",
    "keyring set": "wants an index with a password; test_keyring has one",
    "cp vrfstore-gc": "changes the machine; test_examples runs what it installs",
    "make runner-demo": "test_runner_example runs it",
    "useradd": "changes the machine; test_examples runs what it installs",
}
"""Scripts that are shown and not run here, by how they begin, with the reason."""

STAND_INS = {
    # As much of it as matters: it takes the python that it was told, and fails without.
    "quarto": '#!/bin/sh\nexec "${QUARTO_PYTHON:?}" -c "import pandas"\n',
}
"""Commands of others that are shown, by name."""

PROJECT = "/srv/report"
"""Where the documents have a project whose path has to be written out."""

SHARED_STORE = "/srv/vrfstore"
"""Where they have a store that lends."""


def fenced(guide: Path) -> list[tuple[str, str]]:
    """The blocks of a document, those in lists too: languages and texts."""
    return [(language, dedent(body)) for language, body in BLOCK.findall(guide.read_text())]


def blocks(language: str) -> list[tuple[Path, str]]:
    """The blocks of a language in all documents, each with its document."""
    return [(guide, body) for guide in GUIDES for found, body in fenced(guide) if found == language]


def commands(guide: Path) -> Iterator[str]:
    """What a document tells its readers to run, as texts for the shell, in its order."""
    for language, body in fenced(guide):
        if language == "console":
            yield from (line.removeprefix("$ ") for line in body.splitlines() if line.startswith("$ "))
        elif language == "sh":
            yield body
        elif language == "crontab":
            yield from (line.split(None, 5)[5] for line in body.splitlines() if line[0] in "*0123456789")


@pytest.fixture
def project(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory as the documents assume it: what they write about, and their commands on PATH."""
    index.add(WheelSpec(name="pandas", version="2.9", requires=["numpy-stand-in"]))
    index.add(WheelSpec(name="numpy-stand-in"))
    index.add(WheelSpec(name="matplotlib"))
    launcher = "import json, sys\n\nprint(json.dumps([sys.prefix, sys.argv]))\n"
    index.add(WheelSpec(name="ipykernel", files={"ipykernel_launcher.py": launcher}))
    directory, programs = tmp_path / "project", tmp_path / "programs"
    directory.mkdir()
    programs.mkdir()
    (written,) = (body for _, body in blocks("text") if body.startswith("# requirements.vrf"))
    (directory / "requirements.vrf").write_text(written)
    (target,) = (body for _, body in blocks("json") if '"version": "3.12.3"' in body)
    (directory / "image.json").write_text(target)
    (directory / "report.py").write_text("import pandas\n")
    for name, text in STAND_INS.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    path = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    monkeypatch.setenv("VRFSTORE_HOME", str(tmp_path / "store"))
    return directory


def run(command: str, project: Path) -> subprocess.CompletedProcess[str]:
    """Run a text in a shell that ends with the first command that fails."""
    here = command.replace(PROJECT, str(project)).replace(SHARED_STORE, f"{project}-shared")
    return subprocess.run(
        ["/bin/sh", "-euc", here],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_command_that_is_shown_succeeds(project: Path, tmp_path: Path) -> None:
    shown = [(guide, command) for guide in GUIDES for command in commands(guide)]
    left_out = [command for _, command in shown if command.startswith(tuple(NOT_RUN))]
    assert all(any(command.startswith(beginning) for command in left_out) for beginning in NOT_RUN)
    for guide, command in shown:
        if command not in left_out:
            done = run(command, project)
            assert done.returncode == 0, f"{guide.relative_to(ROOT)}: {command}\n{done.stderr}"
    _the_kernel_starts(project, tmp_path / "home/.local/share/jupyter/kernels/report/kernel.json")
    _the_metrics_are_there((project / "vrfstore.prom").read_text())


def _the_kernel_starts(project: Path, specification: Path) -> None:
    """As Jupyter starts one: its words as they are, and no shell."""
    words = [
        word.replace("{connection_file}", "a file") for word in json.loads(specification.read_text())["argv"]
    ]
    done = subprocess.run(words, cwd=project.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    prefix, arguments = json.loads(done.stdout)
    assert Path(prefix).parent.name == "environments"
    assert arguments[1:] == ["-f", "a file"]


def _the_metrics_are_there(written: str) -> None:
    shown = re.findall(r"\bvrfstore_\w+", (ROOT / "docs/operating.md").read_text())
    assert len(shown) > 3
    assert set(shown) <= set(re.findall(r"^vrfstore_\w+", written, re.MULTILINE))


def test_no_command_hides_in_another_block() -> None:
    for language in ("", "text"):
        for guide, body in blocks(language):
            hidden = [line for line in body.splitlines() if re.match(r"(\$ |# |sudo )?vrfstore [a-z]", line)]
            assert not hidden, f"{guide.relative_to(ROOT)}: {hidden[0]}"


def test_every_command_within_a_sentence_exists_with_its_options() -> None:
    named = [
        (guide, words.split())
        for guide in GUIDES
        for words in re.findall(r"`vrfstore ([a-z][^`]*)`", BLOCK.sub("", guide.read_text()))
    ]
    assert len(named) > 20
    for guide, words in named:
        command: click.Command | None = application
        ours = words[: words.index("--")] if "--" in words else words
        while ours and isinstance(command, click.Group):
            command = command.get_command(click.Context(command), ours.pop(0))
        assert command is not None, f"{guide.relative_to(ROOT)}: {' '.join(words)}"
        options = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        assert {word for word in ours if word[0] == "-"} <= options, (
            f"{guide.relative_to(ROOT)}: {' '.join(words)}"
        )


def test_every_program_that_is_shown_runs(project: Path) -> None:
    programs = blocks("python")
    assert programs
    for document, body in programs:
        done = subprocess.run(
            [sys.executable, "-c", body], cwd=project, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{document.name}\n{done.stderr}"


def test_every_configuration_that_is_shown_is_understood(tmp_path: Path) -> None:
    shown = blocks("toml")
    assert len(shown) > 3
    for number, (_, body) in enumerate(shown):
        file = tmp_path / f"{number}.toml"
        file.write_text(body)
        assert configuration.read({"VRFSTORE_CONFIG": str(file)}) != configuration.Configuration()


def test_every_extra_that_is_shown_exists() -> None:
    import tomllib

    there = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    shown = {
        extra
        for guide in GUIDES
        for extras in re.findall(r"'(?:\.|vrfstore)\[([\w,]+)\]'", guide.read_text())
        for extra in extras.split(",")
    }
    assert shown
    assert shown <= there.keys()


def anchors(document: Path) -> set[str]:
    """The names under which the headings of a document can be linked to."""
    text = BLOCK.sub("", document.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_between_the_documents_leads_somewhere() -> None:
    for document in [*GUIDES, ROOT / "CHANGELOG.md"]:
        for target in LINK.findall(BLOCK.sub("", document.read_text())):
            if ":" in target:
                continue
            path, _, anchor = target.partition("#")
            led = (document.parent / path).resolve() if path else document
            assert led.exists(), f"{document.name}: {target}"
            assert not anchor or anchor in anchors(led), f"{document.name}: {target}"


def test_every_document_can_be_reached_from_the_readme() -> None:
    found, waiting = set(), [ROOT / "README.md"]
    while waiting:
        document = waiting.pop()
        if document not in found and document.suffix == ".md":
            found.add(document)
            waiting += [
                (document.parent / target.partition("#")[0]).resolve()
                for target in LINK.findall(document.read_text())
                if ":" not in target and target[0] != "#"
            ]
    assert set(GUIDES) <= found


def test_drawings_stand_alone() -> None:
    drawings = list(ROOT.glob("docs/*.svg"))
    assert drawings
    for drawing in drawings:
        text = drawing.read_text()
        tree = ET.fromstring(text)  # noqa: S314 - our own
        assert not re.search(r"href|@font-face|@import|url\(\s*['\"]?(?!#)|<script|<image", text), (
            "from elsewhere"
        )
        assert "prefers-color-scheme: dark" in text
        assert tree.find("{http://www.w3.org/2000/svg}title") is not None
        assert len(text) < 20_000


def test_every_word_of_the_glossary_is_said_once() -> None:
    words = re.findall(r"^\| \*\*(.+?)\*\*", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    assert words == sorted(set(words))


def test_every_exit_code_of_an_error_is_documented() -> None:
    from vrfstore import errors

    listed = (ROOT / "docs/design.md").read_text().split("## 11.")[1].split("## 12.")[0]
    for name in errors.__all__:
        code = getattr(errors, name).exit_code
        assert re.search(rf"(^|[^\d]){code} [a-z]", listed), (name, code)
