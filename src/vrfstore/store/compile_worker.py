"""Compiling by a process of its own, which outlives the link that wants it and gives way to everybody else.

::

    link ──start_worker──▶ /bin/sh ──▶ python: serve(job) ──▶ compile_entries, a line in logs/ for what was done

It is in a session of its own, has no lease on what it compiles, and is nobody's child.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from vrfstore import codec, fs
from vrfstore.errors import InterpreterError
from vrfstore.model import Interpreter
from vrfstore.store.bytecode import is_compiled
from vrfstore.store.compilers import environment
from vrfstore.store.compiling import CompiledEntry, compile_entries
from vrfstore.store.holds import locked
from vrfstore.store.layout import Layout
from vrfstore.store.leases import Lease
from vrfstore.store.store import Store
from vrfstore.values import asdict, replace

__all__ = ["serve", "start_worker"]

_SERVE = "import sys; sys.path[:] = {path!r}; from vrfstore.store.compile_worker import serve; serve({job})"

# The shell ends at once, so that the worker is nobody's child and nobody's zombie.
_DETACH = '"$@" &'


def start_worker(store: Store, interpreter: Interpreter, directories: Sequence[str], *, lease: Lease) -> bool:
    """Have entries compiled by a process that outlives this one, at low priority; return at once.

    It is in a session of its own, has no lease of ours, and is nobody's child. For one set of entries there is one
    worker, however often it is asked for: it holds its log, ``logs/compile-<digest>.log``.

    Args:
        store: The store.
        interpreter: The one that compiles.
        directories: The entries' directory names, such as those of an environment.
        lease: Names what is on its way until the worker has it.

    Returns:
        Whether one was started. Compiling is a matter of speed: what stands in the way of it is no error.
    """
    wanted = [name for name in directories if not is_compiled(store.layout, name, interpreter)]
    if not wanted or not sys.executable:
        return False
    identity = [interpreter.cache_tag, interpreter.magic, sorted(directories)]
    path = store.layout.of("logs", f"compile-{codec.digest_of(identity)[:32]}.log")
    with contextlib.suppress(OSError):
        log = _open_log(path)
        if log is None:
            return False
        try:
            job = {
                "root": store.root,
                "durable": store.durable,
                "interpreter": asdict(replace(interpreter, base=(), site_directories=())),
                "directories": wanted,
                "log": path,
            }
            return _detach(_hand_over(store.layout, lease, codec.dumps(job)), log)
        finally:
            os.close(log)
    return False


def _open_log(path: str) -> int | None:
    """Open a log to append to it, flocked; None where its worker is at work."""
    while True:
        with contextlib.suppress(FileExistsError):
            fs.write_file(path, b"")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        ours = locked(descriptor)
        # The last worker may just have removed it, as it had nothing to say.
        if ours and os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)
        if not ours:
            return None


def _hand_over(layout: Layout, lease: Lease, data: bytes) -> int:
    """Return a descriptor to read the data from, of a file that has no name any more.

    On a command line, names of entries would be taken for their use, and many of them are too long for one.
    """
    path = layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
    fs.write_file(path, data)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    fs.remove_file(path)
    return descriptor


def _detach(job: int, log: int) -> bool:
    """Start the worker; it has both descriptors from here on, and with the log its flock."""
    try:
        path = [os.path.abspath(place) for place in sys.path]
        shell = subprocess.Popen(
            ["/bin/sh", "-c", _DETACH, "sh", sys.executable, "-I", "-S", "-c",
             _SERVE.format(path=path, job=job)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[job],
            cwd="/",
            env=environment(),
            start_new_session=True,
        )  # fmt: skip
        return shell.wait() == 0
    finally:
        os.close(job)


def serve(job: int) -> None:
    """Be the worker: compile what a descriptor says, and print what became of it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _step_back()
    with open(job, "rb") as stream:
        value = codec.loads(stream.read())
    fields = value["interpreter"]
    interpreter = Interpreter(**{**fields, "base": (), "site_directories": ()})
    store = Store(Layout(value["root"]), value["durable"])
    try:
        with store.session() as lease:
            compile_entries(
                store,
                interpreter,
                value["directories"],
                lease=lease,
                watch=lambda _: None,
                report=_log,
                in_waves=True,
            )
    except (OSError, InterpreterError) as error:
        _print(f"error: {error}")
    log = os.fstat(1)
    if log.st_size == 0 and log.st_nlink:
        fs.remove_file(value["log"])


def _log(result: CompiledEntry) -> None:
    """Print a line for an entry that something was done for, and one for each module that does not compile."""
    if result.state == "compiled":
        _print(f"{result.directory}: compiled {result.modules}, failed {len(result.failed)}")
        for path, why in result.failed:
            _print(f"{result.directory}: {path}: {why}")
    elif result.problem is not None:
        _print(f"{result.directory}: error: {result.problem}")


def _print(text: str) -> None:
    line = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n"
    # In one write(2), since several threads print; and a full disk is not the worker's business.
    with contextlib.suppress(OSError):
        os.write(1, line.encode(errors="backslashreplace"))


_IOPRIO_SET = {
    "x86_64": 251,
    "i386": 289,
    "i686": 289,
    "aarch64": 30,
    "riscv64": 30,
    "ppc64le": 273,
    "s390x": 282,
}
"""The number of ioprio_set(2), which no libc has a function for, by ``os.uname().machine``."""

_WHO_PROCESS, _CLASS_IDLE = 1, 3 << 13


def _step_back() -> None:
    """Give way to everybody else: for processors, disks and memory. Where that may not be had, go on."""
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    for name, value in (
        # sched(7): between sessions, only the niceness of the session's group counts.
        ("autogroup", b"19"),
        # proc_pid_oom_score_adj(5): where memory runs out, it is the worker that goes.
        ("oom_score_adj", b"1000"),
    ):
        with contextlib.suppress(OSError):
            descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, value)
            finally:
                os.close(descriptor)
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        import ctypes  # noqa: PLC0415 - 5 ms, which only the worker pays

        with contextlib.suppress(OSError):
            ctypes.CDLL(None).syscall(number, _WHO_PROCESS, 0, _CLASS_IDLE)
