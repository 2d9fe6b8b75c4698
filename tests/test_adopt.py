"""A venv, or a directory of packages, becomes an environment of ours, works again, and can be had back as it was."""

from __future__ import annotations

import contextlib
import ensurepip
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from venv import EnvBuilder

import pytest

from support.crash import NOBODY, each_kill, together
from support.faults import Fault, with_fault
from support.index import Index
from support.installers import expect_success, uv
from support.pythons import pythons
from support.venvs import AWKWARD, probed, relocated
from support.wheels import WheelSpec, build_wheel
from vrfstore import interpreter
from vrfstore.cli.running import run
from vrfstore.errors import InterpreterError, ResolutionError, StoreDamagedError, UsageError
from vrfstore.linker import adoption
from vrfstore.linker.adoption import Configuration, Journal, Kept, configuration, named_directories, shebang
from vrfstore.runner import adopt as adopting
from vrfstore.runner import inspection
from vrfstore.runner.adopt import adopt, undo
from vrfstore.runner.heal import heal
from vrfstore.runner.link import link
from vrfstore.store import externals
from vrfstore.store.store import Store

PYTHON = interpreter.default_executable()
LIBRARY = probed(PYTHON).directory_name
SITE = f"lib/{LIBRARY}/site-packages"

ALPHA = WheelSpec(
    name="alpha",
    files={"alpha/__init__.py": "who = 'alpha'\ndef main():\n    print('alpha runs')\n"},
    data={
        "data/share/alpha/words.txt": "as the wheel has it\n",
        "scripts/alpha-old": "#!python\nprint('old')\n",
    },
    entry_points={"console_scripts": {"alpha-tool": "alpha:main"}},
)
NEWER = WheelSpec(
    name="alpha",
    version="2.0",
    files={"alpha/__init__.py": "who = 'newer'\ndef main():\n    print('newer runs')\n"},
    data={"data/share/alpha/words.txt": "as the newer wheel has it\n"},
    entry_points={"console_scripts": {"alpha-tool": "alpha:main"}},
)
BETA = WheelSpec(name="beta", requires=["alpha"])
GAMMA = WheelSpec(name="gamma", files={"gamma.py": "who = 'gamma'\n"})


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A directory of wheels."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for spec in (ALPHA, BETA, GAMMA):
        build_wheel(spec, folder)
    return folder


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release of the base Python in a directory of its own, beside which others may be."""
    folder = tmp_path / "versions" / probed(PYTHON).version
    if relocated(PYTHON, folder, packages=False) is None:
        pytest.skip("this build of Python does not bear being moved")
    return folder


def program(release: Path) -> str:
    return f"{release}/bin/{Path(probed(PYTHON).real).name}"


def upgraded(release: Path) -> Path:
    """Let another release take the place of one."""
    return release.rename(release.with_name(f"cpython-{probed(PYTHON).version}9-linux"))


def venv(place: Path, python: str = PYTHON, *options: str) -> Path:
    if python == PYTHON and not options:
        # The same, without starting another Python.
        EnvBuilder(symlinks=True).create(place)
    else:
        subprocess.run([python, "-m", "venv", "--without-pip", *options, str(place)], check=True)
    return place


def install(place: Path, wheels: Path, *names: str) -> None:
    """Install with uv as its users do, or with pip from outside."""
    python = f"{place}/bin/python"
    offline = ["--no-index", "--find-links", str(wheels)]
    if uv():
        command = [uv(), "--offline", "pip", "install", "--quiet", "--python", python, *offline, *names]
    else:
        command = [PYTHON, "-m", "pip", "--python", python, "install", "--quiet", *offline, *names]
    expect_success(subprocess.run(command, capture_output=True, text=True, check=False))


def user_install(place: Path, wheels: Path, *names: str) -> None:
    offline = ["--no-index", "--find-links", str(wheels), "--no-deps"]
    said(PYTHON, "-m", "pip", "install", "--user", "--quiet", *offline, *names, env=user(place))


def user(place: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONUSERBASE": str(place),
        "PIP_BREAK_SYSTEM_PACKAGES": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_WARN_SCRIPT_LOCATION": "1",
    }


def said(*command: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    return expect_success(done).strip()


Snapshot = dict[str, tuple[str, bytes, int]]


def snapshot(place: Path) -> Snapshot:
    """Return all below a directory: mode, content or target, time of change; that of directories is left out."""
    found = {}
    for directory, names, files in os.walk(place):
        for name in set(names + files) - {".lock"}:  # which is uv's
            path = Path(directory, name)
            seen = path.lstat()
            kind = stat.filemode(seen.st_mode)
            content = b""
            if path.is_symlink():
                content = os.fsencode(path.readlink())
            elif path.is_file():
                content = path.read_bytes()
            time = 0 if kind.startswith("d") else seen.st_mtime_ns
            found[str(path.relative_to(place))] = (kind, content, time)
    return found


def drifts(store: Store, place: Path) -> list[str]:
    """Return what ``env check`` finds wrong."""
    found = inspection.inspect(inspection.find(str(place), store.root, to_look=True), requirements=True)
    return [f"{each.kind}: {each.message}" for each in found.drifts if each.drifted]


def check(store: Store, place: Path, env: dict[str, str] | None = None) -> None:
    """It is healthy, and alpha's script runs in it."""
    assert drifts(store, place) == []
    assert said(f"{place}/bin/python", "-c", "import sys; print(sys.prefix)") == str(place)
    assert said(f"{place}/bin/alpha-tool", env=env) in {"alpha runs", "newer runs"}


def registered(store: Store) -> list[str]:
    return [
        found.path
        for found in externals.registrations(store.layout)
        if isinstance(found, externals.Registration)
    ]


def vanished(place: Path, *, scripts: str) -> None:
    """Let an environment look like one for a Python that nobody has any more."""
    (place / "lib" / LIBRARY).rename(place / "lib/python3.5")
    for name in ("python", "python3", LIBRARY):
        (place / "bin" / name).unlink(missing_ok=True)
    (place / "bin/python3.5").symlink_to("/nowhere/bin/python3.5")
    (place / "bin/python").symlink_to("python3.5")
    for name in ("alpha-tool", "alpha-old"):
        path = place / "bin" / name
        if path.exists():
            body = path.read_bytes().partition(b"\n")[2]
            path.write_bytes(f"#!{scripts}\n".encode() + body)
    if (place / "pyvenv.cfg").exists():
        (place / "pyvenv.cfg").write_text("home = /nowhere/bin\nversion = 3.5.10\n")


# --- whose it is, and whose its commands are ---


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give something away")
@pytest.mark.parametrize("given", [".", "bin", "pyvenv.cfg"])
def test_nothing_is_started_because_somebody_else_says_so(tmp_path: Path, store: Store, given: str) -> None:
    place = venv(tmp_path / "venv")
    program = tmp_path / "python3"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    (place / "pyvenv.cfg").write_text(f"home = {tmp_path}\nexecutable = {program}\nversion = 3.11.0\n")
    os.chown(place / given, NOBODY, NOBODY)
    before = snapshot(place)
    with pytest.raises(UsageError) as caught:
        adopt(store, place)
    assert caught.value.kind == "adopt-owner"
    assert not (tmp_path / "started").exists()
    assert snapshot(place) == before


@pytest.mark.parametrize("first", [True, False])
def test_what_comes_before_the_python_of_the_system_is_said(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    place, system = tmp_path / "local", tmp_path / "system"
    (place / SITE).mkdir(parents=True)
    system.mkdir()
    for name in ("python", "python3"):
        (system / name).symlink_to(probed(PYTHON).real)
    paths = [f"{place}/bin", str(system)]
    monkeypatch.setenv("PATH", os.pathsep.join(paths if first else reversed(paths)))
    said_of_path = [warning for warning in adopt(store, place).warnings if "PATH" in warning]
    expected = f"{place}/bin is on PATH: python and python3 mean this environment now"
    assert said_of_path == ([expected] if first else [])


def test_undoing_leaves_what_an_installer_has_put_in_the_place_of_ours(tmp_path: Path, store: Store) -> None:
    place = tmp_path / "local"
    (place / SITE).mkdir(parents=True)
    adopt(store, place)
    information = place / SITE / "shell-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: shell\nVersion: 1\n")
    (information / "INSTALLER").write_text("pip\n")
    (information / "RECORD").write_text("../../../bin/activate,,\n")
    script = place / "bin/activate"
    content = script.read_bytes()
    undone = undo(place)
    assert script.read_bytes() == content
    assert "bin" in undone.stays
    assert os.listdir(place / "bin") == ["activate"]


# --- venvs ---


@pytest.mark.slow
def test_a_venv_with_pip(tmp_path: Path, store: Store, release: Path, wheels: Path) -> None:
    place = tmp_path / "venv"
    subprocess.run([program(release), "-m", "venv", place], check=True)
    pip = [f"{place}/bin/python", "-I", "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-index", "--find-links", str(wheels), "--quiet"]
    said(*pip, "install", *offline, "alpha")
    before = snapshot(place)
    newer = upgraded(release)
    with pytest.raises(FileNotFoundError):
        said(f"{place}/bin/alpha-tool")

    adopted = adopt(store, place)

    assert adopted.kind == "venv"
    check(store, place)
    said(*pip, "install", *offline, "beta")
    assert said(*pip, "check") == "No broken requirements found."
    assert said(f"{place}/bin/pip", "--version").startswith("pip ")
    install(place, wheels, "gamma")
    assert drifts(store, place) == []
    said(f"{place}/bin/pip", "uninstall", "--quiet", "--yes", "beta", "gamma", env=user(place))
    assert undo(place).stays == (".lock",) * (place / ".lock").exists()
    assert without_bytecode(snapshot(place)) == without_bytecode(before)
    newer.rename(release)
    assert said(f"{place}/bin/alpha-tool") == "alpha runs"


def test_an_upgraded_interpreter(tmp_path: Path, store: Store, release: Path, wheels: Path) -> None:
    place = venv(tmp_path / "venv", program(release))
    install(place, wheels, "alpha")
    before = snapshot(place)
    packages = {path: value for path, value in before.items() if path.startswith("lib/")}
    newer = upgraded(release)

    adopted = adopt(store, place)

    assert os.readlink(place / "bin/python") == program(newer)
    assert f"home = {newer}/bin" in (place / "pyvenv.cfg").read_text()
    assert {path: value for path, value in snapshot(place).items() if path in packages} == packages
    assert adopted.packages == ()
    check(store, place)
    assert registered(store) == [str(place)]
    undone = undo(place)
    assert without_bytecode(snapshot(place)) == before
    assert undone.stays == ()
    assert registered(store) == []


@pytest.mark.skipif(not uv(), reason="uv is not installed")
def test_a_venv_of_uv(tmp_path: Path, store: Store, release: Path, wheels: Path) -> None:
    place = tmp_path / "venv"
    command = [
        uv(),
        "--offline",
        "venv",
        "--quiet",
        "--python",
        program(release),
        "--prompt",
        "shown",
        str(place),
    ]
    subprocess.run(command, check=True)
    install(place, wheels, "beta")
    before = snapshot(place)
    upgraded(release)
    adopt(store, place)
    check(store, place)
    assert "prompt = 'shown'" in (place / "pyvenv.cfg").read_text()
    install(place, wheels, "gamma")
    env = {**os.environ, "VIRTUAL_ENV": str(place)}
    assert said(uv(), "pip", "list", "--format", "freeze", env=env).split() == [
        "alpha==1.0",
        "beta==1.0",
        "gamma==1.0",
    ]
    assert (
        "compatible"
        in subprocess.run([uv(), "pip", "check"], env=env, capture_output=True, text=True, check=True).stderr
    )
    expect_success(
        subprocess.run(
            [uv(), "pip", "uninstall", "gamma"], env=env, capture_output=True, text=True, check=False
        )
    )
    undo(place)
    assert without_bytecode(snapshot(place)) == before


@pytest.mark.parametrize(
    ("options", "isolated", "user_site"),
    [((), True, False), (("--system-site-packages",), False, True), (("--copies",), True, False)],
)
def test_what_a_venv_sees_is_kept(
    tmp_path: Path, store: Store, options: Sequence[str], isolated: bool, user_site: bool
) -> None:
    place = venv(tmp_path / "venv", PYTHON, "--prompt", 'it\'s "odd"', *options)
    question = "import sys, site; print(sys.path[1:], site.ENABLE_USER_SITE)"
    before = said(f"{place}/bin/python", "-c", question)
    adopt(store, place)
    record = externals.read(str(place))
    assert record is not None
    assert (record.options.isolated, record.options.user_site) == (isolated, user_site)
    assert record.options.prompt == 'it\'s "odd"'
    assert said(f"{place}/bin/python", "-c", question) == before
    assert drifts(store, place) == []


@pytest.mark.parametrize("name", [Path("moved"), AWKWARD])
def test_a_venv_that_was_moved(tmp_path: Path, store: Store, wheels: Path, name: Path) -> None:
    old = venv(tmp_path / "old", PYTHON)
    install(old, wheels, "alpha")
    (old / "bin/by-hand").write_text("#!/usr/bin/env python3\n")
    place = tmp_path / name
    old.rename(place)
    before = snapshot(place)
    adopted = adopt(store, place)
    check(store, place)
    assert said(f"{place}/bin/alpha-old") == "old"
    assert "bin/alpha-tool is run by bin/python" in adopted.done
    assert (place / "bin/by-hand").read_text() == "#!/usr/bin/env python3\n"
    shell = ["sh", "-c", '. "$1"/bin/activate && python -c "import sys; print(sys.prefix)"', "sh"]
    assert said(*shell, place) == str(place)
    undo(place)
    assert without_bytecode(snapshot(place)) == before
    assert oct((place / "bin/alpha-tool").stat().st_mode) == oct(0o100755)


def without_bytecode(found: Snapshot) -> Snapshot:
    return {path: value for path, value in found.items() if "__pycache__" not in path}


def test_a_copy_runs_in_its_own_place(tmp_path: Path, store: Store, wheels: Path) -> None:
    old = venv(tmp_path / "old")
    install(old, wheels, "alpha")
    place = tmp_path / "copy"
    shutil.copytree(old, place, symlinks=True)
    before = snapshot(old)
    (place / SITE / "alpha/__init__.py").write_text("def main():\n    print('newer runs')\n")
    adopt(store, place)
    assert said(f"{place}/bin/alpha-tool") == "newer runs"
    assert snapshot(old) == before
    assert registered(store) == [str(place)]


def test_a_healthy_venv_is_only_made_known(tmp_path: Path, store: Store, wheels: Path) -> None:
    place = venv(tmp_path / "venv")
    install(place, wheels, "alpha")
    (place / "bin/python2.7").symlink_to("/nowhere/python2.7")
    (place / "bin/python3.99").symlink_to("/bin/sh")
    (place / "bin/python3.4").symlink_to("python")
    script = (place / "bin/alpha-tool").lstat()
    adopted = adopt(store, place)
    assert not os.path.lexists(place / "bin/python3.4")
    assert not os.path.lexists(place / "bin/python2.7")
    assert os.path.lexists(place / "bin/python3.99")
    assert "bin/python3.4 is removed: it leads to no such interpreter" in adopted.done
    assert (place / "bin/alpha-tool").lstat().st_ino == script.st_ino
    check(store, place)
    with pytest.raises(UsageError, match="already") as caught:
        adopt(store, place)
    assert caught.value.kind == "adopt-ours"


def test_links_and_undo_around_it(tmp_path: Path, store: Store, wheels: Path, index: Index) -> None:
    place = venv(tmp_path / "venv")
    install(place, wheels, "alpha")
    (place / "share/empty").mkdir(parents=True)
    (place / "share/gamma.txt").write_text("the same in the wheel\n")
    before = snapshot(place)
    adopt(store, place)
    shared = {"data/share/gamma.txt": "the same in the wheel\n"}
    index.add(WheelSpec(name="gamma", files={"gamma/x.py": ""}, data=shared))
    asked = tmp_path / "requirements.vrf"
    asked.write_text("gamma\n")
    link(asked, store=store, into=place)
    said(f"{place}/bin/python", "-c", "import gamma.x, alpha")
    assert drifts(store, place) == []
    (place / "mine.txt").write_text("added since")
    (place / SITE / "beta").mkdir()
    (place / SITE / "beta/__init__.py").write_text("")
    (place / "bin/python2.6").symlink_to("python")
    undone = undo(place)
    assert undone.stays == ("bin/python2.6", f"{SITE}/beta", "mine.txt")
    after = without_bytecode(snapshot(place))
    for path in (f"{SITE}/beta", f"{SITE}/beta/__init__.py", "bin/python2.6", "mine.txt"):
        del after[path]
    assert after == before
    assert registered(store) == []


def test_healed_and_given_back(
    tmp_path: Path, store: Store, release: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = venv(tmp_path / "venv", program(release))
    install(place, wheels, "alpha")
    before = snapshot(place)
    adopt(store, place)
    newer = upgraded(release)
    monkeypatch.setenv("PATH", f"{newer}/bin")
    assert drifts(store, place)
    heal(inspection.find(str(place), store.root, to_look=False))
    assert os.path.realpath(place / "bin/python") == program(newer)
    check(store, place)
    undo(place)
    assert without_bytecode(snapshot(place)) == before


def test_what_was_changed_since_stays(tmp_path: Path, store: Store, wheels: Path) -> None:
    old = venv(tmp_path / "old")
    install(old, wheels, "alpha")
    place = old.rename(tmp_path / "venv")
    adopt(store, place)
    (place / "bin/alpha-tool").write_text("#!/bin/sh\necho mine\n")
    (place / "bin/alpha-old").unlink()
    (place / "pyvenv.cfg").write_text("home = /elsewhere\n")
    undone = undo(place)
    assert undone.stays == ("bin/alpha-tool", "pyvenv.cfg", "pyvenv.cfg.before-adopting")
    assert len(undone.warnings) == 2
    assert (place / "bin/alpha-tool").read_text() == "#!/bin/sh\necho mine\n"
    assert not (place / "bin/alpha-old").exists()
    assert (place / "pyvenv.cfg").read_text() == "home = /elsewhere\n"
    assert "version" in (place / "pyvenv.cfg.before-adopting").read_text()
    with pytest.raises(UsageError, match="has not been adopted"):
        undo(place)


def test_undo_without_its_store(tmp_path: Path, store: Store, wheels: Path) -> None:
    place = venv(tmp_path / "venv")
    before = snapshot(place)
    adopt(store, place)
    os.rename(store.root, tmp_path / "elsewhere")
    undone = undo(place)
    assert "cannot be used" in undone.warnings[0]
    assert snapshot(place) == before


def test_a_copy_of_an_adopted_one_is_undone_alone(tmp_path: Path, store: Store) -> None:
    place = venv(tmp_path / "venv")
    adopt(store, place)
    copy = tmp_path / "copy"
    shutil.copytree(place, copy, symlinks=True)
    undo(copy)
    assert registered(store) == [str(place)]
    assert drifts(store, place) == []


# --- another X.Y ---


def test_another_minor_version(tmp_path: Path, store: Store, wheels: Path, index: Index) -> None:
    place = venv(tmp_path / "venv")
    install(place, wheels, "alpha", "beta", "gamma")
    (place / SITE / "gamma-1.0.dist-info/direct_url.json").write_text(
        '{"url": "https://user:word@host/x.whl"}'
    )
    vanished(place, scripts=f"{place}/bin/python3.5")
    (place / "lib/python3.5/site-packages/pip-9.0.dist-info").mkdir()
    before = snapshot(place)
    (bundled,) = Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl")
    for wheel in (NEWER, BETA, bundled):
        index.add(wheel)

    adopted = adopt(store, place, python=PYTHON)

    assert adopted.packages == (("alpha", "2.0"), ("beta", "1.0"), ("pip", bundled.name.split("-")[1]))
    assert adopted.warnings == (
        "gamma 1.0 is left out: it came from a URL or a path, not an index",
        f"alpha 1.0 cannot be had for Python {probed(PYTHON).short_version}; 2.0 is linked instead",
    )
    assert said(f"{place}/bin/alpha-tool") == "newer runs"
    assert (place / "share/alpha/words.txt").read_text() == "as the newer wheel has it\n"
    assert not os.path.lexists(place / "bin/python3.5")
    kept = {path: value for path, value in before.items() if path.startswith("lib/python3.5")}
    assert {
        path: value for path, value in snapshot(place).items() if path.startswith("lib/python3.5")
    } == kept
    check(store, place)
    assert said(f"{place}/bin/python", "-m", "pip", "check") == "No broken requirements found."
    install(place, wheels, "gamma")
    said(f"{place}/bin/python", "-c", "import gamma")
    undone = undo(place)
    assert undone.stays == (f"lib/{LIBRARY}",)
    assert (place / SITE / "gamma.py").exists()
    shutil.rmtree(place / "lib" / LIBRARY)
    assert without_bytecode(snapshot(place)) == before
    assert registered(store) == []


def test_what_cannot_be_had_changes_nothing(tmp_path: Path, store: Store, wheels: Path, index: Index) -> None:
    place = venv(tmp_path / "venv")
    install(place, wheels, "alpha")
    vanished(place, scripts="/nowhere/bin/python3.5")
    before = snapshot(place)
    index.add(
        WheelSpec(
            name="alpha", version="3.0", requires=["missing"], files={"alpha/__init__.py": "def main(): ..."}
        )
    )
    with pytest.raises(ResolutionError, match="missing"):
        adopt(store, place, python=PYTHON)
    assert snapshot(place) == before
    assert registered(store) == []


def test_nothing_of_it_can_be_had(tmp_path: Path, store: Store, wheels: Path, index: Index) -> None:
    place = venv(tmp_path / "venv")
    install(place, wheels, "alpha")
    vanished(place, scripts="/nowhere/bin/python3.5")
    index.add(GAMMA)
    adopted = adopt(store, place, python=PYTHON)
    assert adopted.packages == ()
    assert "alpha is left out" in adopted.warnings[0]
    assert drifts(store, place) == []


def test_versions_that_contradict_each_other(
    tmp_path: Path, store: Store, wheels: Path, index: Index
) -> None:
    place = venv(tmp_path / "venv")
    install(place, wheels, "alpha", "beta")
    vanished(place, scripts="/nowhere/bin/python3.5")
    index.add(NEWER)
    index.add(WheelSpec(name="beta", requires=["alpha<2"]))
    index.add(WheelSpec(name="beta", version="1.1", requires=["alpha>=2"]))
    adopted = adopt(store, place, python=PYTHON)
    assert adopted.packages == (("alpha", "2.0"), ("beta", "1.1"))
    assert len(adopted.warnings) == 2


@pytest.mark.slow
@pytest.mark.parametrize("other", [path for path in pythons() if probed(path).directory_name != LIBRARY][:1])
def test_what_has_taken_its_place(
    tmp_path: Path,
    store: Store,
    release: Path,
    wheels: Path,
    index: Index,
    other: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = tmp_path / "old"
    moved = relocated(other, old, packages=False)
    if moved is None:
        pytest.skip("this build of Python does not bear being moved")
    place = venv(tmp_path / "venv", moved)
    install(place, wheels, "alpha")
    shutil.rmtree(old)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InterpreterError, match="any more") as caught:
        adopt(store, place)
    assert "--python" in str(caught.value.hint)
    index.add(ALPHA)
    (tmp_path / "python3").symlink_to(program(release))
    adopted = adopt(store, place)
    assert adopted.packages == (("alpha", "1.0"),)
    check(store, place)


def test_wheels_that_collide(tmp_path: Path, store: Store, wheels: Path, index: Index) -> None:
    """They were installed one over the other, and are again."""
    place = venv(tmp_path / "venv")
    other = WheelSpec(
        name="zeta", files={"alpha/__init__.py": "who = 'zeta'\ndef main():\n    print('newer runs')\n"}
    )
    build_wheel(other, wheels)
    install(place, wheels, "alpha", "zeta")
    vanished(place, scripts="/nowhere/bin/python3.5")
    index.add(replace(ALPHA, files={**(ALPHA.files or {}), "alpha/more.py": ""}))
    index.add(replace(other, files={**(other.files or {}), "alpha/more.py": "more = 1\n"}))
    adopted = adopt(store, place, python=PYTHON)
    assert "alpha 1.0 and zeta 1.0 both bring" in adopted.warnings[0]
    said(f"{place}/bin/python", "-c", "from alpha.more import more")
    check(store, place)


def test_a_venv_that_was_upgraded_without_its_packages(
    tmp_path: Path, store: Store, wheels: Path, index: Index
) -> None:
    place = venv(tmp_path / "venv")
    install(place, wheels, "alpha")
    (place / "lib" / LIBRARY).rename(place / "lib/python3.5")
    (place / SITE / "pip-9.0.dist-info").mkdir(parents=True)
    index.add(ALPHA)
    adopted = adopt(store, place)
    assert adopted.packages == (("alpha", "1.0"),)
    check(store, place)


# --- directories of packages ---


def test_a_user_directory(tmp_path: Path, store: Store, wheels: Path) -> None:
    place = tmp_path / "local"
    user_install(place, wheels, "alpha")
    (place / "bin/python3.4").symlink_to("/nowhere/python3.4")
    question = [
        "-c",
        "import alpha, site, sys; print(alpha.who, site.ENABLE_USER_SITE, site.USER_SITE, sys.prefix)",
    ]
    for cache in place.rglob("__pycache__"):
        shutil.rmtree(cache)
    before = snapshot(place)
    as_user = said(PYTHON, "-B", *question, env=user(place))

    adopted = adopt(store, place, python=PYTHON)

    assert adopted.kind == "user"
    check(store, place, env=user(place))
    # As a user base, it is what it was.
    assert said(PYTHON, "-B", *question, env=user(place)) == as_user
    user_install(place, wheels, "gamma")
    assert (
        said(PYTHON, "-c", "import gamma; print(gamma.__file__)", env=user(place))
        == f"{place}/{SITE}/gamma.py"
    )
    # As an environment, it has the same packages, and takes more.
    install(place, wheels, "beta")
    said(f"{place}/bin/python", "-c", "import alpha, beta, gamma")
    said(PYTHON, "-c", "import beta", env=user(place))
    assert drifts(store, place) == []
    undone = undo(place)
    assert set(undone.stays) - {".lock"} == {
        f"{SITE}/{name}" for name in ("beta", "beta-1.0.dist-info", "gamma-1.0.dist-info", "gamma.py")
    }
    after = without_bytecode(snapshot(place))
    assert {path: after[path] for path in before} == before
    assert not (place / "pyvenv.cfg").exists()
    assert said(PYTHON, "-c", "import alpha, beta, gamma; print(alpha.who)", env=user(place)) == "alpha"


def test_several_libraries_of_a_user(tmp_path: Path) -> None:
    place = tmp_path / "local"
    store = Store.open(place / "share/vrfstore")
    for library in ("python3.5", LIBRARY, "python3.99"):
        (place / "lib" / library / "site-packages/alpha-1.0.dist-info").mkdir(parents=True)
    before = snapshot(place / "lib")
    adopted = adopt(store, place)
    assert probed(PYTHON).short_version in adopted.version
    assert [each for each in adopted.warnings if "stays as it is" in each] == [
        "lib/python3.99 is for another Python, and stays as it is",
        "lib/python3.5 is for another Python, and stays as it is",
    ]
    assert drifts(store, place) == []
    journal = adoption.journal_from_json((place / adoption.UNDO / "journal.json").read_bytes())
    assert not [path for path in journal.there if path.startswith("share/vrfstore")]
    assert undo(place).stays == ()
    assert sorted(os.listdir(place)) == ["lib", "share"]
    assert snapshot(place / "lib") == before


def test_a_user_directory_for_a_python_that_is_gone(
    tmp_path: Path, store: Store, wheels: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "local"
    user_install(place, wheels, "alpha")
    vanished(place, scripts="/usr/bin/python3.5")
    before = without_bytecode(snapshot(place))
    index.add(ALPHA)
    monkeypatch.setenv("PATH", f"{place}/bin:{os.defpath}")
    adopted = adopt(store, place, python=PYTHON)
    assert adopted.packages == (("alpha", "1.0"),)
    assert any("is on PATH" in each for each in adopted.warnings)
    check(store, place)
    assert said(PYTHON, "-c", "import alpha; print(alpha.who)", env=user(place)) == "alpha"
    undo(place)
    assert without_bytecode(snapshot(place)) == before


def test_other_interpreters_beside_scripts_of_a_user(tmp_path: Path, store: Store) -> None:
    place = tmp_path / "local"
    (place / SITE).mkdir(parents=True)
    (place / "bin").mkdir()
    (place / "bin/python3.99").symlink_to("/bin/sh")
    before = snapshot(place)
    with pytest.raises(UsageError, match="another interpreter"):
        adopt(store, place, python=PYTHON)
    assert snapshot(place) == before


# --- what is refused ---


def _nothing(place: Path) -> None:
    place.mkdir()


def _missing(place: Path) -> None:
    del place


def _file(place: Path) -> None:
    place.write_text("")


def _conda(place: Path) -> None:
    venv(place)
    (place / "conda-meta").mkdir()


def _windows(place: Path) -> None:
    (place / "Scripts").mkdir(parents=True)
    (place / "Lib/site-packages").mkdir(parents=True)
    (place / "pyvenv.cfg").write_text("home = C:\\Python311\r\nversion = 3.11.7\r\n")


def _installation(place: Path) -> None:
    if relocated(PYTHON, place, packages=False) is None:
        pytest.skip("this build of Python does not bear being moved")


def _huge(place: Path) -> None:
    venv(place)
    os.truncate(place / "pyvenv.cfg", 1 << 30)


def _fifo(place: Path) -> None:
    venv(place)
    (place / "pyvenv.cfg").unlink()
    os.mkfifo(place / "pyvenv.cfg")


def _linked_bin(place: Path) -> None:
    venv(place)
    (place / "bin").rename(place.with_name("aside"))
    (place / "bin").symlink_to(place.with_name("aside"))


def _linked_site(place: Path) -> None:
    venv(place)
    (place / SITE).rmdir()
    (place / SITE).symlink_to("/")


def _linked_library(place: Path) -> None:
    place.mkdir()
    (place / "pyvenv.cfg").write_text(f"home = {Path(PYTHON).parent}\n")
    (place / "lib").mkdir()
    (place / "lib" / LIBRARY).symlink_to("/nowhere")


def _linked_undo(place: Path) -> None:
    venv(place)
    (place / adoption.UNDO).symlink_to("/")


def _foreign_undo(place: Path) -> None:
    venv(place)
    (place / adoption.UNDO).mkdir()
    (place / adoption.UNDO / "mine").write_text("")


def _empty_configuration(place: Path) -> None:
    place.mkdir()
    (place / "pyvenv.cfg").write_bytes(b"\xff\0=\n\n=home\nhome = \0\nversion=3.999999\n")


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (_nothing, "adopt-foreign"),
        (_missing, "adopt-foreign"),
        (_file, "adopt-foreign"),
        (_empty_configuration, "adopt-foreign"),
        (_huge, "adopt-foreign"),
        (_fifo, "adopt-foreign"),
        (_conda, "adopt-conda"),
        (_windows, "adopt-windows"),
        (_installation, "adopt-system"),
        (_linked_bin, "adopt-layout"),
        (_linked_site, "adopt-layout"),
        (_linked_library, "adopt-layout"),
        (_linked_undo, "adopt-layout"),
        (_foreign_undo, "adopt-layout"),
    ],
)
def test_what_is_refused(tmp_path: Path, store: Store, make: Callable[[Path], None], kind: str) -> None:
    place = tmp_path / "place"
    make(place)
    before = places(tmp_path)
    with pytest.raises(UsageError) as caught:
        adopt(store, place)
    assert caught.value.kind == kind
    assert places(tmp_path) == before
    assert registered(store) == []


def places(root: Path) -> set[tuple[str, int]]:
    """Return what is there, without looking into files that may be large or block; nothing of the store."""
    return {
        (path, os.lstat(path).st_mtime_ns)
        for directory, names, files in os.walk(root / "place")
        for path in (os.path.join(directory, name) for name in (*names, *files))
    }


@pytest.mark.parametrize("place", ["/", "/usr", "/usr/local", "~", "base"])
def test_what_is_the_systems_is_refused(store: Store, place: str) -> None:
    place = probed(PYTHON).prefix if place == "base" else os.path.expanduser(place)
    with pytest.raises(UsageError) as caught:
        adopt(store, place)
    assert caught.value.exit_code == 2


def test_what_is_in_a_store_is_refused(tmp_path: Path, store: Store, index: Index) -> None:
    index.add(GAMMA)
    asked = tmp_path / "requirements.vrf"
    asked.write_text("gamma\n")
    managed = link(asked, store=store).environment
    other = Store.open(tmp_path / "other")
    for opened in (store, other):
        with pytest.raises(UsageError, match="store"):
            adopt(opened, managed)
    inside = venv(Path(store.root, "tmp/venv"))
    with pytest.raises(UsageError, match="in each other"):
        adopt(store, inside)
    around = venv(tmp_path / "around")
    with pytest.raises(UsageError, match="in each other"):
        adopt(Store.open(around / "lib/store"), around)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_what_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from support.crash import as_nobody

    place = venv(tmp_path / "venv")
    for parent in (tmp_path, *tmp_path.parents):
        with contextlib.suppress(PermissionError):
            parent.chmod(parent.stat().st_mode | 0o055)
    root = tmp_path / "theirs"
    root.mkdir()
    root.chmod(0o777)

    def refused() -> str:
        try:
            adopt(Store.open(root / "store"), place)
        except UsageError as error:
            return error.kind
        return "adopted"

    before = snapshot(place)
    assert as_nobody(refused) == "adopt-access"
    assert snapshot(place) == before


def test_an_interpreter_that_is_none(tmp_path: Path, store: Store) -> None:
    place = venv(tmp_path / "venv")
    for asked in ("/nowhere/python", "/bin/true"):
        with pytest.raises(InterpreterError):
            adopt(store, place, python=asked)
    assert not (place / adoption.UNDO).exists()


# --- what may be there ---


def test_whatever_is_in_the_way(tmp_path: Path, store: Store, wheels: Path) -> None:
    old = venv(tmp_path / "old")
    install(old, wheels, "alpha")
    place = old.rename(tmp_path / "venv")
    tools = place / "bin"
    tools.joinpath("python").unlink()
    tools.joinpath("python").mkdir()
    tools.joinpath("python/mine").write_text("inside")
    tools.joinpath("python3").unlink()
    os.mkfifo(tools / "python3")
    tools.joinpath(LIBRARY).unlink()
    shutil.copy(PYTHON, tools / LIBRARY)
    untouched = {
        "program": b"\x7fELF" + f"#!{old}/bin/python\n".encode(),
        "archive": f"#!{old}/bin/python\n".encode() + b"PK\3\4\0\0",
        "shell": f"#!/bin/sh\nexec {old}/bin/python\n".encode(),
        "empty": b"",
        "bytes": b"#!\xff\xfe",
        "system": b"#!/usr/bin/env python3\n",
    }
    for name, content in untouched.items():
        tools.joinpath(name).write_bytes(content)
    tools.joinpath("out").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").write_text(f"#!{old}/bin/python\n")
    tools.joinpath("short").write_bytes(f"#!{old}/bin/python".encode())
    tools.joinpath("options").write_bytes(f"#! {old}/bin/python3 -I -x\r\nprint(1)\r\n".encode())
    tools.joinpath("options").chmod(0o4751)
    (place / "lib64").unlink()
    (place / "lib64").symlink_to("/nowhere")
    (place / "pyvenv.cfg").write_bytes(
        (place / "pyvenv.cfg").read_bytes() + b"\xff\xfe = \0\nprompt = '\\q\n"
    )
    before = everything(place)

    adopt(store, place)

    check(store, place)
    for name, content in untouched.items():
        assert tools.joinpath(name).read_bytes() == content
    assert (tmp_path / "outside").read_text() == f"#!{old}/bin/python\n"
    assert tools.joinpath("short").read_bytes() == f"#!{place}/bin/python".encode()
    assert tools.joinpath("options").read_bytes() == f"#!{place}/bin/python -I -x\nprint(1)\r\n".encode()
    assert stat.S_IMODE(tools.joinpath("options").stat().st_mode) == 0o4751
    assert os.readlink(place / "lib64") == "lib"
    undo(place)
    assert everything(place) == before


def everything(place: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in place.rglob("*"):
        if "__pycache__" not in path.parts:
            seen = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(seen.st_mode) else b""
            target = os.readlink(path) if path.is_symlink() else ""
            time = 0 if stat.S_ISDIR(seen.st_mode) else seen.st_mtime_ns
            found[str(path.relative_to(place))] = (seen.st_mode, content, target, time)
    return found


def test_names_that_are_no_text(tmp_path: Path, store: Store) -> None:
    place = venv(tmp_path / "venv")
    odd = os.fsencode(place) + b"/bin/odd\xff\n"
    with open(odd, "wb") as stream:
        stream.write(b"#!/nowhere/bin/python\n")
    before = everything(place)
    adopt(store, place)
    with open(odd, "rb") as stream:
        assert stream.read() == f"#!{place}/bin/python\n".encode()
    undo(place)
    assert everything(place) == before


def _journal(place: Path, **changed: object) -> None:
    """Write a journal that nobody has checked."""
    journal = Journal(state="adopted", store="/nowhere", kept=(), scripts={}, there=(), made={})
    value = json.loads(adoption.journal_to_json(journal)) | changed
    del value["checksum"]
    (place / adoption.UNDO).mkdir()
    from vrfstore import codec

    (place / adoption.UNDO / "journal.json").write_bytes(codec.dumps(codec.with_checksum(value)))


@pytest.mark.parametrize(
    "changed",
    [
        {"kept": [["../outside", "0", "copy"]]},
        {"kept": [["/etc/passwd", "0", "copy"]]},
        {"kept": [["bin/x", "../../outside", "copy"]]},
        {"kept": [["bin/x", "0", "run"]]},
        {"kept": [["bin/x", "0"]]},
        {"made": {"../outside": "f"}},
        {"made": [1]},
        {"state": "other"},
        {"schema": 99},
        {"there": [1]},
        {"store": None},
    ],
)
def test_a_journal_that_leads_out(tmp_path: Path, store: Store, changed: dict[str, object]) -> None:
    place = venv(tmp_path / "venv")
    (tmp_path / "outside").write_text("mine")
    _journal(place, **changed)
    before = snapshot(place)
    for call in (partial(undo, place), partial(adopt, store, place)):
        with pytest.raises(StoreDamagedError, match="journal"):
            call()
    assert snapshot(place) == before


def test_a_journal_with_links_out(tmp_path: Path) -> None:
    """What is behind a link is another place: nothing is removed or put back there."""
    place = venv(tmp_path / "venv")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    (place / "share").symlink_to(outside)
    digest = "f:644:" + __import__("hashlib").sha256(b"mine").hexdigest()
    _journal(place, made={"share/mine": digest}, kept=[["share/other", "0", "move"]])
    (place / adoption.UNDO / "0").write_text("put back")
    undone = undo(place)
    assert os.listdir(outside) == ["mine"]
    assert (place / "share-other.before-adopting").read_text() == "put back"
    assert undone.stays


# --- kills ---


def _kill_ground(tmp_path: Path, store: Store, wheels: Path) -> Callable[[], Path]:
    """Return what makes an environment to be adopted, each at a place of its own."""
    template = venv(tmp_path / "template")
    install(template, wheels, "alpha")
    shutil.rmtree(template / "bin/__pycache__", ignore_errors=True)
    (template / "bin/python3.4").symlink_to("/nowhere/python3.4")
    (template / "bin/python").unlink()
    (template / "bin/python").mkdir()
    (template / "bin/python/mine").write_text("mine")
    template.rename(tmp_path / "moved")
    adopt(store, shutil.copytree(tmp_path / "moved", tmp_path / "warm", symlinks=True))
    numbers = iter(range(10**6))

    def prepare() -> Path:
        return Path(shutil.copytree(tmp_path / "moved", tmp_path / f"place{next(numbers)}", symlinks=True))

    return prepare


@pytest.fixture
def ground(tmp_path: Path, store: Store, wheels: Path) -> tuple[Callable[[], Path], Snapshot]:
    prepare = _kill_ground(tmp_path, store, wheels)
    return prepare, snapshot(tmp_path / "moved")


def whole(store: Store, place: Path, before: Snapshot) -> None:
    """It is adopted, and can be had back."""
    assert drifts(store, place) == []
    assert (place / "bin/alpha-tool").read_bytes().startswith(f"#!{place}/bin/python\n".encode())
    assert not os.path.lexists(place / "bin/python3.4")
    assert registered(store).count(str(place)) == 1
    undo(place)
    given_back(store, place, before)


def given_back(store: Store, place: Path, before: Snapshot) -> None:
    assert snapshot(place) == before
    assert str(place) not in registered(store)


def test_killed_while_adopting(store: Store, ground: tuple[Callable[[], Path], Snapshot]) -> None:
    prepare, before = ground
    for point, place in each_kill(prepare, partial(adopt, store)):
        if point % 2:
            with contextlib.suppress(UsageError):  # where the kill came after all was done
                adopt(store, place)
            whole(store, place, before)
        else:
            with contextlib.suppress(UsageError):  # where nothing had been done
                undo(place)
            given_back(store, place, before)
        shutil.rmtree(place)


def test_killed_while_undoing(store: Store, ground: tuple[Callable[[], Path], Snapshot]) -> None:
    prepare, before = ground

    def adopted() -> Path:
        place = prepare()
        adopt(store, place)
        return place

    for point, place in each_kill(adopted, undo):
        if point % 2:
            with contextlib.suppress(UsageError):
                undo(place)
            given_back(store, place, before)
        else:
            with contextlib.suppress(UsageError):  # where the kill came before anything was done
                adopt(store, place)
            whole(store, place, before)
        shutil.rmtree(place)


@pytest.mark.slow
def test_killed_while_adopting_for_another_minor_version(
    tmp_path: Path, store: Store, wheels: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(ALPHA)
    template = venv(tmp_path / "template")
    install(template, wheels, "alpha")
    vanished(template, scripts=f"{template}/bin/python3.5")
    before = snapshot(template)
    # One resolution serves all: pip is not what is killed here.
    resolved: list[object] = []
    real = adopting._Resolution.run

    def once(self: adopting._Resolution, pins: dict[str, str]) -> object:
        if not resolved:
            resolved.append(real(self, pins))
        return resolved[0]

    monkeypatch.setattr(adopting._Resolution, "run", once)
    numbers = iter(range(10**6))

    def prepare() -> Path:
        return Path(shutil.copytree(template, tmp_path / f"place{next(numbers)}", symlinks=True))

    first = prepare()
    adopt(store, first, python=PYTHON)
    for point, place in each_kill(prepare, lambda place: adopt(store, place, python=PYTHON)):
        if point % 2:
            with contextlib.suppress(UsageError):
                adopt(store, place, python=PYTHON)
            assert drifts(store, place) == []
            undo(place)
        else:
            with contextlib.suppress(UsageError):
                undo(place)
        given_back(store, place, before)
        shutil.rmtree(place)


@pytest.mark.parametrize("lasting", [False, True])
def test_a_disk_that_is_full(
    store: Store, ground: tuple[Callable[[], Path], Snapshot], lasting: bool
) -> None:
    prepare, before = ground

    def attempt(place: Path) -> None:
        adopt(store, place)

    calls = with_fault(Fault(), partial(attempt, prepare())).calls
    for point in range(1, calls + 1, 3):
        place = prepare()
        outcome = with_fault(Fault(point=point, lasting=lasting), partial(attempt, place))
        if outcome.exit_code == 0:
            whole(store, place, before)
        else:
            assert outcome.exit_code == 16, outcome.error
            if lasting:  # then nothing could be taken back at once
                with contextlib.suppress(UsageError):
                    undo(place)
            given_back(store, place, before)
        shutil.rmtree(place)


def test_two_at_once(tmp_path: Path, store: Store, wheels: Path) -> None:
    place = venv(tmp_path / "venv")
    install(place, wheels, "alpha")
    before = snapshot(place)

    def attempt() -> str:
        try:
            adopt(store, place)
        except UsageError as error:
            return error.kind
        return "adopted"

    assert sorted(together(attempt, attempt, attempt)) == ["adopt-ours", "adopt-ours", "adopted"]
    check(store, place)
    together(partial(_quiet_undo, place), partial(_quiet_undo, place))
    assert without_bytecode(snapshot(place)) == before


def _quiet_undo(place: Path) -> None:
    with contextlib.suppress(UsageError):
        undo(place)


# --- the command ---


def test_the_command(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    place = venv(tmp_path / "venv")
    assert run(["--store", store.root, "env", "undo", str(place)]) == 2
    assert "has not been adopted" in capsys.readouterr().err
    adopt(store, place)
    (place / "mine").write_text("")
    assert run(["--store", store.root, "env", "undo", "--json", str(place)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["status"], answer["path"], answer["stays"]) == ("done", str(place), ["mine"])
    assert "pyvenv.cfg" in answer["restored"]
    adopt(store, place)
    assert run(["env", "undo", str(place)]) == 0
    assert f"{place}: restored: pyvenv.cfg" in capsys.readouterr().out


# --- the pure part ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", Configuration()),
        (b"home = /a b\nversion = 3.11.7\n", Configuration(home="/a b", version="3.11")),
        (b"HOME=/a\r\nversion_info = 3.9.1.final.0\r\n", Configuration(home="/a", version="3.9")),
        (b"home = relative\nversion = 2.7\n", Configuration()),
        (b"home = /\0\nversion = 3.1234\n", Configuration()),
        (b"include-system-site-packages = TRUE\n", Configuration(system=True)),
        (b"include-system-site-packages = yes\n", Configuration()),
        (b"prompt = 'it\\'s'\n", Configuration(prompt="it's")),
        (b"prompt = (plain)\n", Configuration(prompt="(plain)")),
        (b"prompt = '''\n", Configuration()),
        (b"prompt = '\\x1b[0m'\n", Configuration()),
        (
            b"executable = /x/python\nhome = /one\nhome = /two\n",
            Configuration(home="/two", executable="/x/python"),
        ),
    ],
)
def test_configuration(text: bytes, expected: Configuration) -> None:
    assert configuration(text) == expected


@pytest.mark.parametrize(
    ("script", "interpreter"),
    [
        (b"#!/a/bin/python\nprint()\n", b"/a/bin/python"),
        (b"#! /a/bin/python3.13t -E -s\r\n", b"/a/bin/python3.13t"),
        (b"#!/a/bin/python3.11", b"/a/bin/python3.11"),
        (b"#!/python3/bin/python\n", b"/python3/bin/python"),
        (b"#!/a b/bin/python\n", b"/a b/bin/python"),
        (b"#!/bin/sh\n'''exec' \"/a b/bin/python3\" \"$0\" \"$@\"\n' '''\nx\n", b"/a b/bin/python3"),
        (b"#!/bin/sh\n'''exec' /a/bin/python3 \"$0\" \"$@\"\n' '''\nx\n", b"/a/bin/python3"),
        (b"#!/bin/sh\n'''exec' \"$(dirname -- \"$0\")\"/'python' \"$0\" \"$@\"\n' '''\n", None),
        (b"#!/usr/bin/env python3\n", None),
        (b"#!python\n", None),
        (b"#!/a/bin/python-config\n", None),
        (b"#!/a/bin/pypy3\n", None),
        (b"#!/a/bin/python\n\0", None),
        (b"#!/bin/sh\n", None),
        (b"#!", None),
        (b"import x\n", None),
    ],
)
def test_shebang(script: bytes, interpreter: bytes | None) -> None:
    found = shebang(script)
    assert (found.interpreter if found else None) == interpreter


@pytest.mark.parametrize("options", ["", " -I", " -E -s"])
@pytest.mark.parametrize("place", ["/short", "/with a space", "/" + "long" * 40])
def test_retargeted_scripts(options: str, place: str) -> None:
    found = shebang(f"#!/old/bin/python{options}\nprint(1)\n".encode())
    assert found is not None
    script = adoption.retargeted(found, f"{place}/bin/python")
    first, _, rest = script.partition(b"\n")
    assert len(first) <= 127
    if place == "/short":
        assert script == f"#!/short/bin/python{options}\nprint(1)\n".encode()
    else:
        assert first == b"#!/bin/sh"
        assert (b'python" -I "$0"' in rest) == (options == " -I")
        compile(script, "script", "exec")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('VIRTUAL_ENV="/a/b"\nexport VIRTUAL_ENV\n', ["/a/b"]),
        ("VIRTUAL_ENV='/a b'\n    VIRTUAL_ENV=$(cygpath \"$VIRTUAL_ENV\")\n", ["/a b"]),
        ("setenv VIRTUAL_ENV /a\n", ["/a"]),
        ('set -gx VIRTUAL_ENV "/a"\n', ["/a"]),
        ("const virtual_env = r#'/a'#\n", ["/a"]),
        ("VIRTUAL_ENV=$(dirname x)\nunset VIRTUAL_ENV\n", []),
    ],
)
def test_named_directories(text: str, expected: list[str]) -> None:
    assert named_directories(text.encode()) == expected


def test_topmost() -> None:
    assert adoption.topmost(["a/b", "a", "a-b", "a/c/d", "b/c", "a"]) == ["a", "a-b", "b/c"]


def test_a_journal_is_what_was_written() -> None:
    journal = Journal(
        state="adopting",
        store="/s",
        kept=(Kept("bin/x\udcff", "0", "copy"),),
        scripts={"bin/x": "f:755:0"},
        there=frozenset({"bin", "bin/x\udcff"}),
        made={"lib": "d"},
    )
    data = adoption.journal_to_json(journal)
    assert adoption.journal_from_json(data) == journal
    with pytest.raises(ValueError, match="checksum"):
        adoption.journal_from_json(data.replace(b"755", b"777"))
