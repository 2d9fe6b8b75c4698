"""``vrfstore lock``: what is written where, what pip and uv make of it, and we of theirs."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from support.bases import base_with, sdist
from support.commands import Command, Ended, commands, in_process_of_its_own
from support.crash import as_nobody
from support.index import Index
from support.wheels import WheelSpec
from vrfstore import fs
from vrfstore.store.store import Store

UV = f"{os.path.dirname(sys.executable)}/uv"
APPLE = WheelSpec(name="apple", requires=["pear"], extras={"jam": ["plum"]})
PEARS = [WheelSpec(name="pear", version=version) for version in ("1.0", "2.0")]

Asked = Callable[..., Path]


@pytest.fixture
def orchard(index: Index) -> Index:
    for spec in (APPLE, PEARS[0], WheelSpec(name="plum")):
        index.add(spec)
    return index


@pytest.fixture
def either(store: Store, capsys: pytest.CaptureFixture[str], resolver: str) -> Command:
    """Runs commands with one resolver after the other."""
    made = commands(store, capsys)

    def chosen(*arguments: str | Path) -> Ended:
        return made(*arguments, "--resolver", resolver)

    return chosen


@pytest.fixture
def command(store: Store, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs commands with the quicker resolver."""
    made = commands(store, capsys)

    def chosen(*arguments: str | Path) -> Ended:
        return made(*arguments, "--resolver", "uv")

    return chosen


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    """Give a function that writes a file of requirements."""

    def write(*lines: str, name: str = "requirements.vrf") -> Path:
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write


def names(text: str) -> dict[str, str]:
    return {package["name"]: package["version"] for package in tomllib.loads(text)["packages"]}


# --- what is written


def test_both_resolvers_write_the_same_lock(
    orchard: Index, asked: Asked, store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = asked("apple[jam]")
    texts = []
    for resolver in ("pip", "uv"):
        output = tmp_path / resolver
        done = commands(store, capsys)("lock", path, "-o", output, "--resolver", resolver, "--refresh")
        assert done.code == 0
        document = tomllib.loads(output.read_text())
        assert document["lock-version"] == "1.0"
        for package in document["packages"]:
            (wheel,) = package["wheels"]
            wheel.pop("size", None)  # pip's report has none
        texts.append(document)
    assert texts[0] == texts[1]
    assert sorted(package["name"] for package in texts[0]["packages"]) == ["apple", "pear", "plum"]


def test_without_an_output_it_is_printed_and_nothing_else(
    orchard: Index, asked: Asked, either: Command
) -> None:
    for output in ([], ["-o", "-"], ["-o", "/dev/stdout"]):
        ended = either("lock", asked("apple"), *output)
        assert ended.code == 0
        assert names(ended.out) == {"apple": "1.0", "pear": "1.0"}
        assert "resolv" in ended.err or output


def test_nothing_is_fetched_or_linked(orchard: Index, asked: Asked, either: Command, store: Store) -> None:
    either("lock", asked("apple"))
    assert store.entries() == []
    assert store.environments() == []
    assert orchard.downloads("apple-1.0-py3-none-any.whl") == 0


def test_linking_what_was_locked_does_not_resolve_again(
    orchard: Index, asked: Asked, either: Command, tmp_path: Path
) -> None:
    lock = tmp_path / "pylock.toml"
    either("lock", asked("apple"), "-o", lock)
    for spec in PEARS[1:]:
        orchard.add(spec)
    orchard.requests.clear()
    assert either("link", asked("apple"), "--json").versions == {"apple": "1.0", "pear": "1.0"}
    assert either("link", lock, "--json").versions == {"apple": "1.0", "pear": "1.0"}
    assert not any("/simple/" in path for _, path in orchard.requests)


def test_what_the_base_has_is_left_out_unless_it_is_for_an_isolated_environment(
    orchard: Index, asked: Asked, either: Command, tmp_path: Path
) -> None:
    python = base_with(tmp_path / "base", PEARS[0])
    assert names(either("lock", asked("apple"), "--python", python).out) == {"apple": "1.0"}
    isolated = either("lock", asked("apple"), "--python", python, "--isolated")
    assert names(isolated.out) == {"apple": "1.0", "pear": "1.0"}


def test_versions_of_the_output_are_kept_unless_it_is_upgraded(
    orchard: Index, asked: Asked, either: Command, tmp_path: Path
) -> None:
    lock = tmp_path / "pylock.toml"
    first = either("lock", asked("apple"), "-o", lock, "--json").document
    assert first["changed"] is True
    before = lock.stat()
    orchard.add(PEARS[1])
    again = either("lock", asked("apple"), "-o", lock, "--json").document
    assert again["changed"] is False
    assert (lock.stat().st_mtime_ns, lock.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert names(lock.read_text())["pear"] == "1.0"
    upgraded = either("lock", asked("apple"), "-o", lock, "--upgrade", "--json").document
    assert upgraded["changed"] is True
    assert names(lock.read_text())["pear"] == "2.0"


def test_versions_of_the_output_count_more_than_what_is_known(
    orchard: Index, asked: Asked, either: Command, tmp_path: Path
) -> None:
    lock = tmp_path / "pylock.toml"
    either("lock", asked("apple"), "-o", lock)
    old = lock.read_text()
    orchard.add(PEARS[1])
    either("lock", asked("apple"), "-o", lock, "--upgrade")
    lock.write_text(old)
    assert either("lock", asked("apple"), "-o", lock).code == 0
    assert names(lock.read_text())["pear"] == "1.0"


def test_a_lock_of_uv_says_what_to_keep(
    orchard: Index, asked: Asked, either: Command, tmp_path: Path
) -> None:
    lock, text = tmp_path / "pylock.toml", asked("apple", name="asked.txt")
    made: list[str | Path] = [
        UV,
        "pip",
        "compile",
        "-q",
        "--index-url",
        orchard.url,
        "--format",
        "pylock.toml",
        "-o",
        lock,
        text,
    ]
    subprocess.run(made, check=True)
    orchard.add(PEARS[1])
    assert either("lock", asked("apple"), "-o", lock).code == 0
    assert names(lock.read_text())["pear"] == "1.0"


# --- where it is written


def test_a_file_that_is_no_lock_is_left_alone(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path
) -> None:
    for content in (b"# my notes\n", b"\xff\xfe", b"[tool.x]\ny = 1\n", b'lock-version = "7.0"\n'):
        output = tmp_path / "pylock.toml"
        output.write_bytes(content)
        ended = command("lock", asked("apple"), "-o", output, "--json")
        assert (ended.code, ended.kind) == (2, "output-foreign")
        assert output.read_bytes() == content


def test_an_empty_file_is_filled(orchard: Index, asked: Asked, command: Command, tmp_path: Path) -> None:
    output = tmp_path / "pylock.toml"
    output.touch(mode=0o640)
    output.chmod(0o640)
    assert command("lock", asked("apple"), "-o", output).code == 0
    assert names(output.read_text()) == {"apple": "1.0", "pear": "1.0"}
    assert stat.S_IMODE(output.stat().st_mode) == 0o640


def test_links_stay_links(orchard: Index, asked: Asked, command: Command, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, output = tmp_path / "elsewhere/lock.toml", tmp_path / "pylock.toml"
    output.symlink_to("elsewhere/lock.toml")
    for _ in range(2):  # where it leads to nothing yet, and where it leads to a lock
        assert command("lock", asked("apple"), "-o", output).code == 0
        assert os.readlink(output) == "elsewhere/lock.toml"
        assert names(target.read_text()) == {"apple": "1.0", "pear": "1.0"}
        orchard.add(PEARS[1])
    assert os.listdir(tmp_path / "elsewhere") == ["lock.toml"]


@pytest.mark.parametrize("output", ["", "absent/pylock.toml", "requirements.vrf/pylock.toml", "."])
def test_where_nothing_can_be_written_it_is_told(
    orchard: Index,
    asked: Asked,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    output: str,
) -> None:
    path = asked("apple")
    monkeypatch.chdir(tmp_path)
    ended = command("lock", path, "-o", output, "--json")
    assert ended.code == 2


def test_who_may_not_write_there_leaves_nothing(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can be somebody else")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o755)
    (closed / "pylock.toml").write_text("as it was")
    for parent in [tmp_path, *tmp_path.parents]:
        if parent == Path(tempfile.gettempdir()):
            break
        parent.chmod(0o755)

    def write() -> int | None:
        try:
            fs.replace_file(f"{closed}/pylock.toml", b"new")
        except OSError as error:
            return error.errno
        return None

    assert as_nobody(write) == errno.EACCES
    assert os.listdir(closed) == ["pylock.toml"]
    assert (closed / "pylock.toml").read_text() == "as it was"


def test_where_nothing_can_be_written_is_told(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path
) -> None:
    refused = command("lock", asked("apple"), "-o", tmp_path / "nowhere/pylock.toml", "--json")
    assert (refused.code, refused.kind) == (2, "path")
    assert not (tmp_path / "nowhere").exists()


def test_stdout_that_is_a_file_is_written_to(
    orchard: Index, asked: Asked, store: Store, tmp_path: Path
) -> None:
    """And not replaced by another file behind the back of who has it open."""
    place = tmp_path / "log"
    for output in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        with place.open("wb") as stream:
            stream.write(b"# before\n")
            stream.flush()
            done = subprocess.run(
                [sys.executable, "-m", "vrfstore", "--store", store.root,
                 "lock", asked("apple"), "-o", output, "--resolver", "uv"],
                stdout=stream, stderr=subprocess.PIPE, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert os.fstat(stream.fileno()).st_ino == place.stat().st_ino
        assert place.read_text().startswith("# before\n")
        assert names(place.read_text()) == {"apple": "1.0", "pear": "1.0"}


def test_a_pipe_is_written_to(orchard: Index, asked: Asked, store: Store, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        ended = in_process_of_its_own(store, "lock", asked("apple"), "-o", pipe, "--resolver", "uv")
        assert ended.code == 0, ended.err
        assert reader.stdout is not None
        assert names(reader.stdout.read()) == {"apple": "1.0", "pear": "1.0"}
    assert stat.S_ISFIFO(pipe.stat().st_mode)


# --- when the index is gone


def test_the_older_lock_stays_where_that_is_fine(
    orchard: Index, asked: Asked, either: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_RETRIES", "0")
    lock = tmp_path / "pylock.toml"
    either("lock", asked("apple"), "-o", lock)
    before = lock.read_text()
    orchard.status["/"] = 503
    assert either("lock", asked("apple"), "-o", lock).code in {11, 14}
    found = either("lock", asked("apple"), "-o", lock, "--stale-ok", "--json")
    assert found.versions == {"apple": "1.0", "pear": "1.0"}
    assert found.document["changed"] is False
    assert any("before" in warning for warning in found.warnings)
    assert lock.read_text() == before


def test_a_file_that_asks_for_more_than_the_older_lock_has_is_not_served_by_it(
    orchard: Index, asked: Asked, either: Command, tmp_path: Path
) -> None:
    lock = tmp_path / "pylock.toml"
    either("lock", asked("apple"), "-o", lock)
    before = lock.read_text()
    assert either("lock", asked("apple", "ghost"), "-o", lock, "--stale-ok").code == 11
    assert lock.read_text() == before


def test_offline_it_is_what_is_known(orchard: Index, asked: Asked, either: Command, tmp_path: Path) -> None:
    lock = tmp_path / "pylock.toml"
    assert either("lock", asked("apple"), "-o", lock, "--offline").code == 12
    assert not lock.exists()
    either("lock", asked("apple"))
    orchard.requests.clear()
    for _ in range(2):
        assert either("lock", asked("apple"), "-o", lock, "--offline").code == 0
    assert orchard.requests == []


# --- others take it, and we take theirs


def test_pip_and_uv_install_what_it_says(
    orchard: Index, asked: Asked, either: Command, tmp_path: Path
) -> None:
    lock = tmp_path / "pylock.toml"
    either("lock", asked("apple[jam]"), "-o", lock)
    orchard.add(PEARS[1])
    python = base_with(tmp_path / "venv")
    programs: list[list[str | Path]] = [
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "-r", lock],
        [UV, "pip", "sync", "-q", "--python", python, lock],
    ]
    for words in programs:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        code = "import importlib.metadata as m; print(*(m.version(n) for n in ('apple', 'pear', 'plum')))"
        seen = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
        assert seen.stdout == "1.0 1.0 1.0\n"


@pytest.mark.parametrize("whose", ["pip", "uv"])
def test_a_lock_of_theirs_is_linked(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path, whose: str
) -> None:
    lock, text = tmp_path / "pylock.toml", asked("apple[jam]", name="asked.txt")
    made: dict[str, list[str | Path]] = {
        "pip": [sys.executable, "-m", "pip", "lock", "-q", "-o", lock, "-r", text],
        "uv": [
            UV,
            "pip",
            "compile",
            "-q",
            "--index-url",
            orchard.url,
            "--format",
            "pylock.toml",
            "-o",
            lock,
            text,
        ],
    }
    subprocess.run(made[whose], check=True, capture_output=True)
    orchard.add(PEARS[1])
    assert command("link", lock, "--json").versions == {"apple": "1.0", "pear": "1.0", "plum": "1.0"}
    assert names(command("lock", lock).out) == {"apple": "1.0", "pear": "1.0", "plum": "1.0"}


def test_a_lock_of_ours_locks_to_itself(
    orchard: Index, asked: Asked, either: Command, tmp_path: Path
) -> None:
    lock = tmp_path / "pylock.toml"
    either("lock", asked("apple"), "-o", lock)
    assert either("lock", lock).out == lock.read_text()


def test_what_a_lock_names_as_a_source_is_built_where_that_is_allowed(
    index: Index, command: Command, store: Store, tmp_path: Path
) -> None:
    data, filename = sdist("cherry")
    index.add(data, filename)
    asked, output = tmp_path / "requirements.vrf", tmp_path / "pylock.toml"
    asked.write_text("cherry\n")
    assert command("lock", str(asked), "-o", str(output), "--allow-builds").code == 0
    refused = command("link", str(output), "--json")
    assert (refused.code, refused.kind) == (11, "no-wheel")
    assert "--allow-builds" in refused.document["error"]["hint"]
    linked = command("link", str(output), "--allow-builds", "--json")
    assert linked.versions == {"cherry": "1.0"}
    assert command("link", str(output), "--allow-builds", "--json").document["status"] == "hit"
