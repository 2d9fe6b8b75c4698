"""Environments for interpreters that are not here: their wheels, their layout, and that nothing is started."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import vrfstore
from support.index import Index
from support.pythons import pythons
from support.venvs import environment, probed
from support.wheels import WheelSpec, build_wheel
from vrfstore.cli import running
from vrfstore.errors import (
    InterpreterError,
    ResolutionError,
    UsageError,
    WheelError,
)
from vrfstore.interpreter import default_executable
from vrfstore.model import Interpreter, LinkOptions, nobody
from vrfstore.requirements import pip, pip_starter
from vrfstore.runner.link import LinkResult
from vrfstore.store import memos
from vrfstore.store.compiling import compile_entries
from vrfstore.store.store import Store

ARM: dict[str, Any] = {
    "version": "3.12.3",
    "platform": "linux-aarch64",
    "executable": "/opt/of the image/bin/python3.12",
    "libc": "glibc 2.31",
}
BUILD_DETAILS = {
    "schema_version": "1.0",
    "base_prefix": "/opt/image",
    "base_interpreter": "bin/python3.14",
    "platform": "linux-x86_64",
    "language": {"version": "3.14"},
    "implementation": {
        "name": "cpython",
        "cache_tag": "cpython-314",
        "version": {"major": 3, "minor": 14, "micro": 1, "releaselevel": "final", "serial": 0},
        "_multiarch": "x86_64-linux-gnu",
    },
    "abi": {"flags": []},
}

Linker = Callable[..., LinkResult]


def native(tag: str, **options: Any) -> WheelSpec:
    """Return a wheel whose content says what it was built for."""
    return WheelSpec(
        name="engine", tag=tag, files={"engine.py": f"tag = {tag!r}\n"}, root_is_purelib=False, **options
    )


@pytest.fixture
def linker(index: Index, store: Store, tmp_path: Path) -> Linker:
    """Give a function that links requirements for a description."""

    def link(text: str, description: Mapping[str, Any], **options: Any) -> LinkResult:
        requirements, file = tmp_path / "requirements.vrf", tmp_path / "target.json"
        requirements.write_text(text)
        file.write_text(json.dumps(description))
        return vrfstore.link(requirements, target=file, store=store, **options)

    return link


def chosen(result: LinkResult) -> dict[str, str]:
    return {package.name: package.version for package in result.packages}


def library(result: LinkResult) -> Path:
    (found,) = Path(result.environment).glob("lib/*/site-packages")
    return found


def engine(result: LinkResult) -> str:
    """Return the tag of the wheel that was chosen."""
    found = re.search(r"'(.*)'", (library(result) / "engine.py").read_text())
    assert found is not None
    return found[1]


# --- which wheels


@pytest.mark.parametrize(
    ("description", "tag"),
    [
        (ARM, "cp312-cp312-manylinux_2_28_aarch64"),
        ({**ARM, "libc": "glibc 2.27"}, "cp312-cp312-manylinux2014_aarch64"),
        ({**ARM, "libc": "musl 1.2"}, "cp312-cp312-musllinux_1_2_aarch64"),
        ({**ARM, "platform": "linux-x86_64"}, "cp312-cp312-manylinux_2_28_x86_64"),
        ({**ARM, "version": "3.13.1", "abi_flags": "t"}, "cp313-cp313t-manylinux_2_28_aarch64"),
        ({**ARM, "version": "3.15.0a2"}, "cp39-abi3-manylinux2014_aarch64"),
        (BUILD_DETAILS, "cp314-cp314-manylinux2014_x86_64"),
    ],
    ids=["arm", "older libc", "musl", "x86", "free-threaded", "3.15", "build details"],
)
def test_the_best_wheel_for_the_target_is_taken(
    index: Index, linker: Linker, description: dict[str, Any], tag: str
) -> None:
    for each in (
        "cp312-cp312-manylinux_2_28_aarch64",
        "cp312-cp312-manylinux2014_aarch64",
        "cp312-cp312-musllinux_1_2_aarch64",
        "cp312-cp312-manylinux_2_28_x86_64",
        "cp313-cp313t-manylinux_2_28_aarch64",
        "cp313-cp313-manylinux_2_28_aarch64",
        "cp314-cp314-manylinux2014_x86_64",
        "cp314-cp314-manylinux_2_28_x86_64",
        "cp39-abi3-manylinux2014_aarch64",
    ):
        index.add(native(each))
    if description["platform"] == "linux-aarch64" and "t" in description.get("abi_flags", ""):
        index.add(native("cp313-abi3-manylinux_2_31_aarch64"))
    assert engine(linker("engine\n", description)) == tag


MARKERS = {
    "here": f'platform_machine == "{os.uname().machine}" and platform_machine != "aarch64"',
    "machine": 'platform_machine == "aarch64"',
    "version": 'python_version == "3.12" and python_full_version == "3.12.3"',
    "newer": 'python_version >= "3.13"',
    "older": 'python_version < "3.12"',
    "implementation": 'implementation_name == "cpython" and implementation_version == "3.12.3"',
    "kernel": 'platform_release != ""',
    "windows": 'sys_platform == "win32" or os_name == "nt"',
}


def test_markers_are_those_of_the_target(index: Index, linker: Linker) -> None:
    for name in MARKERS:
        index.add(WheelSpec(name=name))
    index.add(WheelSpec(name="needy", requires=[f"{name}; {marker}" for name, marker in MARKERS.items()]))
    expected = {"implementation", "machine", "version"}
    direct = linker("".join(f"{name}; {marker}\n" for name, marker in MARKERS.items()), ARM)
    assert set(chosen(direct)) == expected
    assert set(chosen(linker("needy\n", ARM))) == {"needy", *expected}


def test_requires_python_is_asked_of_the_target(index: Index, linker: Linker) -> None:
    index.add(WheelSpec(name="alpha", version="1", requires_python=">=3.9"))
    index.add(WheelSpec(name="alpha", version="2", requires_python=">=3.13"))
    assert chosen(linker("alpha\n", ARM)) == {"alpha": "1"}
    assert chosen(linker("alpha\n", {**ARM, "version": "3.13.0"})) == {"alpha": "2"}


# --- what the target has


@pytest.fixture
def orchard(index: Index) -> Index:
    for version in ("1.0", "2.0"):
        index.add(WheelSpec(name="orchard-pear", version=version))
    index.add(WheelSpec(name="apple", requires=["orchard.pear>=1"]))
    index.add(WheelSpec(name="quince", requires=["orchard-pear>=2"]))
    return index


@pytest.mark.parametrize("name", ["orchard-pear", "Orchard_Pear"])
def test_what_the_target_has_is_not_installed_again(orchard: Index, linker: Linker, name: str) -> None:
    assert chosen(linker("apple\n", {**ARM, "base": {name: "1.0"}})) == {"apple": "1.0"}
    assert chosen(linker("apple\n", {**ARM, "base": {"other": "1.0"}})) == {
        "apple": "1.0",
        "orchard-pear": "2.0",
    }


def test_what_the_target_has_too_old_comes_with_the_environment(orchard: Index, linker: Linker) -> None:
    assert chosen(linker("quince\n", {**ARM, "base": {"orchard-pear": "1.0"}})) == {
        "quince": "1.0",
        "orchard-pear": "2.0",
    }


def test_an_isolated_environment_has_all_by_itself(orchard: Index, linker: Linker) -> None:
    options = LinkOptions(isolated=True)
    isolated = linker("apple\n", {**ARM, "base": {"orchard-pear": "1.0"}}, options=options)
    assert chosen(isolated) == {"apple": "1.0", "orchard-pear": "2.0"}


def test_the_packages_of_the_target_are_seen_if_the_file_lists_some(orchard: Index, linker: Linker) -> None:
    results = (linker("apple\n", ARM), linker("apple\n", {**ARM, "base": {"orchard-pear": "1.0"}}))
    seen = [
        "include-system-site-packages = true" in Path(result.environment, "pyvenv.cfg").read_text()
        for result in results
    ]
    assert seen == [False, True]


def test_what_is_installed_beside_our_pip_is_not_the_target_s(index: Index, linker: Linker) -> None:
    for name in ("pip", "pytest", "packaging"):
        index.add(WheelSpec(name=name, version="99.0"))
    assert chosen(linker("pip\npytest\npackaging\n", ARM)) == {
        "packaging": "99.0",
        "pip": "99.0",
        "pytest": "99.0",
    }


# --- layout


def tree(root: Path, replaced: Mapping[str, str]) -> dict[str, str]:
    """Return what is at each path: a directory, where a link leads, or what a file holds."""

    def normal(text: str) -> str:
        for old, new in replaced.items():
            text = text.replace(old, new)
        return text

    found: dict[str, str] = {}
    for parent, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(parent, name)
            place = str(path.relative_to(root))
            if path.is_symlink():
                found[place] = normal(f"link to {path.readlink()}")
            elif path.is_dir():
                found[place] = "directory"
            elif name != "vrfstore.json":
                found[place] = normal(path.read_text())
    return found


WHOLE = WheelSpec(
    name="whole",
    requires=["orchard-fig"],
    files={"whole/__init__.py": "", "whole/deep/data.txt": "text", "orchard/whole.py": "", "alone.py": ""},
    entry_points={"console_scripts": {"whole": "whole:main"}},
    data={
        "data/share/whole/a": "a",
        "data/etc/whole.conf": "b",
        "scripts/tool": "#!python\n",
        "headers/w.h": "",
    },
)


def described(real: Interpreter) -> dict[str, Any]:
    """Return a description of an interpreter that is here, as if it were elsewhere."""
    return {
        "version": real.version,
        "platform": real.platform,
        "abi_flags": real.abi_flags,
        "executable": "/nowhere/bin/python",
    }


def differences(theirs: Path, ours: Path, real: Interpreter) -> dict[str, tuple[str | None, str | None]]:
    """Return what is not the same, by path, but for where the environments and their interpreters are."""
    gone = {"/nowhere/bin/python": "<python>", "/nowhere/bin": "<home>", str(theirs): "<root>"}
    here = {real.real: "<python>", os.path.dirname(real.real): "<home>", str(ours): "<root>"}
    one, other = tree(theirs, gone), tree(ours, here)
    assert {"pyvenv.cfg", "bin/whole", "bin/python", "etc/whole.conf"} <= one.keys()
    return {
        path: (one.get(path), other.get(path)) for path in {*one, *other} if one.get(path) != other.get(path)
    }


@pytest.fixture
def whole(index: Index) -> tuple[WheelSpec, ...]:
    specs = (WHOLE, WheelSpec(name="orchard-fig", files={"orchard/fig/__init__.py": ""}))
    for spec in specs:
        index.add(spec)
    return specs


@pytest.mark.parametrize("python", pythons())
def test_the_layout_is_that_of_a_real_interpreter(
    whole: tuple[WheelSpec, ...], store: Store, linker: Linker, tmp_path: Path, python: str
) -> None:
    real = probed(python)
    theirs = linker("whole\n", described(real))
    wheels = [build_wheel(spec, tmp_path) for spec in whole]
    ours = environment(store, python, wheels, LinkOptions(isolated=True))
    assert theirs.environment != str(ours)
    assert differences(Path(theirs.environment), ours, real) == {}


def test_the_layout_of_an_environment_of_one_s_own_is_that_of_a_real_interpreter(
    whole: tuple[WheelSpec, ...], store: Store, linker: Linker, tmp_path: Path
) -> None:
    real = probed(default_executable())
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    linker("whole\n", described(real), into=theirs)
    isolated = LinkOptions(isolated=True)
    vrfstore.link(tmp_path / "requirements.vrf", store=store, into=ours, options=isolated)
    assert differences(theirs, ours, real) == {}


@pytest.mark.parametrize(
    ("description", "names", "lib64"),
    [
        (ARM, {"python", "python3", "python3.12"}, True),
        (BUILD_DETAILS, {"python", "python3", "python3.14"}, True),
        ({**ARM, "version": "3.15.0"}, {"python", "python3", "python3.15"}, False),
        (
            {**ARM, "version": "3.13.2", "abi_flags": "t"},
            {"python", "python3", "python3.13", "python3.13t"},
            True,
        ),
    ],
    ids=["3.12", "build details", "3.15", "free-threaded"],
)
def test_names_are_those_of_the_version(
    linker: Linker,
    description: dict[str, Any],
    names: set[str],
    lib64: bool,
) -> None:
    root = Path(linker("", description).environment)
    links = {path.name for path in (root / "bin").iterdir() if path.is_symlink()}
    assert links == names
    assert [path.name for path in (root / "lib").iterdir()] == [max(names, key=len)]
    assert (root / "lib64").is_symlink() == lib64
    executable = description.get("executable", "/opt/image/bin/python3.14")
    assert (root / "bin/python").readlink() == Path(executable)
    lines = (root / "pyvenv.cfg").read_text().splitlines()
    assert f"home = {os.path.dirname(executable)}" in lines
    assert f"executable = {executable}" in lines


def test_no_bytecode_comes_along_even_where_there_is_some(
    index: Index, store: Store, linker: Linker, tmp_path: Path
) -> None:
    index.add(WheelSpec(name="alpha", files={"alpha.py": "x = 1\n"}))
    real = probed(default_executable())
    first = linker("alpha\n", described(real), compile_mode="eager")
    assert list(library(first).rglob("*.pyc")) == []
    with store.session() as lease:
        compile_entries(store, real, store.entries(), lease=lease, watch=nobody)
    assert list(Path(store.root, "entries").rglob("*.pyc"))
    again = linker("alpha\n", described(real), options=LinkOptions(prompt="anew"))
    assert list(library(again).rglob("*.pyc")) == []


# --- shared, and told apart


def test_the_second_link_asks_nobody(orchard: Index, linker: Linker, monkeypatch: pytest.MonkeyPatch) -> None:
    first = linker("apple\n", ARM)
    orchard.requests.clear()

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(subprocess, "Popen", refuse)
    second = linker("apple\n", ARM)
    assert (first.status, second.status) == ("built", "hit")
    assert second.environment == first.environment
    assert orchard.requests == []


def test_targets_share_what_is_the_same_for_them(orchard: Index, store: Store, linker: Linker) -> None:
    first = linker("apple\n", ARM)
    second = linker("apple\n", {**ARM, "libc": "musl 1.2"})
    # Resolved for itself, and the wheels are the same.
    assert "resolve" in second.timings
    assert second.environment == first.environment
    elsewhere = linker("apple\n", {**ARM, "executable": "/usr/bin/python3.12"})
    assert elsewhere.environment != first.environment
    assert elsewhere.downloaded == 0


def test_a_target_has_no_environment_in_common_with_what_is_here(
    orchard: Index, store: Store, linker: Linker, tmp_path: Path
) -> None:
    real = probed(default_executable())
    here = described(real) | {"executable": real.real}
    options = LinkOptions(isolated=True)
    ours = linker("", here)
    theirs = vrfstore.link(tmp_path / "requirements.vrf", store=store, options=options)
    assert ours.environment != theirs.environment
    marks = [store.record(Path(each.environment).name).interpreter.get("target") for each in (ours, theirs)]
    assert marks == [True, None]


def test_a_changed_description_counts_at_once(orchard: Index, linker: Linker) -> None:
    assert "orchard-pear" in chosen(linker("apple\n", ARM))
    assert "orchard-pear" not in chosen(linker("apple\n", {**ARM, "base": {"orchard-pear": "1.5"}}))


def test_an_environment_of_one_s_own_is_brought_up_to_date(
    orchard: Index, linker: Linker, tmp_path: Path
) -> None:
    place = tmp_path / "own"
    first = linker("apple\n", ARM, into=place)
    assert first.environment == str(place)
    assert linker("apple\n", ARM, into=place).status == "hit"
    newer = linker("apple\n", {**ARM, "version": "3.13.0", "executable": "/usr/bin/python3.13"}, into=place)
    assert newer.status == "linked"
    assert (place / "bin/python").readlink() == Path("/usr/bin/python3.13")
    assert [path.name for path in place.glob("lib/*/site-packages/apple")] == ["apple"]


def test_an_empty_file_links_nothing_but_the_interpreter(linker: Linker) -> None:
    result = linker("", ARM)
    assert result.packages == ()
    assert os.readlink(result.python) == ARM["executable"]


# --- nothing is started


def test_nothing_of_the_target_is_started(orchard: Index, store: Store, tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    touched = tmp_path / "started"
    python = tmp_path / "there/bin/python3.12"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\ntouch '{touched}'\n")
    python.chmod(0o755)
    file, requirements, trace = (tmp_path / name for name in ("target.json", "requirements.vrf", "trace"))
    file.write_text(json.dumps({**ARM, "executable": str(python)}))
    requirements.write_text("apple\n")
    command = [sys.executable, "-m", "vrfstore", "--store", store.root, "link", str(requirements)]
    command += ["--target", str(file), "--into", str(tmp_path / "own")]
    subprocess.run(
        [strace, "-f", "-s", "512", "-e", "trace=execve", "-o", str(trace), *command],
        check=True,
        capture_output=True,
        env={**os.environ, "VRFSTORE_COMPILE": "eager"},
    )
    # pip asks the system for its name too.
    started = re.findall(r'execve\("([^"]*)".* = 0$', trace.read_text(), re.MULTILINE)
    # vrfstore, and pip to resolve; that there is no configuration of it is known without starting it.
    assert [path for path in started if "python" in path] == [sys.executable] * 2
    assert not touched.exists()


# --- errors


@pytest.mark.parametrize(
    ("description", "key"),
    [
        ({**ARM, "version": "3.8.1"}, "version"),
        ({**ARM, "platform": "win-amd64"}, "platform"),
        ({**ARM, "libc": "bionic"}, "libc"),
        ({**ARM, "base": {"a": "one"}}, "base.a"),
    ],
)
def test_errors_of_the_description_name_the_key(
    linker: Linker, store: Store, description: dict[str, Any], key: str
) -> None:
    with pytest.raises(InterpreterError) as caught:
        linker("apple\n", description)
    assert (caught.value.exit_code, caught.value.kind) == (22, "target-invalid")
    assert caught.value.message.startswith(f"{key} is ")
    assert store.environments() == []


def test_a_description_that_is_not_there_is_an_error_of_the_description(store: Store, tmp_path: Path) -> None:
    (tmp_path / "requirements.vrf").write_text("apple\n")
    with pytest.raises(InterpreterError, match="No such file"):
        vrfstore.link(tmp_path / "requirements.vrf", target=tmp_path / "gone.json", store=store)


def test_an_interpreter_is_here_or_described(linker: Linker) -> None:
    with pytest.raises(UsageError) as caught:
        linker("apple\n", ARM, python="3.12")
    assert caught.value.kind == "options-conflict"


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("engine\n", "no-wheel", "engine has no wheel for Python 3.12.3 on linux-aarch64 with glibc 2.31"),
        ("papaya\n", "package-missing", "there is no package papaya on the index"),
        ("apple>=9\n", "no-version", "no version of apple satisfies apple>=9"),
        ("quince\norchard-pear<2\n", "conflict", "contradict"),
    ],
)
def test_what_cannot_be_resolved_is_said_as_always(
    orchard: Index, linker: Linker, text: str, kind: str, words: str
) -> None:
    orchard.add(native("cp312-cp312-manylinux_2_34_aarch64"))
    with pytest.raises(ResolutionError) as caught:
        linker(text, ARM)
    assert caught.value.kind == kind
    assert words in caught.value.message
    if kind == "no-wheel":
        assert "C library" in (caught.value.hint or "")


def test_a_pip_that_resolves_for_somebody_else_is_an_error(
    orchard: Index, store: Store, linker: Linker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgetful = tmp_path / "starter.py"
    known = Path(str(pip_starter.__file__)).read_text()
    forgetful.write_text(known.replace("markers.default_environment = lent", "pass"))
    monkeypatch.setattr(pip, "_STARTER", str(forgetful))
    with pytest.raises(ResolutionError, match="pip did not resolve for the target") as caught:
        linker("apple\n", ARM)
    assert (caught.value.kind, caught.value.exit_code) == ("resolver-target", 11)
    assert os.listdir(store.layout.of("requests")) == []
    assert os.listdir(store.layout.of("tmp")) == []


def test_a_wheel_of_a_known_lock_that_does_not_fit_is_refused_by_name(
    index: Index, store: Store, linker: Linker
) -> None:
    for tag in ("cp312-cp312-manylinux2014_aarch64", "cp312-cp312-manylinux2014_x86_64"):
        index.add(native(tag))
    before = set(os.listdir(store.layout.of("requests")))
    linker("engine\n", ARM)
    (first,) = set(os.listdir(store.layout.of("requests"))) - before
    linker("engine\n", {**ARM, "platform": "linux-x86_64"})
    (second,) = set(os.listdir(store.layout.of("requests"))) - before - {first}
    known = memos.read_request(store.layout, first.removesuffix(".json"))
    assert known is not None
    with store.session() as lease:
        memos.write_request(store.layout, lease, second.removesuffix(".json"), known)
    with pytest.raises(WheelError) as caught:
        linker("engine\n", {**ARM, "platform": "linux-x86_64"})
    assert (caught.value.exit_code, caught.value.kind) == (18, "wheel-incompatible")
    assert "engine 1.0 is for cp312-cp312-manylinux2014_aarch64" in caught.value.message


# --- the command


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = running.run([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    requirements, file = tmp_path / "requirements.vrf", tmp_path / "target.json"
    requirements.write_text("apple\n")
    file.write_text(json.dumps(ARM))
    return requirements, file


def test_the_command_prints_the_python_that_will_be_there(
    orchard: Index,
    store: Store,
    files: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is usual for links is no contradiction.
    monkeypatch.setenv("VRFSTORE_PYTHON", "3.9")
    requirements, file = files
    command = ("--store", store.root, "link", requirements, "--target", file, "--into", tmp_path / "own")
    code, out, _ = run(capsys, *command)
    assert (code, out) == (0, f"{tmp_path}/own/bin/python\n")
    assert os.readlink(out.strip()) == ARM["executable"]


def test_the_command_takes_one_interpreter(
    store: Store, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    requirements, file = files
    code, _, err = run(
        capsys, "--store", store.root, "link", requirements, "--target", file, "--python", "3.12"
    )
    assert code == 2
    assert "python or target" in err


def test_a_target_cannot_be_run(
    store: Store, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    requirements, file = files
    code, _, err = run(capsys, "--store", store.root, "run", requirements, "--target", file, "--", "python")
    assert code == 2
    assert "--target" in err


# --- the real index


@pytest.mark.network
def test_numpy_is_linked_for_another_architecture(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_CONFIG_FILE")
    requirements, file = tmp_path / "requirements.vrf", tmp_path / "target.json"
    requirements.write_text("numpy\ncolorama; sys_platform == 'win32'\n")
    file.write_text(json.dumps(ARM))
    result = vrfstore.link(requirements, target=file, store=store)
    assert list(chosen(result)) == ["numpy"]
    modules = list(library(result).glob("numpy/_core/*.so"))
    assert modules
    for module in modules:
        assert "cpython-312-aarch64-linux-gnu" in module.name
        # e_machine, EM_AARCH64
        assert module.read_bytes()[18:20] == (183).to_bytes(2, "little")
