"""What the kernel says of now: its clocks, which boot this is, and which processes run (proc(5), namespaces(7)).

A lease may name a process or a time. Whether it has ended is asked here, so that tests can answer otherwise.
"""

from __future__ import annotations

import errno
import os
import re
import time

from vrfstore.values import dataclass

__all__ = ["Machine", "Process"]

_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)

# proc_pid_stat(5) counts fields from 1; what follows the name, which may hold anything, begins with the third.
_STATE, _THREADS, _START = 3 - 3, 20 - 3, 22 - 3


@dataclass(frozen=True, slots=True)
class Process:
    """A process that has a number.

    Attributes:
        pid: The number.
        start: When it was started: clock ticks since boot, field 22 of ``/proc/PID/stat``. With the number it tells a
            process from all others of this boot.
        ended: Whether nothing of it runs any more: a zombie, which only waits for its parent to ask how it ended.
    """

    pid: int
    start: int
    ended: bool = False


class Machine:
    """The machine that this process runs on."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc

    def since_boot(self) -> float:
        """Return seconds since boot, those asleep among them (CLOCK_BOOTTIME): nobody can set this clock."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        """Return seconds since the epoch, as far as this machine knows."""
        return time.time()

    def boot(self) -> str:
        """Return what names this boot: 32 hexadecimal digits (``/proc/sys/kernel/random/boot_id``).

        Raises:
            OSError: It cannot be read.
        """
        path = f"{self._proc}/sys/kernel/random/boot_id"
        found = _text(path).strip().replace("-", "")
        if not _ID.fullmatch(found):
            raise OSError(errno.EINVAL, "it names no boot", path)
        return found

    def namespace(self) -> int:
        """Return the inode of the pid namespace in which this process has its number.

        Raises:
            OSError: It cannot be read, or ``/proc`` shows the numbers of another namespace.
        """
        status = f"{self._proc}/self/status"
        text = _text(status)
        numbers = re.search(r"^NSpid:\t(.*)$", text, re.MULTILINE)
        # One number for each namespace, from that of the mount inwards: a second one is what we are called by kill(2).
        if numbers is None or len(numbers[1].split()) != 1:
            raise OSError(errno.EXDEV, "it shows the processes of another pid namespace", status)
        return os.stat(f"{self._proc}/self/ns/pid").st_ino

    def process(self, pid: int) -> Process | None:
        """Return the process of a number in our own pid namespace; None where there is none.

        Raises:
            OSError: There is one, and nothing can be read of it; see ``namespace``, too.
        """
        self.namespace()
        if pid < 1:  # what kill(2) takes for several processes
            return None
        path = f"{self._proc}/{pid}/stat"
        try:
            text = _text(path)
        except (FileNotFoundError, ProcessLookupError):
            # A mount with hidepid=invisible shows no processes of others; a signal that is none finds them.
            try:
                os.kill(pid, 0)
            except (ProcessLookupError, OverflowError):
                return None
            raise
        fields = text.rpartition(")")[2].split()
        try:
            state, threads, start = fields[_STATE], int(fields[_THREADS]), int(fields[_START])
        except (IndexError, ValueError) as error:
            raise OSError(errno.EINVAL, "it says nothing of a process", path) from error
        # Where only the first thread has ended, the state is that of a zombie too.
        return Process(pid, start, ended=state in {"Z", "X", "x"} and threads <= 1)


def _text(path: str) -> str:
    # At once: each read of a file of proc(5) is a look of its own.
    with open(path, "rb") as stream:
        return stream.read().decode("ascii", "replace")
