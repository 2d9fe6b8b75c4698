"""Compiling in waves: what is likely to be imported first is there first, and in the end all of it and the record."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import pytest

from support.crash import base, each_kill, litter, paused_at, together, tree
from support.wheels import WheelSpec, build_wheel
from vrfstore import codec, fs
from vrfstore.errors import StoreDamagedError
from vrfstore.gc import sweep
from vrfstore.gc.policy import Policy
from vrfstore.model import Event
from vrfstore.store import compile_worker, compiling, first_needed
from vrfstore.store.bytecode import is_compiled, pyc_path, read_record, record_path
from vrfstore.store.compiling import CompiledEntry, compile_entries, remove_record
from vrfstore.store.first_needed import Read, Wave
from vrfstore.store.holds import hold, shard
from vrfstore.store.store import Store
from vrfstore.store.verify import check_entry

PEAR = {
    "pear/__init__.py": "from pear import _core\n",
    "pear/_core.py": "value = 'ripe'\n",
    "pear/leaf.py": "from pear._vein import depth\n",
    "pear/_vein.py": "depth = 3\n",
    "pear/_unused.py": "",
    "pear/bad.py": "(\n",
    "pear/tests/__init__.py": "",
}
"""In the order of the waves: two, three (one of which does not compile), one, one."""

WAVES = [
    ["pear/__init__.py", "pear/_core.py"],
    ["pear/_vein.py", "pear/leaf.py"],
    ["pear/_unused.py"],
    ["pear/tests/__init__.py"],
]
GOOD = sorted(path for wave in WAVES for path in wave)


pytestmark = pytest.mark.usefixtures("without_sync")


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have parts compiled one after the other, so that their order can be seen."""
    monkeypatch.setattr(compiling, "_AT_A_TIME", 1)


@pytest.fixture
def add(store: Store, tmp_path: Path) -> Callable[..., str]:
    """Add an entry that is like the pear; give its directory name."""

    def build(name: str = "pear") -> str:
        files = {path.replace("pear", name): text.replace("pear", name) for path, text in PEAR.items()}
        return store.add(build_wheel(WheelSpec(name=name, files=files), tmp_path)).plan.reference.directory

    return build


def in_waves(
    store: Store, *directories: str, watch: Callable[[Event], None] = lambda _: None
) -> list[CompiledEntry]:
    with store.session() as lease:
        return compile_entries(
            store, base(), directories, lease=lease, watch=watch, processes=1, in_waves=True
        )


def at_once(store: Store, directory: str) -> CompiledEntry:
    with store.session() as lease:
        (result,) = compile_entries(
            store, base(), [directory], lease=lease, watch=lambda _: None, processes=1
        )
    return result


def entry_of(store: Store, directory: str) -> Path:
    return Path(store.layout.of("entries", directory))


def place(module: str) -> str:
    """Give where in an entry the pyc of a module is."""
    return pyc_path(f"site-packages/{module}", base().cache_tag)


def pycs(store: Store, directory: str) -> list[str]:
    """Give the modules of which there is a pyc."""
    root = entry_of(store, directory)
    return sorted(path for path in PEAR if (root / place(path)).exists())


def check(store: Store, directory: str) -> None:
    """Find the entry compiled, sealed and sound, its record naming every pyc as it is."""
    record = read_record(store.layout, directory, base().cache_tag)
    assert record is not None
    assert [file.path for file in record.files] == sorted(map(place, GOOD))
    assert [path for path, _ in record.failed] == ["site-packages/pear/bad.py"]
    for file in record.files:
        data = (entry_of(store, directory) / file.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size, file.sha256)
    assert check_entry(store, directory, full=True).problems == ()


@pytest.fixture
def between_waves(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Callable[[], object]], None]:
    """Have something happen when the first part of an entry is there and nothing of the second has begun."""

    def arrange(directory: str, happens: Callable[[], object]) -> None:
        original = first_needed.waves

        def waves(modules: Mapping[str, Iterable[str]], read: Read) -> Iterator[Wave]:
            coming = original(modules, read)
            yield next(coming)
            wait_until(lambda: pycs(store, directory) == sorted(WAVES[0]))
            with hold(store.layout.of("holds", shard("compile", directory))):
                pass  # whoever has published them has let go of the entry by now
            monkeypatch.setattr(first_needed, "waves", original)
            happens()
            yield from coming

        monkeypatch.setattr(first_needed, "waves", waves)

    return arrange


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# The order.


@pytest.mark.usefixtures("one_at_a_time")
def test_the_first_part_of_every_entry_comes_before_the_second_of_any(
    store: Store, add: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directories = [add("fig"), add("kiwi")]
    came: list[tuple[str, str]] = []

    def effect(name: str, path: str) -> None:
        if name == "rename" and "/entries/" in path:
            directory, _, inside = (
                path.removeprefix(store.layout.of("entries", "")).lstrip("/").partition("/")
            )
            came.append((directory, inside))

    monkeypatch.setattr(fs, "on_effect", effect)
    assert [result.state for result in in_waves(store, *directories)] == ["compiled", "compiled"]
    expected = [
        {(directory, place(path.replace("pear", name))) for path in wave}
        for wave in WAVES
        for name, directory in (("kiwi", directories[1]), ("fig", directories[0]))  # the larger one first
    ]
    for number, directory in ((-1, directories[0]), (-2, directories[1])):
        record = f"bytecode/{base().cache_tag}-{base().magic}.json"
        expected[number].add((directory, record))
    for part in expected:
        here, came = came[: len(part)], came[len(part) :]
        assert set(here) == part
    assert came == []


def test_in_the_end_all_is_as_if_it_had_been_compiled_at_once(store: Store, add: Callable[..., str]) -> None:
    directory = add()
    events: list[Event] = []
    (result,) = in_waves(store, directory, watch=events.append)
    check(store, directory)
    whole = tree(store.layout.of("entries", directory))
    assert events[0] == Event(kind="compiling", subject=f"Python {base().version}", total=len(PEAR))
    assert {(event.kind, event.subject) for event in events[1:]} == {("compiled", directory)}
    assert sum(event.size for event in events[1:]) == len(PEAR)
    remove_record(store, directory, base().cache_tag)
    assert at_once(store, directory) == result
    assert tree(store.layout.of("entries", directory)) == whole
    assert litter(store) == []
    assert in_waves(store, directory) == [CompiledEntry(directory=directory, state="present")]


def test_an_entry_without_modules_gets_its_record(store: Store, tmp_path: Path) -> None:
    wheel = build_wheel(WheelSpec(name="data", files={"data.txt": ""}), tmp_path)
    directory = store.add(wheel).plan.reference.directory
    assert in_waves(store, directory) == [CompiledEntry(directory=directory, state="compiled")]
    assert is_compiled(store.layout, directory, base())


@pytest.mark.usefixtures("one_at_a_time")
def test_each_part_is_on_the_disk_before_it_is_published(
    store: Store, add: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = add()
    came: list[str] = []
    monkeypatch.setattr(fs, "_syncfs", lambda _descriptor: came.append("sync"))

    def effect(name: str, path: str) -> None:
        if name == "rename" and "/entries/" in path:
            came.append("record" if path.endswith(".json") else "pyc")

    monkeypatch.setattr(fs, "on_effect", effect)
    in_waves(Store(store.layout, durable=True), directory)
    parts = [["sync", *["pyc"] * len(wave)] for wave in WAVES]
    assert came == [*chain.from_iterable(parts), "record"]


def test_who_waits_for_all_of_it_reads_no_sources_for_an_order(
    store: Store, add: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(first_needed, "waves")
    directory = add()
    assert at_once(store, directory).state == "compiled"
    check(store, directory)


def test_the_worker_compiles_in_waves(store: Store, add: Callable[..., str], tmp_path: Path) -> None:
    directory = add()

    def serve() -> list[bool]:
        os.setsid()  # or all of our session would give way to everybody from here on
        asked: list[bool] = []

        def compile_nothing(*_: object, in_waves: bool = False, **__: object) -> None:
            asked.append(in_waves)

        vars(compile_worker)["compile_entries"] = compile_nothing
        value = {
            "root": store.root,
            "durable": False,
            "interpreter": asdict(base()),
            "directories": [directory],
            "log": str(tmp_path / "log"),
        }
        with store.session() as lease:
            job = compile_worker._hand_over(store.layout, lease, codec.dumps(value))
        os.dup2(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT), 1)
        compile_worker.serve(job)
        return asked

    assert together(serve) == [[True]]


# What may happen between two parts.


def test_what_is_published_can_be_imported_before_there_is_a_record(
    store: Store, add: Callable[..., str]
) -> None:
    directory = add()
    second = {place(path) for path in WAVES[1]}

    def stop(name: str, path: str) -> None:
        if name == "rename" and any(path.endswith(each) for each in second):
            # To this thread, which goes no step further; to the process, some other thread might be the first.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    def work() -> None:
        fs.on_effect = stop
        in_waves(store, directory)

    site = entry_of(store, directory) / "site-packages"
    with paused_at(0, work) as paused:
        assert paused is not None
        assert pycs(store, directory) == sorted(WAVES[0])
        assert not is_compiled(store.layout, directory, base())
        code = f"import sys; sys.path.insert(0, {str(site)!r}); import pear; print(pear._core.value)"
        command = [base().real, "-I", "-B", "-v", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == "ripe\n"
        for path in WAVES[0]:
            assert f"# code object from '{entry_of(store, directory) / place(path)}'" in done.stderr
        # What is there without a record is no damage.
        assert check_entry(store, directory, full=True).problems == ()
    assert pycs(store, directory) == sorted(WAVES[0])
    assert in_waves(store, directory)[0].state == "compiled"
    check(store, directory)


@pytest.mark.slow
def test_compiling_in_waves_killed_anywhere_is_made_good_by_the_next(
    store: Store, add: Callable[..., str]
) -> None:
    directories = [add("pear"), add("pear2")]
    entries = store.layout.of("entries")
    in_waves(store, *directories)
    whole = tree(entries)
    contents = set(whole.values())
    points = 0

    def prepare() -> None:
        for directory in directories:
            remove_record(store, directory, base().cache_tag)

    for point, _ in each_kill(prepare, lambda _: in_waves(store, *directories)):
        points = point
        assert set(tree(entries)) <= set(whole), point
        for path, (mode, content) in tree(entries).items():
            if path.endswith(".pyc"):
                assert (mode, content) in contents, point
        for directory in directories:
            if is_compiled(store.layout, directory, base()):
                record = read_record(store.layout, directory, base().cache_tag)
                assert record is not None
                assert {file.path for file in record.files} == {
                    path.removeprefix(f"{directory}/")
                    for path in whole
                    if path.startswith(directory) and path.endswith(".pyc")
                }, point
        in_waves(store, *directories)
        assert tree(entries) == whole, point
        wait_until(lambda: not sweep.collect(store, Policy(max_age=3600, grace=3600)).problems)
        assert litter(store) == [], point
    assert points > 60


def test_several_at_once_leave_what_one_does(store: Store, add: Callable[..., str]) -> None:
    directories = [add(name) for name in ("a", "b", "c", "pear")]
    in_waves(store, *directories)
    whole = tree(store.layout.of("entries"))
    for directory in directories:
        remove_record(store, directory, base().cache_tag)
    found = together(
        *[lambda: [result.state for result in in_waves(store, *directories)]] * 2,
        lambda: [at_once(store, directory).state for directory in directories[::-1]],
    )
    assert set(chain.from_iterable(found)) <= {"compiled", "present"}
    assert tree(store.layout.of("entries")) == whole
    check(store, directories[-1])
    assert litter(store) == []


def test_what_somebody_else_has_finished_meanwhile_is_left(
    store: Store, add: Callable[..., str], between_waves: Callable[..., None]
) -> None:
    directory = add()
    results: list[CompiledEntry] = []
    inodes: list[dict[str, int]] = []

    def finish() -> None:
        results.append(at_once(store, directory))
        inodes.append({path: os.stat(entry_of(store, directory) / place(path)).st_ino for path in GOOD})

    between_waves(directory, finish)
    events: list[Event] = []
    (result,) = in_waves(store, directory, watch=events.append)
    assert (results[0].state, result.state) == ("compiled", "present")
    assert inodes == [{path: os.stat(entry_of(store, directory) / place(path)).st_ino for path in GOOD}]
    assert sum(event.size for event in events) == len(PEAR)
    check(store, directory)


@pytest.mark.parametrize("how", ["removed", "another", "changed"])
def test_what_somebody_else_did_to_the_first_part_is_made_good_with_the_last(
    store: Store, add: Callable[..., str], between_waves: Callable[..., None], how: str
) -> None:
    """As by a repair, by one who compiles for another magic number, or by root."""
    directory = add()
    pyc = entry_of(store, directory) / place("pear/_core.py")

    def interfere() -> None:
        if how == "removed":
            remove_record(store, directory, base().cache_tag)
        elif how == "changed":
            pyc.chmod(0o644)
            pyc.write_bytes(b"strange")
        else:
            older = Path(record_path(store.layout, directory, base().cache_tag, "00000d0a"))
            for target, data in ((pyc, b"strange"), (older, b"{}")):
                target.parent.chmod(0o755)
                target.with_suffix(".new").write_bytes(data)
                target.with_suffix(".new").rename(target)
                target.parent.chmod(0o555)

    between_waves(directory, interfere)
    events: list[Event] = []
    (result,) = in_waves(store, directory, watch=events.append)
    assert (result.state, result.modules) == ("compiled", len(GOOD))
    assert sum(event.size for event in events) == len(PEAR)
    check(store, directory)
    assert len(os.listdir(entry_of(store, directory) / "bytecode")) == 1


def test_an_environment_that_links_to_what_is_there_changes_nothing(
    store: Store, add: Callable[..., str], between_waves: Callable[..., None], tmp_path: Path
) -> None:
    """Hard links of pycs are no reason to compile them again."""
    directory = add()
    pyc = entry_of(store, directory) / place("pear/_core.py")
    between_waves(directory, lambda: os.link(pyc, tmp_path / "link"))
    in_waves(store, directory)
    assert os.path.samefile(pyc, tmp_path / "link")


def test_an_entry_that_somebody_else_has_between_two_parts_comes_last(
    store: Store, add: Callable[..., str], between_waves: Callable[..., None]
) -> None:
    directory = add()
    held = hold(store.layout.of("holds", shard("compile", directory)))
    between_waves(directory, held.__enter__)
    events: list[Event] = []

    def watch(event: Event) -> None:
        events.append(event)
        if event.kind == "waiting":
            assert pycs(store, directory) == sorted(WAVES[0])
            held.__exit__(None, None, None)

    (result,) = in_waves(store, directory, watch=watch)
    assert result.state == "compiled"
    assert Event(kind="waiting", subject=f"another vrfstore that compiles {directory}") in events
    check(store, directory)


def test_an_entry_that_was_replaced_between_two_parts_gets_no_more_of_them(
    store: Store, add: Callable[..., str], between_waves: Callable[..., None]
) -> None:
    directory = add()

    def exchange() -> None:
        fs.remove_tree(store.layout.of("entries", directory))
        assert add() == directory

    between_waves(directory, exchange)
    assert in_waves(store, directory) == [CompiledEntry(directory=directory, state="gone")]
    assert pycs(store, directory) == []
    assert litter(store) == []


def test_an_entry_that_fails_stops_nobody(store: Store, add: Callable[..., str]) -> None:
    """One source is missing in the first wave, one in the last."""
    first, last, good = add("a"), add("b"), add("pear")
    for directory, module in ((first, "a/__init__.py"), (last, "b/tests/__init__.py")):
        (entry_of(store, directory) / "site-packages" / module).unlink()
    results = in_waves(store, first, last, good)
    assert [result.state for result in results] == ["failed", "failed", "compiled"]
    for result, module in zip(results, ("a/__init__.py", "b/tests/__init__.py"), strict=False):
        assert isinstance(result.problem, StoreDamagedError)
        assert str(result.problem.path).endswith(module)
        assert not is_compiled(store.layout, result.directory, base())
    check(store, good)
    assert litter(store) == []


@pytest.mark.usefixtures("one_at_a_time")
def test_a_disk_that_becomes_full_keeps_the_first_part_and_ends_it(
    store: Store, add: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = add()

    def full(name: str, path: str) -> None:
        if name == "rename" and path.endswith(place("pear/leaf.py")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    with monkeypatch.context() as patch:
        patch.setattr(fs, "on_effect", full)
        with pytest.raises(OSError, match="No space left"):
            in_waves(store, directory)
    assert set(WAVES[0]) <= set(pycs(store, directory)) < set(GOOD)
    assert not is_compiled(store.layout, directory, base())
    assert litter(store) == []
    assert in_waves(store, directory)[0].state == "compiled"
    check(store, directory)


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize(("mode", "begun"), [(0o444, True), (0o644, False)], ids=["ours", "of root's Python"])
def test_an_entry_that_somebody_else_has_begun_comes_last_and_at_once(
    store: Store, add: Callable[..., str], monkeypatch: pytest.MonkeyPatch, mode: int, begun: bool
) -> None:
    kiwi, fig = add("kiwi"), add("fig")
    pyc = entry_of(store, kiwi) / place("kiwi/_core.py")
    pyc.parent.chmod(0o755)
    pyc.write_bytes(b"")
    pyc.chmod(mode)
    came: list[str] = []

    def effect(name: str, path: str) -> None:
        if name == "rename" and path.endswith(".pyc"):
            came.append(path.removeprefix(store.layout.of("entries", "")).lstrip("/").partition("/")[0])

    monkeypatch.setattr(fs, "on_effect", effect)
    results = in_waves(store, kiwi, fig)
    assert [result.state for result in results] == ["compiled", "compiled"]
    assert (came == [*[fig] * len(GOOD), *[kiwi] * len(GOOD)]) == begun
    if not begun:
        assert came[:2] == [kiwi] * 2
    for name, directory in (("kiwi", kiwi), ("fig", fig)):
        record = read_record(store.layout, directory, base().cache_tag)
        assert record is not None
        assert len(record.files) == len(GOOD), name
