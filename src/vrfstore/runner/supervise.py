"""Running a command beside it instead of becoming it, to see how it ends and what it said last on stderr.

::

    caller ── signals ──▶ supervisor ── signals ──▶ command ── stderr ──▶ supervisor ──▶ stderr
                              └── ends as the command did (exit code, signal, a stop)

The command is in our process group, so that a terminal and whoever kills the group reach it as before. What the
kernel sends to the group (Ctrl-C, Ctrl-Z) it has got already; what somebody sends to us alone is passed on. When we
are killed it is killed as well (prctl(2), PR_SET_PDEATHSIG), as it would have been in our place. A terminal on stderr
is given as a terminal (pty(7)), whose bytes are passed on unchanged.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import select
import signal
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Callable, Mapping, Sequence

from vrfstore.values import dataclass, field

__all__ = ["TAIL", "Ended", "end_alike", "supervise"]

TAIL = 1 << 18
"""Bytes of stderr that are kept: a traceback of a notebook with its source has some 20 kB."""

_CHUNK = 1 << 16
_PR_SET_PDEATHSIG = 1

# What a program does to itself, or nobody can catch.
_OWN = {
    signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT,
    signal.SIGTRAP, signal.SIGSYS, signal.SIGPIPE,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    Attributes:
        status: As of waitpid(2).
        tail: The last bytes that it wrote to stderr.
    """

    status: int
    tail: bytes

    @property
    def failed(self) -> bool:
        """Whether it ended with another code than 0."""
        return os.waitstatus_to_exitcode(self.status) != 0


@dataclass(slots=True)
class _Relay:
    """Passes stderr on, and keeps its end."""

    source: int
    tail: bytes = b""
    is_open: bool = True
    _stop: tuple[int, int] = field(default_factory=os.pipe)

    def run(self) -> None:
        """Pass on what comes, until nobody can write any more; once stopped, only what is there already."""
        poll = select.poll()
        for descriptor in (self.source, self._stop[0]):
            poll.register(descriptor, select.POLLIN)
        while self.is_open:
            ready = [descriptor for descriptor, _ in poll.poll()]
            if self.source not in ready:
                return
            self._pass_on()

    def _pass_on(self) -> None:
        data = _read(self.source)
        self.tail = (self.tail + data)[-TAIL:]
        # Where nobody reads stderr any more, the command is to find out as it would without us.
        if not data or not _write(data):
            os.close(self.source)
            self.is_open = False

    def stop(self) -> None:
        """Let ``run`` return once it has passed on what is there."""
        os.write(self._stop[1], b".")

    def leave(self, inherited: Sequence[int]) -> None:
        """Leave what is still open to a process of its own: the command has children that may write later.

        Args:
            inherited: Descriptors that are nothing to it.
        """
        if not self.is_open or os.fork():
            return
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_RDWR)
            # Whoever waits for the end of our output waits for the children's stderr, and for nothing else of ours.
            for descriptor in (0, 1, *inherited):
                os.dup2(nowhere, descriptor)
            while (data := _read(self.source)) and _write(data):
                pass
        os._exit(0)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _CHUNK)
    except OSError as error:
        if error.errno == errno.EIO:  # so a terminal ends
            return b""
        raise


def _write(data: bytes) -> bool:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(2, view) :]
    except OSError:
        return False
    return True


def supervise(
    command: Sequence[str],
    variables: Mapping[str, str],
    inherited: Sequence[int],
    then: Callable[[Ended], object],
) -> Ended:
    """Run a command to its end, with stdin and stdout of ours, and all descriptors that can be inherited.

    Args:
        command: What to run; looked up on the PATH of ``variables``.
        variables: Its environment.
        inherited: Descriptors that keep something for the command and its children, and not for longer.
        then: Called when it has ended and all that it wrote has been passed on.

    Raises:
        OSError: It cannot be executed (execve(2)).
    """
    numbers = signal.valid_signals() - _OWN
    handled = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        source, sink = _pair()
        try:
            running = subprocess.Popen(
                list(command),
                env=dict(variables),
                stderr=sink,
                close_fds=False,
                preexec_fn=_prepared(before, handled),  # noqa: PLW1509 - no thread of ours is running
            )
        except BaseException:
            os.close(source)
            raise
        finally:
            os.close(sink)
        relay = _Relay(source)
        thread = threading.Thread(target=relay.run, name="stderr", daemon=True)
        thread.start()
        status = _attend(running, numbers, source)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if handled is not None:
            signal.signal(signal.SIGCHLD, handled)
    relay.stop()
    thread.join()
    ended = Ended(status, relay.tail)
    then(ended)
    relay.leave(inherited)
    return ended


def _pair() -> tuple[int, int]:
    """Return two ends for the stderr of a command: of a terminal where ours is one, else of a pipe."""
    if not os.isatty(2):
        return os.pipe()
    source, sink = os.openpty()
    tty.setraw(sink)  # what has to become of line ends does so in the terminal that is behind
    _copy_size(source)
    return source, sink


def _copy_size(source: int) -> None:
    with contextlib.suppress(OSError):
        size = fcntl.ioctl(2, termios.TIOCGWINSZ, b"\0" * 8)
        fcntl.ioctl(source, termios.TIOCSWINSZ, size)


def _prepared(mask: set[int | signal.Signals], handled: object) -> Callable[[], None]:
    """Return what the child does before it becomes the command."""
    library = ctypes.CDLL(None, use_errno=True)  # nothing is loaded any more between fork and exec
    parent = os.getpid()

    def prepare() -> None:
        library.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it was killed before that
            os._exit(128 + signal.SIGKILL)
        if handled == signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    return prepare


def _attend(running: subprocess.Popen[bytes], numbers: set[signal.Signals], source: int) -> int:
    """Pass signals on until the command has ended; return its status."""
    while True:
        told = signal.sigwaitinfo(numbers)
        if told.si_signo == signal.SIGCHLD:
            pid, status = os.waitpid(running.pid, os.WNOHANG | os.WUNTRACED)
            if not pid:
                continue
            if not os.WIFSTOPPED(status):
                running.returncode = os.waitstatus_to_exitcode(status)
                return status
            # Whoever started us waits for us to stop, as a shell does after Ctrl-Z.
            os.kill(os.getpid(), signal.SIGSTOP)
            running.send_signal(signal.SIGCONT)
        elif told.si_signo == signal.SIGWINCH:
            _copy_size(source)
        elif told.si_code <= 0:  # from a process (sigaction(2)), and not from a terminal to the whole group
            running.send_signal(told.si_signo)


def end_alike(status: int) -> int:
    """End as a command did: by the same signal, or return the exit code to end with.

    Args:
        status: As of waitpid(2).
    """
    if not os.WIFSIGNALED(status):
        return os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    # The command has left its core, and ours would be in the place of it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    # The first process of a container is not ended by signals that it does not handle (pid_namespaces(7)).
    return 128 + number
