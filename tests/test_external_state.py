"""What has become of an environment of the user's: gone only where that is certain."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from support.crash import as_nobody, base
from support.index import Index
from support.wheels import WheelSpec
from vrfstore import codec, fs
from vrfstore.runner.link import link
from vrfstore.store import externals
from vrfstore.store.externals import ExternalRecord, Registration
from vrfstore.store.store import Store

TOKEN, OTHER_TOKEN = "a" * 16, "b" * 16

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts, and can become somebody else")


def record(place: Path, token: str = TOKEN) -> ExternalRecord:
    return ExternalRecord(
        token=token,
        place=str(place),
        store="/store",
        asked="",
        executable="/usr/bin/python3",
        interpreter=base().identity,
        library="python3.11",
        requirements="",
        path="",
        wheels=(),
        composites=(),
        lock="",
        made={},
        finished=True,
    )


def make(place: Path, token: str = TOKEN) -> Registration:
    """Make the little of an environment that tells whether it is one, and return its registration."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "vrfstore.json").unlink(missing_ok=True)
    externals.write(str(place), record(place, token))
    return Registration(
        token=TOKEN,
        path=str(place),
        device=externals.device_of(str(place)),
        references=(),
        locks=(),
        namespace=externals.mount_namespace(),
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path.resolve() / "projects/report/.venv"


def nothing(place: Path) -> None:
    del place


def remove(place: Path) -> None:
    shutil.rmtree(place)


def remove_record(place: Path) -> None:
    (place / "vrfstore.json").unlink()


def break_record(place: Path) -> None:
    (place / "vrfstore.json").write_text("{")


def newer_record(place: Path) -> None:
    (place / "vrfstore.json").write_text('{"schema":999}')


def record_is_directory(place: Path) -> None:
    remove_record(place)
    (place / "vrfstore.json").mkdir()


def record_is_pipe(place: Path) -> None:
    remove_record(place)
    os.mkfifo(place / "vrfstore.json")


def record_leads_nowhere(place: Path) -> None:
    remove_record(place)
    (place / "vrfstore.json").symlink_to("nowhere")


def another(place: Path) -> None:
    make(place, OTHER_TOKEN)


def empty(place: Path) -> None:
    remove(place)
    place.mkdir()


def a_file(place: Path) -> None:
    remove(place)
    place.touch()


def moved_and_linked(place: Path) -> None:
    place.rename(place.parent / "elsewhere")
    place.symlink_to("elsewhere")


def dangling(place: Path) -> None:
    remove(place)
    place.symlink_to("nowhere")


def without_parent(place: Path) -> None:
    shutil.rmtree(place.parent)


def parent_is_file(place: Path) -> None:
    without_parent(place)
    place.parent.touch()


def parent_is_link(place: Path) -> None:
    """Move the project; something else of its name is there instead."""
    place.parent.rename(place.parent.parent / "elsewhere")
    (place.parent.parent / "empty").mkdir()
    place.parent.symlink_to("empty")


def parent_leads_through_link(place: Path) -> None:
    projects = place.parent.parent
    projects.rename(projects.parent / "elsewhere")
    (projects.parent / "other/report").mkdir(parents=True)
    projects.symlink_to("other")


CHANGES: dict[Callable[[Path], None], str] = {
    nothing: "there",
    remove: "absent",
    another: "absent",
    remove_record: "unknown",
    break_record: "unknown",
    newer_record: "unknown",
    record_is_directory: "unknown",
    record_is_pipe: "unknown",
    record_leads_nowhere: "unknown",
    empty: "unknown",
    a_file: "unknown",
    moved_and_linked: "unknown",
    dangling: "unknown",
    without_parent: "unknown",
    parent_is_file: "unknown",
    parent_is_link: "unknown",
    parent_leads_through_link: "unknown",
}


@pytest.mark.parametrize(("change", "state"), CHANGES.items(), ids=[change.__name__ for change in CHANGES])
def test_an_environment_is_gone_only_where_that_is_certain(
    place: Path, change: Callable[[Path], None], state: str
) -> None:
    known = make(place)
    before = set(os.listdir("/proc/self/fd"))
    change(place)
    assert externals.state_of(known) == state
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "change",
    [
        {"namespace": 0}, {"namespace": 1}, {"device": 0}, {"device": 1}, {"path": ""}, {"path": "/"},
        {"path": "relative/path"}, {"path": "/\0"}, {"path": "/dev/null/environment"},
    ],
    ids=repr,
)  # fmt: skip
def test_what_was_registered_elsewhere_or_oddly_is_not_known_to_be_gone(
    place: Path, change: dict[str, object]
) -> None:
    known = replace(make(place), **change)  # type: ignore[arg-type]
    remove(place)
    assert externals.state_of(known) == "unknown"


def test_a_namespace_that_cannot_be_read_is_nobody_s(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = make(place)
    remove(place)
    monkeypatch.setattr(externals, "mount_namespace", lambda: 0)
    assert externals.state_of(replace(known, namespace=0)) == "unknown"


@contextmanager
def mounted(place: Path) -> Iterator[None]:
    """A tmpfs of its own at a directory."""
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "vrfstore-test", place], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("nothing may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@root_only
def test_what_is_not_mounted_is_not_gone(place: Path) -> None:
    home = place.parent
    with mounted(home):
        known = make(place)
        assert externals.state_of(known) == "there"
        (place / "vrfstore.json").rename(home / "aside")
        place.rmdir()
        assert externals.state_of(known) == "absent"
        place.mkdir()
        (home / "aside").rename(place / "vrfstore.json")
    assert list(home.iterdir()) == []
    assert externals.state_of(known) == "unknown"
    # Not even where the same directories are below the place where it is mounted.
    place.mkdir()
    assert externals.state_of(known) == "unknown"
    make(place, OTHER_TOKEN)
    assert externals.state_of(known) == "unknown"


@root_only
def test_what_is_below_a_mount_is_not_known_to_be_another(place: Path) -> None:
    known = make(place)
    with mounted(place):
        make(place, OTHER_TOKEN)
        assert externals.state_of(known) == "unknown"
    assert externals.state_of(known) == "there"


@root_only
def test_an_environment_that_is_a_mount_itself_is_never_known_to_be_gone(place: Path) -> None:
    with mounted(place):
        known = make(place)
        assert externals.state_of(known) == "unknown"
    place.rmdir()
    assert externals.state_of(known) == "unknown"


@root_only
def test_another_mount_namespace_is_another_place(place: Path) -> None:
    known = make(place)
    remove(place)
    code = (
        "import sys\n"
        "from vrfstore.store import externals\n"
        "known = externals.Registration(token=sys.argv[1], path=sys.argv[2], device=int(sys.argv[3]), references=(), "
        "locks=(), namespace=int(sys.argv[4]))\n"
        "print(externals.state_of(known))"
    )
    words = [sys.executable, "-c", code, known.token, known.path, str(known.device), str(known.namespace)]
    assert subprocess.run(words, check=True, capture_output=True, text=True).stdout == "absent\n"
    done = subprocess.run(["unshare", "--mount", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("a mount namespace may not be made here")
    assert done.stdout == "unknown\n"


@root_only
@pytest.mark.parametrize("closed", ["record", "environment", "parent", "above"])
def test_what_may_not_be_read_is_not_gone(tmp_path: Path, closed: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        place = Path(folder).resolve() / "projects/report/.venv"
        known = make(place)
        assert as_nobody(lambda: externals.state_of(known)) == "there"
        shut = {
            "record": place / "vrfstore.json", "environment": place, "parent": place.parent, "above": place.parents[1],
        }[closed]  # fmt: skip
        shut.chmod(0)
        assert as_nobody(lambda: externals.state_of(known)) == "unknown"
        if closed in {"parent", "above"}:
            shutil.rmtree(place)
            assert as_nobody(lambda: externals.state_of(known)) == "unknown"
        shut.chmod(0o755)


def test_an_error_of_the_disk_is_no_absence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = make(place)

    def broken(*_arguments: object, **_options: object) -> None:
        raise OSError(5, "Input/output error")

    for function in ("stat", "fstat", "open"):
        with monkeypatch.context() as patched:
            patched.setattr(os, function, broken)
            assert externals.state_of(known) == "unknown"
    assert externals.state_of(known) == "there"


def test_the_device_is_that_of_the_nearest_directory_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path.stat().st_dev
    assert externals.device_of(str(tmp_path)) == device
    assert externals.device_of(str(tmp_path / "not/there/yet")) == device
    (tmp_path / "file").touch()
    assert externals.device_of(str(tmp_path / "file/below")) == device
    (tmp_path / "loop").symlink_to("loop")
    assert externals.device_of(str(tmp_path / "loop/below")) == 0

    def nowhere(_path: str) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(os, "stat", nowhere)
    assert externals.device_of("/not/there") == 0
    assert externals.mount_namespace() == 0


def registration(store: Store) -> Registration:
    (found,) = externals.registrations(store.layout)
    assert isinstance(found, Registration)
    return found


def test_a_link_registers_where_it_is_seen_from_before_anything_is_there(
    index: Index, store: Store, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(WheelSpec(name="pear"))
    requirements = tmp_path / "requirements.vrf"
    requirements.write_text("pear\n")
    registered = []
    real = externals.register

    def register(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        registered.append((registration(store), place.exists()))

    monkeypatch.setattr(externals, "register", register)
    link(requirements, store=store, into=place)
    assert registered[0][1] is False
    assert {(known.device, known.namespace) for known, _ in registered} == {
        (tmp_path.stat().st_dev, os.stat("/proc/self/ns/mnt").st_ino)
    }
    known = registration(store)
    assert externals.state_of(known) == "there"
    fs.remove_tree(str(place))
    assert externals.state_of(known) == "absent"


def test_a_registration_of_before_is_read_and_nothing_is_concluded_from_it(store: Store, place: Path) -> None:
    known = make(place)
    with store.session() as lease:
        externals.register(store.layout, lease, known)
    path = Path(store.layout.of("external", f"{TOKEN}.json"))
    assert registration(store) == known
    value = codec.loads(path.read_bytes())
    del value["namespace"]
    path.write_bytes(codec.dumps(value))
    remove(place)
    assert registration(store) == replace(known, namespace=0)
    assert externals.state_of(registration(store)) == "unknown"
