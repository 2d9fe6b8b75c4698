"""Base interpreters: found as asked, started once, refused when unsuitable, and linked to by shared inodes."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.crash import base, litter, together
from support.pythons import pythons
from support.venvs import AWKWARD, NAMESPACE_FILES, relocated
from vrfstore import fs, interpreter
from vrfstore.errors import InterpreterError
from vrfstore.model import Interpreter
from vrfstore.store import interpreters
from vrfstore.store.store import Store

SETTLED = 0.06
"""Seconds after which a change counts as over."""


class Counted:
    """A venv that counts how often its python is started."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        subprocess.run([base().real, "-m", "venv", "--without-pip", folder], check=True)
        self.path = folder / "bin/python"
        self._log = folder / "starts"
        self._log.touch()
        (site,) = folder.glob("lib/python*/site-packages")
        counting = f"import os; open({str(self._log)!r}, 'a').write(str(os.getpid()) + ' ')\n"
        (site / "count.pth").write_text(counting)
        time.sleep(SETTLED)

    def write(self, comment: str) -> None:
        """Change something that decides, to no effect."""
        with (self.root / "pyvenv.cfg").open("a") as configuration:
            configuration.write(f"comment = {comment}\n")
        time.sleep(SETTLED)

    @property
    def starts(self) -> int:
        # site may run a .pth twice: lib64 leads to lib.
        return len(set(self._log.read_text().split()))


@pytest.fixture
def counted(tmp_path: Path) -> Counted:
    """An interpreter that counts its starts."""
    return Counted(tmp_path / "counted")


def known(store: Store, executable: Path) -> Interpreter:
    with store.session() as lease:
        return interpreters.known(store.layout, lease, str(executable))[0]


def test_an_interpreter_is_what_it_says_of_itself() -> None:
    found = base()
    program = (
        "import json, os, platform, sys, sysconfig;"
        "print(json.dumps([platform.python_version(), sys.implementation.cache_tag, sysconfig.get_platform(),"
        " sys.base_prefix, os.confstr('CS_GNU_LIBC_VERSION'), sysconfig.get_path('purelib')]))"
    )
    said = json.loads(subprocess.run([found.real, "-c", program], capture_output=True, check=True).stdout)
    assert said[:5] == [found.version, found.cache_tag, found.platform, found.prefix, found.libc]
    assert said[5] in found.site_directories
    assert (found.implementation, found.virtual) == ("cpython", False)
    assert found.base == tuple(sorted(set(found.base)))


def test_an_interpreter_is_started_once_until_something_changes(store: Store, counted: Counted) -> None:
    first = known(store, counted.path)
    assert known(store, counted.path) == first
    assert counted.starts == 1
    counted.write("another one")
    assert known(store, counted.path) == first
    assert counted.starts == 2


def test_what_was_changed_just_now_is_not_remembered(store: Store, counted: Counted) -> None:
    (counted.root / "pyvenv.cfg").touch()
    with store.session() as lease:
        found, stats = interpreters.known(store.layout, lease, str(counted.path))
    assert stats is None
    assert os.listdir(store.layout.of("interpreters")) == []
    assert known(store, counted.path) == found
    assert counted.starts == 2


def test_a_launcher_is_followed_and_never_remembered(store: Store, counted: Counted, tmp_path: Path) -> None:
    shim = saying(tmp_path, f'exec {shlex.quote(str(counted.path))} "$@"')
    time.sleep(SETTLED)
    for starts in (1, 2):
        with store.session() as lease:
            found, stats = interpreters.known(store.layout, lease, str(shim))
        assert (found.executable, stats, counted.starts) == (str(counted.path), None, starts)


def test_a_venv_is_asked_again_when_its_packages_or_its_configuration_change(
    store: Store, tmp_path: Path
) -> None:
    venv = tmp_path / "venv"
    subprocess.run([base().real, "-m", "venv", "--without-pip", venv], check=True)
    first = known(store, venv / "bin/python")
    assert (first.virtual, first.real, first.prefix) == (True, base().real, base().prefix)
    site = Path(first.site_directories[0])
    assert site.is_relative_to(venv)

    metadata = site / "demo-1.0.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Name: De.Mo\nVersion: 1.0\n")
    assert set(known(store, venv / "bin/python").base) - set(first.base) == {("de-mo", "1.0")}

    configuration = venv / "pyvenv.cfg"
    configuration.write_text(configuration.read_text().replace("= false", "= true"))
    assert len(known(store, venv / "bin/python").site_directories) > len(first.site_directories)


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"schema":9}', b"[]", b'{"schema":1,"stats":{},"interpreter":{}}']
)
def test_a_cache_that_cannot_be_read_is_made_anew(store: Store, counted: Counted, content: bytes) -> None:
    first = known(store, counted.path)
    (cache,) = Path(store.layout.of("interpreters")).glob("*.json")
    cache.write_bytes(content)
    assert known(store, counted.path) == first
    assert known(store, counted.path) == first
    assert counted.starts == 2
    assert litter(store) == []


def answering(folder: Path, **changes: object) -> Path:
    """A program that answers a probe as an interpreter would that differs from the base in some fields."""
    fields = (
        "real", "version", "implementation", "cache_tag", "abi_flags", "magic", "platform", "libc", "prefix",
        "virtual", "site_directories", "base",
    )  # fmt: skip
    answer = {name: getattr(base(), name) for name in fields}
    answer |= {"executable": base().real, "packages": []} | changes
    return saying(folder, f"printf '%s\\n' {shlex.quote(json.dumps(answer))}")


def saying(folder: Path, *commands: str) -> Path:
    path = folder / "python"
    path.write_text("\n".join(["#!/bin/sh", *commands, ""]))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"implementation": "pypy"}, "pypy"),
        ({"version": "3.8.20"}, "3.8.20"),
        ({"version": "2.7.18"}, "2.7.18"),
    ],
)
def test_an_unsuitable_interpreter_is_refused_for_what_it_is(
    store: Store, tmp_path: Path, changes: dict[str, object], word: str
) -> None:
    with pytest.raises(InterpreterError, match=word) as caught:
        known(store, answering(tmp_path, **changes))
    assert (caught.value.exit_code, caught.value.kind) == (22, "interpreter-unsuitable")
    assert os.listdir(store.layout.of("interpreters")) == []


def test_an_interpreter_whose_startup_prints_is_understood(tmp_path: Path) -> None:
    noisy = answering(tmp_path, version="3.99.0")
    noisy.write_text(noisy.read_text().replace("#!/bin/sh\n", "#!/bin/sh\necho welcome\n"))
    assert interpreter.probe(str(noisy)).version == "3.99.0"


@pytest.mark.parametrize("options", [[], ["--copies"], ["--copies", "--system-site-packages"]])
@pytest.mark.parametrize("python", pythons())
def test_of_a_venv_in_a_venv_the_base_is_the_one_that_is_none(
    tmp_path: Path, python: str, options: list[str]
) -> None:
    root = interpreter.probe(python)
    for number in range(2):
        folder = tmp_path / f"{number}"
        subprocess.run([python, "-m", "venv", "--without-pip", *options, folder], check=True)
        python = f"{folder}/bin/python"
        found = interpreter.probe(python)
        assert (found.executable, found.real, found.prefix, found.virtual) == (
            python, root.real, root.prefix, True
        )  # fmt: skip
        assert found.site_directories[0].startswith(f"{folder}/lib")


def test_a_build_that_was_moved_is_where_it_is_now(store: Store, tmp_path: Path) -> None:
    moved = [relocated(python, tmp_path / f"{number}" / AWKWARD) for number, python in enumerate(pythons())]
    for number, python in enumerate(moved):
        if python is not None:
            found = known(store, Path(python))
            assert found.prefix == str(tmp_path / f"{number}" / AWKWARD)
            assert found.real == os.path.realpath(python)
            assert found.site_directories[0].startswith(found.prefix)


@pytest.mark.parametrize(
    ("name", "reason"),
    [(b"two\nlines", "line break"), (b"t\xe4g", "not UTF-8"), (b"at its end ", None)],
    ids=["line break", "latin-1", "space"],
)
def test_a_base_at_a_path_that_cannot_be_written_down_is_refused_and_one_called_so_is_not(
    store: Store, tmp_path: Path, name: bytes, reason: str | None
) -> None:
    called = tmp_path / os.fsdecode(name)
    called.symlink_to(base().real)
    assert known(store, called) == known(store, called)
    assert interpreter.probe(str(called)).real == base().real
    folder = tmp_path / "in" / os.fsdecode(name)
    moved = relocated(base().real, folder) if reason is None else _moved(folder)
    if moved is None:
        pytest.skip("this build cannot be moved")
    if reason is None:
        assert interpreter.probe(moved).prefix == str(folder)
        return
    with pytest.raises(InterpreterError, match=reason) as caught:
        interpreter.probe(moved)
    assert caught.value.kind == "interpreter-unsuitable"
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


def _moved(folder: Path) -> str:
    folder.mkdir(parents=True)
    return str(answering(folder, real=f"{folder}/python", executable=f"{folder}/python"))


def test_musl_and_its_version_are_found_by_the_loader_of_the_program(tmp_path: Path) -> None:
    loader = tmp_path / "ld-musl-x86_64.so.1"
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF" + bytes(60) + os.fsencode(loader) + b"\0" + bytes(60))
    python = answering(tmp_path, libc="", real=str(program))
    assert interpreter.probe(str(python)).libc == "musl"
    for text, expected in (("Version 1.2.4", "musl 1.2"), ("no version", "musl"), ("Version x", "musl")):
        loader.write_text(f"#!/bin/sh\nprintf 'musl libc (x86_64)\n{text}\nmore\n' >&2; exit 1\n")
        loader.chmod(0o755)
        assert interpreter.probe(str(python)).libc == expected


def test_a_libc_that_says_nothing_is_unknown(tmp_path: Path) -> None:
    for real in (base().real, str(tmp_path / "absent")):
        assert interpreter.probe(str(answering(tmp_path, libc="", real=real))).libc == ""


@pytest.mark.parametrize("python", pythons())
def test_namespaces_of_the_base_are_found_in_whatever_setuptools_wrote(
    store: Store, tmp_path: Path, python: str
) -> None:
    folder = tmp_path / "venv"
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for package in ("old", "idle", "cloud/deep", "new", "never"):
        (site / package).mkdir(parents=True)
    for name, text in NAMESPACE_FILES.items():
        (site / f"{name}-nspkg.pth").write_text(text)
    (site / "comment-nspkg.pth").write_text("# sys.modules.setdefault('never', 1)\nnever\n")
    (site / "hidden-nspkg.pth").write_text(" import sys; sys.modules.setdefault('never', 1)\n")
    (site / "directory-nspkg.pth").mkdir()
    time.sleep(SETTLED)
    found = known(store, folder / "bin/python")
    assert found.namespaces == ("cloud", "cloud.deep", "new", "old")
    assert known(store, folder / "bin/python") == found
    assert interpreter.probe(found.real).namespaces == interpreter.probe(python).namespaces


@pytest.mark.parametrize(
    "commands",
    [["exit 0"], ["echo hello"], ["echo '{'"], ["echo '[]'"], ["echo '{}'"], ["exit 3"], ["kill -9 $$"]],
)
def test_what_does_not_answer_like_a_python_is_broken(tmp_path: Path, commands: list[str]) -> None:
    with pytest.raises(InterpreterError) as caught:
        interpreter.probe(str(saying(tmp_path, *commands)))
    assert (caught.value.exit_code, caught.value.kind) == (22, "interpreter-broken")


def test_what_cannot_be_started_or_hangs_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "_TIMEOUT", 0.1)
    (tmp_path / "text").write_text("no program")
    for path in (tmp_path / "absent", tmp_path / "text", tmp_path, saying(tmp_path, "exec sleep 60")):
        with pytest.raises(InterpreterError) as caught:
            interpreter.probe(str(path))
        assert caught.value.kind == "interpreter-broken"


def test_the_callers_configuration_has_no_say_in_a_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONHOME", "/nonexistent")
    assert interpreter.probe(base().real) == base()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, interpreter.default_executable()),
        ("", interpreter.default_executable()),
        ("3.97", "{bin}/python3.97"),
        ("python3.97", "{bin}/python3.97"),
        ("./bin/python3.97", "{bin}/python3.97"),
        ("bin/../bin/python3.97", "{bin}/python3.97"),
        ("./", "{bin}/python"),
    ],
)
def test_an_interpreter_is_found_by_path_version_or_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None, expected: str
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    saying(folder).rename(folder / "python3.97")
    (folder / "python").symlink_to("python3.97")
    (tmp_path / "first").mkdir()
    (tmp_path / "first/python3.97").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/first:{tmp_path}/absent:{folder}")
    monkeypatch.chdir(tmp_path)
    assert interpreter.find(asked) == expected.format(bin=folder)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (".venv", "{here}/.venv/bin/python"),
        ("./.venv", "{here}/.venv/bin/python"),
        ("env", "{here}/env/bin/python"),
        ("3.97", "{path}/python3.97"),
        ("python3.97", "{path}/python3.97"),
        ("./python3.97", "{here}/python3.97/bin/python"),
        ("3.96", "{here}/3.96/bin/python"),
        ("empty", "{path}/empty"),
    ],
)
def test_a_venv_is_found_by_its_directory_but_a_version_on_the_path_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, expected: str
) -> None:
    here, path = tmp_path / "here", tmp_path / "path"
    for folder in (".venv", "env", "3.97", "python3.97", "3.96"):
        (here / folder / "bin").mkdir(parents=True)
        saying(here / folder / "bin")
    (here / "empty").mkdir()
    path.mkdir()
    for name in ("env", "python3.97", "empty"):
        saying(path).rename(path / name)
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.chdir(here)
    assert interpreter.find(asked) == expected.format(here=here, path=path)


@pytest.mark.parametrize("asked", ["3.97", "python3.97", "./python3.97", "/nonexistent/python", "./"])
def test_an_interpreter_that_is_not_there_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InterpreterError) as caught:
        interpreter.find(asked)
    assert (caught.value.exit_code, caught.value.kind) == (22, "interpreter-missing")


def test_the_default_is_never_the_venv_that_vrfstore_is_in() -> None:
    assert interpreter.default_executable() == os.path.realpath(interpreter.default_executable())
    assert (
        not Path(interpreter.default_executable()).is_relative_to(sys.prefix) or sys.prefix == sys.base_prefix
    )


def ready_links(store: Store) -> str:
    with store.session() as lease:
        return interpreters.ready_links(store.layout, lease, base())


def test_ready_links_lead_to_the_interpreter(store: Store) -> None:
    path = Path(ready_links(store))
    library = base().directory_name
    targets = {link.name: os.readlink(link) for link in path.iterdir() if link.is_symlink()}
    assert targets == {"python": base().real, "python3": "python", library: "python", "lib64": "lib"}
    assert (path / "sentinel").read_bytes() == b""
    assert {link.name for link in path.iterdir()} == {*targets, "sentinel"}


def test_ready_links_to_a_free_threaded_build_have_both_its_names(store: Store) -> None:
    build = dataclasses.replace(base(), version="3.14.1", abi_flags="t")
    with store.session() as lease:
        path = Path(interpreters.ready_links(store.layout, lease, build))
    names = {link.name for link in path.iterdir() if link.is_symlink() and os.readlink(link) == "python"}
    assert names == {"python3", "python3.14", "python3.14t"}


def test_ready_links_are_made_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ready_links(store)
    made: list[str] = []
    monkeypatch.setattr(fs, "on_effect", lambda name, path: made.append(path) if name == "symlink" else None)
    assert ready_links(store) == first
    assert made == []


def test_processes_that_make_ready_links_at_once_agree_and_leave_nothing(store: Store) -> None:
    made = together(*[lambda: ready_links(store)] * 6)
    assert len(set(made)) == 1
    assert os.listdir(store.layout.of("interpreters")) == [os.path.basename(made[0])]
    assert litter(store) == []
