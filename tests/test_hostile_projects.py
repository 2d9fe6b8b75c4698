"""A project is its author's: nothing in it opens the gate, and nothing of it is run while it is linked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.bases import sdist
from support.commands import Ended, check_link
from support.index import Index
from support.wheels import WheelSpec, build_wheel
from vrfstore.store.store import Store

COMMAND = (str(Path(sys.executable).with_name("vrfstore")),)
MODULE = (sys.executable, "-P", "-m", "vrfstore")

PEAR = WheelSpec(name="pear", files={"pear.py": "ripe = True\n"})


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What code of the author leaves behind, if it is run."""
    return tmp_path / "was-here"


@pytest.fixture
def project(tmp_path: Path, marker: Path) -> Path:
    """A directory with everything that some program might take for its own, or run."""
    directory = tmp_path / "project"
    directory.mkdir()
    code = f"open({str(marker)!r}, 'a').write(__name__ + '\\n')\nraise SystemExit(1)\n"
    names = sys.stdlib_module_names | {
        "sitecustomize", "usercustomize", "setup", "conftest", "click", "packaging", "pip", "installer", "filelock",
        "platformdirs", "urllib3", "rich", "tomli_w", "isal", "zstandard", "uv",
    }  # fmt: skip
    for name in names:
        (directory / f"{name}.py").write_text(code)
    elsewhere = "http://127.0.0.1:9/simple"
    for name, text in {
        "pip.conf": f"[global]\nindex-url = {elsewhere}\n",
        "uv.toml": f'index-url = "{elsewhere}"\n',
        "vrfstore.toml": '[link]\ninstall = "allow"\n',
        "pyproject.toml": (
            '[build-system]\nrequires = []\nbuild-backend = "setup"\nbackend-path = ["."]\n'
            f'[project]\nname = "x"\nversion = "1"\n[tool.uv]\nindex-url = "{elsewhere}"\n'
            '[tool.vrfstore.link]\ninstall = "allow"\n'
        ),
        ".env": "VRFSTORE_CONFIG=vrfstore.toml\nPIP_NO_INDEX=1\n",
        ".python-version": "2.7\n",
        "setup.cfg": "[metadata]\nname = x\n",
        "requirements.vrf": "pear\n",
    }.items():
        (directory / name).write_text(text)
    (directory / "python3").write_text(f"#!/bin/sh\necho python3 >> {marker}\n")
    (directory / "python3").chmod(0o755)
    return directory


def vrfstore(store: Store, project: Path, *arguments: str, program: Sequence[str] = ()) -> Ended:
    """Run the command in the project's directory, in a process of its own."""
    command = [*(program or COMMAND), "--store", store.root, *arguments]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    ended = Ended(done.returncode, done.stdout, done.stderr)
    if "--json" in arguments:
        check_link(ended.document)
    return ended


@pytest.mark.parametrize("program", [COMMAND, MODULE], ids=["command", "module"])
@pytest.mark.parametrize("resolver", ["pip", "uv"])
def test_nothing_of_a_project_is_run_or_has_a_say_while_it_is_linked(
    index: Index, store: Store, project: Path, marker: Path, resolver: str, program: Sequence[str]
) -> None:
    index.add(PEAR)
    ended = vrfstore(
        store, project, "link", "requirements.vrf", "--json", "--resolver", resolver, "--compile", "eager",
        program=program,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert ended.document["status"] == "built"
    assert vrfstore(store, project, "link", "requirements.vrf", program=program).code == 0
    assert not marker.exists(), marker.read_text()


def test_without_p_the_module_takes_nothing_beside_a_document_for_its_own_either(
    index: Index, store: Store, project: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Python itself needs for -m, it looks for there before anything of ours is run: that is what -P is for."""
    # Where coverage is measured, it loads half of the standard library before anybody else.
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    what = "import runpy, importlib.util, pkgutil, sys; print(*sys.modules)"
    before_us = subprocess.run([sys.executable, "-c", what], capture_output=True, text=True, check=True)
    for name in before_us.stdout.split():
        (project / f"{name}.py").unlink(missing_ok=True)
    assert {"random", "tomllib", "json", "tempfile"} <= {path.stem for path in project.glob("*.py")}
    index.add(PEAR)
    bare = tuple(word for word in MODULE if word != "-P")
    ended = vrfstore(store, project, "link", "requirements.vrf", "--json", program=bare)
    assert ended.code == 0, ended.err
    assert not marker.exists(), marker.read_text()


def test_a_wheel_is_not_run_while_it_is_linked(
    index: Index, store: Store, project: Path, marker: Path
) -> None:
    line = f"import os; open({str(marker)!r}, 'a').write('pth')\n"
    customize = f"open({str(marker)!r}, 'a').write('sitecustomize')\n"
    index.add(WheelSpec(name="pear", files={"pear.pth": line, "sitecustomize.py": customize}))
    ended = vrfstore(store, project, "link", "requirements.vrf", "--json", "--compile", "eager")
    assert ended.code == 0, ended.err
    assert not marker.exists(), marker.read_text()
    subprocess.run([ended.document["python"], "-c", ""], check=True)
    assert marker.exists(), "it would have been noticed"


REFUSED = {
    "the package": ("a.vrf", "pear\n", 12),
    "another index": ("a.vrf", "--index-url {index}\npear\n", 10),
    "another index, trusted": ("a.txt", "--index-url {index}\npear\n", 10),
    "an option of ours": ("a.vrf", "--install\npear\n", 10),
    "a file beside": ("a.vrf", "-r b.txt\n", 10),
    "a file beside, trusted": ("a.txt", "-r b.txt\n", 12),
    "a wheel": ("a.txt", "./pear-1.0-py3-none-any.whl\n", 12),
    "a wheel by URL": ("a.txt", "pear @ {index}/../files/pear-1.0-py3-none-any.whl\n", None),
    "a source": ("a.txt", "./plum-1.0.tar.gz\n", None),
    "itself": ("a.txt", "-e .\n", 10),
    "a project": ("pyproject.toml", '[project]\nname = "x"\nversion = "1"\ndependencies = ["pear"]\n', 12),
    "a project that is built": (
        "pyproject.toml",
        (
            '[build-system]\nrequires = ["pear"]\nbuild-backend = "setup"\nbackend-path = ["."]\n'
            '[project]\nname = "x"\ndynamic = ["version", "dependencies"]\n'
        ),
        10,
    ),
    "a script": (
        "a.py",
        '# /// script\n# dependencies = ["pear"]\n# [tool.vrfstore]\n# install = "allow"\n# ///\n',
        12,
    ),
}  # fmt: skip


@pytest.mark.parametrize("asking", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("by", ["option", "configuration"])
def test_nothing_that_an_author_writes_makes_a_refused_request_install(
    index: Index,
    store: Store,
    project: Path,
    marker: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    asking: tuple[str, str, int | None],
    by: str,
) -> None:
    name, text, code = asking
    index.add(PEAR)
    build_wheel(PEAR, project)
    (project / "plum-1.0.tar.gz").write_bytes(sdist("plum")[0])
    (project / "b.txt").write_text("pear\n")
    (project / name).write_text(text.replace("{index}", index.url))
    options = []
    if by == "option":
        options = ["--no-install"]
    else:
        configuration = tmp_path / "site.toml"
        configuration.write_text('[link]\ninstall = "deny"\n')
        monkeypatch.setenv("VRFSTORE_CONFIG", str(configuration))
    ended = vrfstore(store, project, "link", name, "--json", *options)
    assert ended.code in {10, 12} if code is None else ended.code == code, ended.err
    if ended.code == 12:
        assert ended.kind == "not-permitted"
    assert index.requests == []
    assert (store.entries(), store.environments()) == ([], [])
    assert not marker.exists(), marker.read_text()


def test_the_callers_environment_variables_are_the_callers(
    index: Index, store: Store, project: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a variable says is not the project's to say, so it counts; but none of them gives leave."""
    index.add(PEAR)
    for variable in ("VRFSTORE_INSTALL", "VRFSTORE_LINK_INSTALL", "PIP_INSTALL"):
        monkeypatch.setenv(variable, "allow")
    assert vrfstore(store, project, "link", "requirements.vrf", "--json", "--no-install").code == 12
    assert not os.path.exists(marker)
