"""Processes that are killed, race or are somebody else; environments to do it to; and what a store then holds."""

from __future__ import annotations

import functools
import hashlib
import importlib
import itertools
import os
import pickle
import signal
import stat
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

from vrfstore import interpreter
from vrfstore.linker.link import environment_key, link
from vrfstore.model import Digest, Interpreter
from vrfstore.store import leases
from vrfstore.store.compiling import compile_entries
from vrfstore.store.layout import DEAD_PREFIX, STAGING_PREFIX
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.store import Store

T = TypeVar("T")

LOCK = "0" * 64
"""The lock of an environment for which none is given."""

NOBODY = 65534


_CHANGES = frozenset(
    f"os.{name}"
    for name in ("chmod", "link", "mkdir", "remove", "rename", "rmdir", "symlink", "truncate", "utime")
)
"""The audit events of system calls that change a file system; opening a new file is one more."""


SAMPLE = 30
"""At least how many of its steps an action is killed at, where it has as many and not ``every_step`` is tried."""

every_step = False
"""Whether ``each_kill`` leaves out no step; conftest.py sets it."""

kills: dict[str, tuple[int, int]] = {}
"""By test: how many times something was killed, and how many steps there were to kill it at."""


def arm(
    point: int, reach: Callable[[], None] | None = None, events: list[str] | None = None
) -> Callable[[], int]:
    """Let this process be killed at its ``point``-th step from now; never for 0.

    A step is the moment before a system call that changes something, announced to ``fs.on_effect`` or not, or
    the middle of a write.

    Args:
        point: Which.
        reach: Is done there instead of being killed.
        events: Where to write down of each step what it was: an audit event, or ``write``.

    Returns:
        What disarms it again, and returns how many steps there were.
    """
    sys.dont_write_bytecode = True
    reached = die if reach is None else reach
    steps = itertools.count(1)
    seen = 0
    armed = True

    def last(event: str) -> bool:
        nonlocal seen
        if armed:
            seen = next(steps)
            if events is not None:
                events.append(event)
        return armed and seen == point

    def audit(event: str, details: tuple[object, ...]) -> None:
        creates = event == "open" and isinstance(details[2], int) and details[2] & os.O_CREAT
        if (creates or event in _CHANGES) and last(event):
            reached()

    def write(call: Callable[..., int], descriptor: int, data: memoryview, *offset: int) -> int:
        done = 0
        if last("write"):
            done = call(descriptor, data[: len(data) // 2], *offset)
            reached()
        return done + call(descriptor, data[done:], *(position + done for position in offset))

    def disarm() -> int:
        nonlocal armed
        armed = False
        return seen

    sys.addaudithook(audit)
    for name in ("write", "pwrite"):
        setattr(os, name, functools.partial(write, getattr(os, name)))
    return disarm


def killed_at(point: int, action: Callable[[], object]) -> bool:
    """Run an action in a process that is killed at its ``point``-th step; returns whether it had so many."""
    return _run_until(point, action) is None


def count_steps(action: Callable[[], object]) -> int:
    """Run an action in a process; return at how many steps it could have been killed."""
    steps = _run_until(0, action)
    assert steps is not None
    return steps


def _run_until(point: int, action: Callable[[], object]) -> int | None:
    """Run an action in a process that is killed at a step, see ``arm``; return how many it had if it was not."""
    read, write = os.pipe()

    def doomed() -> None:
        disarm = arm(point)
        action()
        os.write(write, str(disarm()).encode())

    pid = _fork(doomed)
    os.close(write)
    with open(read, "rb") as stream:
        answer = stream.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    assert status == 0, "it failed, see its traceback"
    return int(answer)


def events_of(action: Callable[[], object]) -> list[str]:
    """Run an action in a process; return what each of its steps was, see ``arm``."""

    def watched() -> list[str]:
        events: list[str] = []
        disarm = arm(0, events=events)
        action()
        disarm()
        return events

    return together(watched)[0]


class Paused:
    """A process that has been stopped in the middle of something, until ``kill`` or ``go_on``."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = False

    def kill(self) -> None:
        """End it where it is; nothing is done where it has ended."""
        if not self._ended:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._ended = True

    def go_on(self) -> None:
        """Let it end by itself, which it has to do well."""
        os.kill(self._pid, signal.SIGCONT)
        _, status = os.waitpid(self._pid, 0)
        self._ended = True
        assert status == 0, "it failed, see its traceback"


@contextmanager
def paused_at(point: int, action: Callable[[], object]) -> Iterator[Paused | None]:
    """Run an action in a process that is stopped at its ``point``-th step, see ``arm``; None if it had none such."""

    def doomed() -> None:
        disarm = arm(point, lambda: os.kill(os.getpid(), signal.SIGSTOP))
        action()
        disarm()

    pid = _fork(doomed)
    _, status = os.waitpid(pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        paused = Paused(pid)
        try:
            yield paused
        finally:
            paused.kill()
    else:
        assert status == 0, "it failed, see its traceback"
        yield None


def sampled(steps: int, most: int = SAMPLE) -> list[int]:
    """Return at which of so many steps, counted from 1, to kill: at all of them, or at some and the last ones.

    Args:
        steps: How many there are.
        most: At how many, evenly spread, where not all are wanted; the last ones come on top.
    """
    if every_step or steps <= most:
        return list(range(1, steps + 1))
    return sorted({*(1 + steps * number // most for number in range(most)), *range(steps - 2, steps + 1)})


def each_kill(prepare: Callable[[], T], action: Callable[[T], object]) -> Iterator[tuple[int, T]]:
    """Let an action end by itself, to count its steps; then kill it at its first step, and so on to its last.

    Unless ``every_step`` is wanted, at about ``SAMPLE`` of them.

    Yields, after each attempt, the number of the step and what had been prepared for it; for the one that ended by
    itself, the number is one more than there are steps.
    """
    prepared = prepare()
    steps = count_steps(functools.partial(action, prepared))
    yield steps + 1, prepared
    for point in sampled(steps):
        prepared = prepare()
        if killed_at(point, functools.partial(action, prepared)):
            count_kill(steps)
        yield point, prepared


def count_kill(steps: int) -> None:
    """Note that the test that runs has killed something that has so many steps."""
    test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
    done, _ = kills.get(test, (0, 0))
    kills[test] = done + 1, steps


def die() -> NoReturn:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def together(*actions: Callable[[], T]) -> list[T]:
    """Run each action in a process of its own, all from one moment on; return their results in order."""
    start, go = os.pipe()
    running = []
    for action in actions:
        read, write = os.pipe()
        running.append((_fork(functools.partial(_report, action, start, go, write)), read))
        os.close(write)
    os.close(start)
    os.close(go)
    results = []
    for pid, read in running:
        with open(read, "rb") as stream:
            answer = stream.read()
        _, status = os.waitpid(pid, 0)
        assert status == 0, "it failed, see its traceback"
        results.append(pickle.loads(answer))  # noqa: S301 - from our own child
    return results


_LOADED_LATE = ("datetime", "filelock", "hashlib", "json", "tomllib")
"""What is imported when it is needed, and lies where the user without privileges may not be able to read."""


def as_nobody(action: Callable[[], T]) -> T:
    """Run an action in a process of a user without privileges; root only."""
    for name in _LOADED_LATE:
        importlib.import_module(name)

    def unprivileged() -> T:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return action()

    return together(unprivileged)[0]


def _report(action: Callable[[], object], start: int, go: int, write: int) -> None:
    os.close(go)
    os.read(start, 1)  # returns when the last one who could write has closed it
    with open(write, "wb") as stream:
        stream.write(pickle.dumps(action()))


def _fork(action: Callable[[], object]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        action()
        code = 0
    except BaseException:  # noqa: BLE001 - must not go on as a second pytest
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def tree(root: str | Path, *, without: tuple[str, ...] = ()) -> dict[str, tuple[str, bytes]]:
    """Return everything below a directory by relative path: mode, and content or target; not its ``without``."""
    found = {}
    for directory, names, files in os.walk(root):
        for name in names + files:
            path = os.path.join(directory, name)
            place = os.path.relpath(path, root)
            if place.split("/")[0] not in without:
                found[place] = (stat.filemode(os.lstat(path).st_mode), _content(path))
    return found


def _content(path: str) -> bytes:
    if os.path.islink(path):
        return os.readlink(path).encode()
    return b"" if os.path.isdir(path) else Path(path).read_bytes()


def stats(place: Path) -> dict[str, tuple[int, ...]]:
    """Return of everything in a directory what tells that it was not touched."""
    found: dict[str, tuple[int, ...]] = {}
    for parent, names, files in os.walk(place):
        for name in (*names, *files, "."):
            seen = os.lstat(os.path.join(parent, name))
            found[os.path.join(parent, name)] = (
                seen.st_ino,
                seen.st_mtime_ns,
                seen.st_ctime_ns,
                seen.st_mode,
            )
    return found


def litter(store: Store) -> list[str]:
    """Return what a store holds that nobody published and nobody will need."""
    found = [name for name in os.listdir(store.root) if name.startswith(".")]
    for part, prefixes in (
        ("entries", (STAGING_PREFIX, DEAD_PREFIX)),
        ("environments", (STAGING_PREFIX, DEAD_PREFIX)),
        ("tmp", ("",)),
        ("leases", ("",)),
        ("gc", ("condemned",)),
    ):
        names = os.listdir(store.layout.of(part))
        found += [f"{part}/{name}" for name in names if name.startswith(prefixes)]
    return found


def dangling(directory: str) -> list[str]:
    """Return the symlinks at and below a directory that lead nowhere."""
    found = []
    for parent, names, files in os.walk(directory):
        for name in names + files:
            try:
                os.stat(os.path.join(parent, name))
            except FileNotFoundError:
                found.append(os.path.join(parent, name))
            except PermissionError:  # somewhere that this user may not look
                continue
    return found


def reachable(environment: str | Path) -> frozenset[str]:
    """Return the paths of everything in an environment, through all links, but for what a kill left on its way.

    Raises:
        FileNotFoundError: One leads nowhere.
    """
    found = set()
    for parent, directories, files in os.walk(environment, followlinks=True):
        for name in (*directories, *files):
            path = os.path.join(parent, name)
            if not name.startswith(".vrfstore-"):
                os.stat(path)
                found.add(os.path.relpath(path, environment))
    return frozenset(found)


@functools.cache
def base() -> Interpreter:
    """Return the interpreter that environments are made for."""
    return interpreter.probe(interpreter.default_executable())


def wheel_digest(wheel: Path) -> Digest:
    """Return what names the entry of a wheel."""
    return Digest(hashlib.sha256(wheel.read_bytes()).hexdigest())


def make_environment(store: Store, *wheels: Path, lock: str = LOCK) -> EnvironmentRecord:
    """Make the environment of some wheels as ``runner.link`` does, without asking any index."""
    digests = [wheel_digest(wheel) for wheel in wheels]
    key = environment_key(digests, base())
    with leases.take(store.layout, environment=key, digests=digests, lock=lock) as lease:
        names = [wheel.name.split("-")[:2] for wheel in wheels]
        store.await_entries(
            (digest, name, version) for digest, (name, version) in zip(digests, names, strict=True)
        )
        plans = [store.add(wheel).plan for wheel in wheels]
        record, _ = link(store, lease, plans, base(), key=key, lock=lock)
    return record


def compile_entry(store: Store, directory: str) -> None:
    """Compile an entry, by its directory name, for our own Python."""
    with store.session() as lease:
        (done,) = compile_entries(
            store, base(), [directory], lease=lease, watch=lambda _event: None, processes=1
        )
    assert done.state == "compiled"
