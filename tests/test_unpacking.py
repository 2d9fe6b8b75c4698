"""Unpacking in processes: what becomes of it when they die, are interrupted, or live in strange surroundings."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

import vrfstore
from support.crash import litter, tree, wheel_digest
from support.wheels import Row, WheelSpec, build_wheel
from vrfstore.errors import VrfstoreError, WheelError
from vrfstore.gc import sweep
from vrfstore.gc.policy import Policy
from vrfstore.model import Digest, EntryReference
from vrfstore.store import unpacking
from vrfstore.store.ingest import Job, Staged, stage
from vrfstore.store.store import Added, Store
from vrfstore.store.unpacking import Unpackers
from vrfstore.store.zip_structure import Limits

T = TypeVar("T")

LEFTOVERS_ONLY = Policy(max_age=3600, grace=3600)
FOR_A_PROCESS = 1 << 18
"""Bytes of a wheel from which on it is unpacked in a process of its own."""

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="with one processor nothing is unpacked in other processes"
)


@pytest.fixture(autouse=True)
def _within_a_minute() -> Iterator[None]:
    """Fail, rather than hang."""

    def expire(_number: int, _frame: object) -> None:
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, 60)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


def large(name: str, files: int = 3, size: int = FOR_A_PROCESS, *, seed: int = 1) -> WheelSpec:
    """A wheel that is too large to be unpacked where it is asked for."""
    noise = random.Random(seed).randbytes(size)
    contents: dict[str, bytes | str] = {f"{name}/__init__.py": "", f"{name}/noise.bin": noise}
    contents |= {f"{name}/part{number}.txt": str(number) for number in range(files)}
    return WheelSpec(name=name, files=contents)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where wheels and pipes are put."""
    path = tmp_path / "wheels"
    path.mkdir()
    return path


@pytest.fixture
def wheels(folder: Path) -> list[Path]:
    """Three large wheels."""
    return [build_wheel(large(name, seed=seed), folder) for seed, name in enumerate(("ash", "elm", "oak"))]


class Gate:
    """A wheel that keeps the process that unpacks it busy for as long as the test wants: a FIFO."""

    def __init__(self, store: Store, folder: Path, name: str, size: int = FOR_A_PROCESS) -> None:
        self.path = folder / f"{name}-1.0-py3-none-any.whl"
        os.mkfifo(self.path)
        self.job = Job(
            path=str(self.path),
            filename=self.path.name,
            origin="",
            size=size,
            reference=EntryReference(digest=Digest("0" * 64), name=name, version="1.0", directory=name),
            staging=f"{store.root}/entries/.new-{name}",
            limits=Limits(),
        )

    def reached(self) -> bool:
        """Whether a process is waiting at it; if so, it goes on, with an empty wheel."""
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True


def until(found: Callable[[], T | None]) -> T:
    """Wait until something is found, and return it."""
    while not (answer := found()):
        time.sleep(0.001)
    return answer


def children(pid: int) -> list[int]:
    """Return the processes whose parent is ``pid``."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            parent = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == pid:
                found.append(int(name))
    return found


def unpackers_of(pid: int) -> list[int]:
    """Return those of them that unpack."""
    found = []
    for child in children(pid):
        with contextlib.suppress(OSError):
            if b"serve()" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def refused(future: Future[T]) -> VrfstoreError:
    error = future.exception()
    assert isinstance(error, VrfstoreError)
    return error


def test_the_largest_of_those_that_wait_is_unpacked_first(store: Store, folder: Path) -> None:
    busy = [Gate(store, folder, name) for name in ("one", "two")]
    sizes = {"small": 1, "large": 3, "medium": 2}
    waiting = [Gate(store, folder, name, FOR_A_PROCESS * size) for name, size in sizes.items()]
    with store.session() as lease, ThreadPoolExecutor(8) as pool, Unpackers(lease, 2) as unpackers:
        futures = [pool.submit(unpackers.stage, gate.job) for gate in busy]
        until(lambda: len(unpackers_of(os.getpid())) == 2)
        futures += [pool.submit(unpackers.stage, gate.job) for gate in waiting]
        until(lambda: len(unpackers._waiting) == 3)
        until(busy[0].reached)
        order = []
        left = list(waiting)
        while left:
            gate = until(lambda: next((gate for gate in left if gate.reached()), None))
            order.append(gate.job.reference.name)
            left.remove(gate)
        until(busy[1].reached)
    assert order == ["large", "medium", "small"]
    assert {refused(future).exit_code for future in futures} == {18}


def test_what_is_wrong_with_a_wheel_comes_through_whole(store: Store, folder: Path) -> None:
    def record(rows: list[Row]) -> list[Row]:
        return [replace(row, size="1") if row.path == "bad/part1.txt" else row for row in rows]

    spec = large("bad")
    wheel = build_wheel(
        replace(spec, files={**(spec.files or {}), "bad/part1.txt": "xy"}), folder, record=record
    )
    with pytest.raises(WheelError) as caught:
        store.add(wheel)
    error, other = store.add_all([wheel, build_wheel(large("good"), folder)])
    assert isinstance(error, WheelError)
    assert isinstance(other, Added)
    assert error.__dict__ == caught.value.__dict__
    assert (error.kind, error.member, error.exit_code) == ("wheel-record-mismatch", "bad/part1.txt", 18)
    assert litter(store) == []


def test_entries_are_the_same_wherever_they_are_unpacked(
    store: Store, tmp_path: Path, wheels: list[Path]
) -> None:
    alone = Store.open(tmp_path / "alone")
    for wheel in wheels:
        alone.add(wheel)
    assert all(isinstance(result, Added) and result.new for result in store.add_all(wheels))
    assert tree(f"{store.root}/entries") == tree(f"{alone.root}/entries")


def test_a_process_that_dies_takes_only_its_wheel_along(
    store: Store, folder: Path, wheels: list[Path]
) -> None:
    doomed, busy = Gate(store, folder, "doomed"), Gate(store, folder, "busy")
    with store.session() as lease, ThreadPoolExecutor(3) as pool, Unpackers(lease, 2) as unpackers:
        dying = pool.submit(unpackers.stage, doomed.job)
        (pid,) = until(lambda: unpackers_of(os.getpid()))
        other = pool.submit(unpackers.stage, busy.job)
        until(lambda: len(unpackers_of(os.getpid())) == 2)
        os.kill(pid, signal.SIGKILL)
        error = refused(dying)
        # In the place of the one that died.
        added = store._add(lease, str(wheels[0]), None, None, unpackers.stage)
        until(busy.reached)
        assert refused(other).exit_code == 18
    assert (error.kind, error.exit_code) == ("unpacker-died", 70)
    assert "doomed-1.0-py3-none-any.whl" in error.message
    assert "signal 9" in error.message
    assert error.hint
    assert added.new
    assert children(os.getpid()) == []


def test_what_a_process_that_died_had_staged_is_removed(
    store: Store, wheels: list[Path], folder: Path
) -> None:
    gate = Gate(store, folder, "gate")
    before = tree(store.root, without=("holds",))

    def half(job: Job) -> Staged:
        os.makedirs(f"{job.staging}/site-packages/ash", mode=0o555)
        return unpackers.stage(replace(job, path=gate.job.path))

    with store.session() as lease, ThreadPoolExecutor(1) as pool, Unpackers(lease, 2) as unpackers:
        dying = pool.submit(store._add, lease, str(wheels[0]), None, None, half)
        (pid,) = until(lambda: unpackers_of(os.getpid()))
        os.kill(pid, signal.SIGKILL)
        assert refused(dying).kind == "unpacker-died"
    assert tree(store.root, without=("holds",)) == before


@pytest.mark.slow
def test_of_many_wheels_one_whose_process_is_killed_half_way_is_missing(store: Store, folder: Path) -> None:
    wheels = [build_wheel(large(name, files=3000), folder) for name in ("ash", "elm")]
    wheels.append(build_wheel(large("oak"), folder))

    def half_way() -> int | None:
        staged = [name for name in os.listdir(f"{store.root}/entries") if name.startswith(".new-")]
        if not any(Path(f"{store.root}/entries", name, "site-packages/ash").exists() for name in staged):
            return None
        return next(iter(unpackers_of(os.getpid())), None)

    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(store.add_all, wheels)
        os.kill(until(half_way), signal.SIGKILL)
        results = adding.result()
    died = [result for result in results if isinstance(result, VrfstoreError)]
    assert [error.kind for error in died] == ["unpacker-died"]
    assert len(store.entries()) == 2
    assert litter(store) == []
    again = store.add_all(wheels)
    assert [isinstance(result, Added) and result.new for result in again] == [
        isinstance(result, VrfstoreError) for result in results
    ]


def driver(
    store: Store, code: str, *arguments: object, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a program that has opened the store, and has no guard for whoever imports it once more."""
    program = (
        f"import sys\nfrom vrfstore.store.store import Store\nstore = Store.open({store.root!r})\n{code}"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.path.dirname(__file__), **(environment or {})},
        start_new_session=True,
    )


STAGE_AT_A_GATE = """
import os
from pathlib import Path
from test_unpacking import Gate
from vrfstore.store.unpacking import Unpackers
with store.session() as lease, Unpackers(lease, 2) as unpackers:
    gate = Gate(store, Path(sys.argv[1]), "gate")
    os.makedirs(f"{store.root}/entries/.new-{lease.id}.half/x")
    unpackers.stage(gate.job)
"""


def test_what_a_killed_caller_leaves_counts_as_leased_until_its_processes_have_ended(
    store: Store, folder: Path
) -> None:
    running = driver(store, STAGE_AT_A_GATE, folder)
    (pid,) = until(lambda: unpackers_of(running.pid))
    # It has begun: nobody else opens this file.
    until(lambda: "gate" in "".join(os.listdir(folder)))
    running.kill()
    running.wait()
    sweep.collect(store, LEFTOVERS_ONLY)
    assert [name.endswith(".half") for name in os.listdir(store.layout.of("entries"))] == [True]
    gate = folder / "gate-1.0-py3-none-any.whl"

    def reached() -> bool:
        with contextlib.suppress(OSError):
            os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
            return True
        return is_gone(pid)

    until(reached)
    until(lambda: is_gone(pid))
    assert running.communicate() == ("", "")
    assert not sweep.collect(store, LEFTOVERS_ONLY).problems
    assert litter(store) == []
    assert os.listdir(store.layout.of("entries")) == []


@pytest.mark.parametrize("everybody", [True, False], ids=["terminal", "caller-only"])
def test_an_interrupted_addition_ends_at_once_and_leaves_nothing(
    store: Store, wheels: list[Path], everybody: bool
) -> None:
    command = [sys.executable, "-m", "vrfstore", "--store", store.root, "add", *map(str, wheels)]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    # While it is stopped, it is in the middle of something for ever.
    pid = until(lambda: unpackers_of(running.pid))[0]
    os.kill(pid, signal.SIGSTOP)
    if everybody:
        os.killpg(running.pid, signal.SIGINT)
    else:
        running.send_signal(signal.SIGINT)
    out, err = running.communicate()
    assert running.returncode in {128 + signal.SIGINT, -signal.SIGINT}
    assert (out, "Traceback" in err, err.count("\n") <= 1) == ("", False, True), err
    assert is_gone(pid)
    assert litter(store) == []


def test_an_interrupted_process_ends_without_a_word(
    store: Store, folder: Path, wheels: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    gate = Gate(store, folder, "gate")
    with store.session() as lease, ThreadPoolExecutor(1) as pool, Unpackers(lease, 2) as unpackers:
        assert store._add(lease, str(wheels[0]), None, None, unpackers.stage).new
        (pid,) = unpackers_of(os.getpid())
        interrupted = pool.submit(unpackers.stage, gate.job)
        until(lambda: not unpackers._idle)
        os.kill(pid, signal.SIGINT)
        assert "signal 2" in refused(interrupted).message
    assert capfd.readouterr().err == ""


def test_an_interruption_while_waiting_for_a_wheel_ends_its_process(store: Store, folder: Path) -> None:
    gate = Gate(store, folder, "gate")

    def interrupt() -> None:
        until(lambda: unpackers_of(os.getpid()))
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    with store.session() as lease, Unpackers(lease, 2) as unpackers:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            unpackers.stage(gate.job)
        thread.join()
        assert children(os.getpid()) == []


def test_who_waits_for_a_process_when_all_is_stopped_is_told(store: Store, folder: Path) -> None:
    gates = [Gate(store, folder, name) for name in ("one", "two", "three")]
    with store.session() as lease, ThreadPoolExecutor(3) as pool, Unpackers(lease, 2) as unpackers:
        futures = [pool.submit(unpackers.stage, gate.job) for gate in gates]
        until(lambda: len(unpackers_of(os.getpid())) == 2 and len(unpackers._waiting) == 1)
        unpackers.stop()
        kinds = sorted(refused(future).kind for future in futures)
        with pytest.raises(VrfstoreError, match=r"three-1\.0-py3-none-any\.whl was not unpacked"):
            unpackers.stage(gates[2].job)
    assert kinds == ["unpacker-died", "unpacker-died", "unpacker-stopped"]


def test_nothing_is_left_open_or_unburied(store: Store, wheels: list[Path]) -> None:
    store.add_all(wheels)
    gc.collect()  # stores of other tests
    before = os.listdir("/proc/self/fd")
    for wheel in wheels:
        sweep.collect(store, Policy(max_age=0, grace=0))
        store.add_all([wheel, *wheels])
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == len(before)  # one of them is the store's, for its syncs
    assert children(os.getpid()) == []


def test_a_process_forked_off_meanwhile_keeps_nobody_waiting(store: Store, wheels: list[Path]) -> None:
    with contextlib.ExitStack() as stack, store.session() as lease, Unpackers(lease, 2) as unpackers:
        assert store._add(lease, str(wheels[0]), None, None, unpackers.stage).new
        assert len(unpackers_of(os.getpid())) == 1
        bystander = os.fork()
        if bystander == 0:
            signal.pause()
        stack.callback(os.waitpid, bystander, 0)
        stack.callback(os.kill, bystander, signal.SIGKILL)


def test_callers_in_several_threads_do_not_disturb_each_other(store: Store, wheels: list[Path]) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = [result for found in pool.map(store.add_all, [wheels] * 4) for result in found]
    assert sum(isinstance(result, Added) and result.new for result in results) == len(wheels)
    assert len(store.entries()) == len(wheels)


def test_where_no_process_can_be_started_wheels_are_unpacked_all_the_same(
    store: Store, wheels: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", None)
    assert all(isinstance(result, Added) for result in store.add_all(wheels))


ADD_ALL = "print([result.new for result in store.add_all(sys.argv[1:])])"


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_closed_standard_streams_do_not_matter(store: Store, wheels: list[Path], closed: str) -> None:
    command = f'exec "$0" -m vrfstore --store "$@" {closed}'
    ran = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, store.root, "add", *wheels],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == [f"{wheel_digest(wheel)[:20]}-{wheel.name[:3]}-1.0" for wheel in wheels]


NOISY = """
import os, zlib as isal_zlib
print("noise", flush=True)
os.write(1, b"more noise")
"""


def test_what_prints_where_wheels_are_unpacked_is_not_taken_for_an_answer(
    store: Store, wheels: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "noisy/isal").mkdir(parents=True)
    (tmp_path / "noisy/isal/__init__.py").write_text(NOISY)
    environment = {"PYTHONPATH": str(tmp_path / "noisy")}
    running = driver(store, ADD_ALL, *wheels, environment=environment)
    out, err = running.communicate()
    assert (out.splitlines()[-1].endswith("[True, True, True]"), running.returncode) == (True, 0), err
    assert "noise" in err


def test_a_checkout_on_the_path_unpacks_with_its_own_code(store: Store, wheels: list[Path]) -> None:
    source = os.path.dirname(os.path.dirname(vrfstore.__file__))
    packages = [place for place in sys.path if place.endswith("site-packages")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, *packages])}
    ran = subprocess.run(
        [sys.executable, "-S", "-m", "vrfstore", "--store", store.root, "add", *wheels],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert (ran.returncode, ran.stderr, len(ran.stdout.split())) == (0, "", 3)


def test_variables_for_python_have_no_say(
    store: Store, wheels: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil").mkdir()
    for name in ("installer", "sitecustomize", "usercustomize", "signal"):
        (tmp_path / f"evil/{name}.py").write_text("raise SystemExit('evil')")
    variables = {"PATH": str(tmp_path / "evil"), "HOME": "/nonexistent", "INSPECT": "1", "WARNINGS": "error"}
    for name, value in variables.items():
        monkeypatch.setenv(f"PYTHON{name}", value)
    assert all(isinstance(result, Added) for result in store.add_all(wheels))


def test_an_odd_exception_comes_back_as_what_it_says() -> None:
    class LocalError(Exception):
        pass

    class NeedsTwoError(Exception):
        def __init__(self, one: str, other: str) -> None:
            super().__init__(one + other)

    import pickle

    for error in (LocalError("here"), NeedsTwoError("he", "re")):
        answer = pickle.loads(unpacking._pickled(error))  # noqa: S301 - our own
        assert isinstance(answer, RuntimeError)
        assert "here" in str(answer)
    full = OSError(28, "No space left on device", "/somewhere")
    answer = pickle.loads(unpacking._pickled(full))  # noqa: S301
    assert (answer.errno, answer.filename) == (28, "/somewhere")


def test_a_small_wheel_and_a_single_one_start_no_process(store: Store, folder: Path) -> None:
    small = [build_wheel(WheelSpec(name=name), folder) for name in ("ant", "bee")]
    called = []

    def started(*_: object, **__: object) -> None:
        called.append(1)
        raise OSError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", started)
        store.add_all([*small, build_wheel(large("ash"), folder)][:2])
        store.add_all([folder / "ash-1.0-py3-none-any.whl"])
        assert called == []
        store.add_all([build_wheel(large(name), folder) for name in ("elm", "oak")])
    assert called
    assert len(store.entries()) == 5


def test_staging_is_the_same_work_as_in_this_process(store: Store, folder: Path, tmp_path: Path) -> None:
    wheel = build_wheel(large("ash"), folder)
    job = replace(Gate(store, folder, "x").job, path=str(wheel), filename=wheel.name)
    with store.session() as lease, Unpackers(lease, 2) as unpackers:
        there = unpackers.stage(replace(job, staging=str(tmp_path / "there")))
    assert there == stage(replace(job, staging=str(tmp_path / "here")))


def test_where_processes_cannot_import_us_it_is_done_here(
    store: Store, wheels: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an editable installation whose hooks only ``site`` runs."""
    monkeypatch.setattr(unpacking, "_SERVE", "import sys; sys.exit(1)  # {path}")
    assert all(isinstance(added, Added) and added.new for added in store.add_all(wheels))
    assert children(os.getpid()) == []
