"""Source distributions: refused, or built in isolation where that is allowed, and entries from then on."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from support.bases import sdist
from support.commands import Command, commands, with_resolver
from support.index import Index
from support.wheels import WheelSpec, wheel_bytes
from vrfstore.errors import CapError
from vrfstore.requirements import pip, processes
from vrfstore.requirements.budget import Budget, Caps
from vrfstore.requirements.lock import loads
from vrfstore.store.store import Store

Asked = Callable[..., Path]


@pytest.fixture
def command(command: Command, resolver: str) -> Command:
    return with_resolver(command, resolver)


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    """Give a function that writes a file of requirements."""

    def write(*lines: str) -> Path:
        path = tmp_path / "requirements.vrf"
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write


def is_over(pid: int) -> bool:
    """Whether a process has ended, or ends within a few seconds."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


# --- allowed or not


def test_what_has_no_wheel_is_refused_by_name(index: Index, asked: Asked, command: Command) -> None:
    index.add(*sdist("pear"))
    ended = command("link", asked("pear"))
    assert ended.code == 11
    assert "pear" in ended.document["error"]["message"] + Path(ended.document["error"]["log"]).read_text()


def test_nobody_runs_a_source_that_may_not_be_built(
    index: Index, asked: Asked, command: Command, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    index.add(*sdist("pear", before=f"open({str(mark)!r}, 'w')"))
    assert command("link", asked("pear")).code == 11
    assert command("lock", asked("pear")).code == 11
    assert not mark.exists()


def test_what_is_built_is_an_entry_under_its_own_digest(
    index: Index, asked: Asked, command: Command, store: Store
) -> None:
    index.add(*sdist("pear", requires=("plum",)))
    index.add(WheelSpec(name="plum"))
    found = command("link", asked("pear"), "--allow-builds")
    assert found.versions == {"pear": "1.0", "plum": "1.0"}
    done = subprocess.run(
        [found.document["python"], "-c", "import pear, plum; print(pear.built)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n"
    (built,) = (item for item in found.document["packages"] if item["name"] == "pear")
    assert store.entry(built["digest"], "pear", "1.0") is not None
    text = Path(found.document["lock"]).read_text()
    (pear,) = (item for item in tomllib.loads(text)["packages"] if item["name"] == "pear")
    assert pear["sdist"]["url"] == index.file_url("pear-1.0.tar.gz")
    assert pear["tool"]["vrfstore"]["built"] == {
        "name": "pear-1.0-py3-none-any.whl",
        "sha256": built["digest"],
    }
    (wheel,) = (item for item in loads(text, "lock").wheels if item.name == "pear")
    assert (wheel.digest, wheel.built_from) == (built["digest"], pear["sdist"]["hashes"]["sha256"])


def test_it_is_built_once(index: Index, asked: Asked, command: Command, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    index.add(*sdist("pear", before=f"open({str(mark)!r}, 'a').write('x')"))
    path = asked("pear")
    for _ in range(2):
        command("link", path, "--allow-builds")
    first = mark.read_text()
    assert command("link", asked("# again", "pear"), "--allow-builds").versions == {"pear": "1.0"}
    assert command("link", path, "--allow-builds", "--offline").versions == {"pear": "1.0"}
    assert mark.read_text() == first


def test_leave_to_build_is_not_taken_from_who_had_it(index: Index, asked: Asked, command: Command) -> None:
    index.add(*sdist("pear"))
    path = asked("pear")
    assert command("link", path, "--allow-builds").code == 0
    assert command("link", path).code == 11
    assert command("link", path, "--offline").code == 12


def test_a_wheel_is_taken_where_there_is_one(index: Index, asked: Asked, command: Command) -> None:
    index.add(*sdist("pear", before="raise SystemExit(1)"))
    index.add(WheelSpec(name="pear"))
    (found,) = command("lock", asked("pear"), "--allow-builds").document["packages"]
    assert (found["filename"], found["built_from"]) == ("pear-1.0-py3-none-any.whl", None)


# --- what goes wrong


def test_a_build_that_fails_is_told_with_its_own_words(
    index: Index, asked: Asked, command: Command, store: Store
) -> None:
    """With pip as the resolver it fails when its metadata is made, which is a build as well."""
    index.add(*sdist("pear", before="raise RuntimeError('no compiler' + ' here')"))
    ended = command("link", asked("pear"), "--allow-builds")
    assert ended.code == 11
    error = ended.document["error"]
    assert "pear" in error["message"] + Path(error["log"]).read_text()
    assert "no compiler here" in Path(error["log"]).read_text()
    assert os.listdir(store.layout.of("tmp")) == []
    assert os.listdir(store.layout.of("requests")) == []


def test_a_build_without_words_is_told_all_the_same(
    index: Index,
    asked: Asked,
    store: Store,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even a log: the base was gone before pip could begin one."""
    index.add(*sdist("pear"))

    def fail(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 127, "", "")

    monkeypatch.setattr(pip, "run", fail)
    ended = commands(store, capsys)("link", asked("pear"), "--allow-builds", "--resolver", "uv", "--json")
    assert (ended.code, ended.kind) == (11, "build-failed")
    assert "pear 1.0" in ended.document["error"]["message"]


def test_a_source_with_other_bytes_is_not_built(
    index: Index, asked: Asked, command: Command, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    index.add(*sdist("pear", before=f"open({str(mark)!r}, 'w')"))
    index.corrupt("pear-1.0.tar.gz")
    assert command("link", asked("pear"), "--allow-builds").code in {11, 14, 18}
    assert not mark.exists()


def test_a_source_that_the_index_gives_no_hash_for_is_known_by_what_came(
    index: Index, asked: Asked, command: Command
) -> None:
    """To make its metadata a resolver has to have it."""
    index.without_hashes = True
    data, filename = sdist("pear")
    index.add(data, filename)
    (found,) = command("lock", asked("pear"), "--allow-builds").document["packages"]
    assert found["built_from"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("text", ["pear", "pear==1.0"])
def test_what_gc_took_is_built_once_more(
    index: Index, asked: Asked, command: Command, store: Store, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    index.add(*sdist("pear"))
    path = asked(text)
    command("link", path, "--allow-builds")
    time.sleep(0.05)  # the clock of the disk may be a tick behind
    assert commands(store, capsys)("gc", "--max-age", "0").code == 0
    assert store.entries() == []
    assert command("link", path, "--allow-builds", "--offline").code == 12
    assert command("link", path, "--allow-builds").versions == {"pear": "1.0"}


def test_what_is_gone_is_not_served_as_stale(
    index: Index, asked: Asked, command: Command, store: Store, tmp_path: Path
) -> None:
    """A memo leads to an entry that is nowhere: no older lock can help, and nobody asks for it for ever."""
    index.add(*sdist("pear"))
    path = asked("pear")
    command("lock", path, "--allow-builds")
    for name in store.entries():
        subprocess.run(["chmod", "-R", "u+w", f"{store.root}/entries/{name}"], check=True)
        os.rename(f"{store.root}/entries/{name}", tmp_path / name)
    index._files.clear()
    assert command("link", path, "--allow-builds", "--stale-ok").code == 11


# --- the time is over


def test_the_time_limit_ends_a_build_and_all_that_it_has_started(
    index: Index,
    asked: Asked,
    store: Store,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    resolver: str,
) -> None:
    mark = tmp_path / "pid"
    before = (
        f"import subprocess; child = subprocess.Popen(['sleep', '600']); "
        f"open({str(mark)!r}, 'w').write(str(child.pid)); child.wait()"
    )
    index.add(*sdist("pear", before=before))
    ended = commands(store, capsys)(
        "link", asked("pear"), "--allow-builds", "--resolver", resolver, "--timeout", "15", "--json"
    )
    assert (ended.code, ended.kind) == (13, "max-time")
    assert is_over(int(mark.read_text()))
    assert os.listdir(store.layout.of("tmp")) == []


def test_the_time_limit_ends_a_resolver(
    index: Index, asked: Asked, command: Command, resolver: str, store: Store
) -> None:
    """One that waits for an index that does not go on."""
    index.add(wheel_bytes(WheelSpec(name="pear")), "pear-1.0.tar.gz")
    index.delay["pear-1.0.tar.gz"] = 60
    began = time.monotonic()
    ended = command("link", asked("pear"), "--allow-builds", "--timeout", "5")
    assert (ended.code, ended.kind) == (13, "max-time")
    assert time.monotonic() - began < 30
    assert os.listdir(store.layout.of("tmp")) == []


def test_a_process_is_ended_with_all_of_its_group(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    words = ["sh", "-c", f"sleep 600 & echo $! > {mark}; wait"]
    with pytest.raises(CapError):
        processes.run(words, variables=dict(os.environ), budget=Budget(Caps(seconds=1.0)))
    assert is_over(int(mark.read_text()))


def test_an_interrupt_ends_the_group_too(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    code = (
        "import os, sys\nfrom vrfstore.requirements import processes\n"
        f"processes.run(['sh', '-c', 'sleep 600 & echo $! > {mark}; wait'], variables=dict(os.environ))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        while not (mark.exists() and mark.read_text()):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) != 0
    assert is_over(int(mark.read_text()))


def test_a_process_that_ends_by_itself_is_told_as_it_ended(tmp_path: Path) -> None:
    done = processes.run(
        ["sh", "-c", "pwd; printf '\\377' >&2; exit 7"], variables={}, directory=str(tmp_path)
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, f"{tmp_path}\n", "\ufffd")


# --- others take the lock


def test_the_lock_of_what_was_built_is_one_for_pip_and_uv(
    index: Index, asked: Asked, command: Command, tmp_path: Path
) -> None:
    index.add(*sdist("pear"))
    lock = tmp_path / "pylock.toml"
    assert command("lock", asked("pear"), "--allow-builds", "-o", lock).code == 0
    for name, program in {
        "pip": [sys.executable, "-m", "pip", "install", "-q"],
        "uv": [f"{os.path.dirname(sys.executable)}/uv", "pip", "install", "-q", "--python", sys.executable],
    }.items():
        place = tmp_path / name
        done = subprocess.run(
            [*program, "--target", place, "-r", lock], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert (place / "pear.py").read_text() == "built = True\n"


def test_locking_again_keeps_what_was_built(
    index: Index, asked: Asked, command: Command, tmp_path: Path
) -> None:
    index.add(*sdist("pear"))
    lock = tmp_path / "pylock.toml"
    command("lock", asked("pear"), "--allow-builds", "-o", lock)
    index.add(*sdist("pear", "2.0"))
    assert command("lock", asked("pear"), "--allow-builds", "-o", lock).versions == {"pear": "1.0"}
    assert command("lock", asked("pear"), "--allow-builds", "-o", lock, "--upgrade").versions == {
        "pear": "2.0"
    }
