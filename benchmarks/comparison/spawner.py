"""Starts commands and says what they took. A process of its own, in which nothing else is.

usage: python -I -S spawner.py

Each line on stdin is a request in JSON, each line on stdout the answer::

    {"commands": [{"words": […], "variables": {…}, "directory": …}, …], "timeout": seconds, "after": "wait"}
    {"ended": [{"wall": …, "processor": …, "peak": …, "status": …, "output": …}, …], "wall": …,
     "after_wall": …, "after_processor": …}

All commands of a request are started at once. ``peak`` is in bytes; what a process has had in memory before execve(2)
counts as its own, and so whoever starts it has to be small. What commands leave behind, as processes that go on
compiling, becomes a child of this process, which is its subreaper (prctl(2)). ``after`` is what is done with it:
``wait`` until it has ended, which is said apart, ``kill`` it, or leave it (``go on``).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import tempfile
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, BinaryIO  # not imported where it runs: it has to be small

_SUBREAPER = 36
_TAIL = 1 << 16
"""Bytes of the output of a command that are said."""


def main() -> None:
    """Answer until there are no more requests."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(answer(request["commands"], request["timeout"], request["after"])), flush=True)


def answer(commands: list[dict[str, Any]], timeout: float, then: str) -> dict[str, Any]:
    """Run commands side by side."""
    outputs = [tempfile.TemporaryFile() for _ in commands]  # noqa: SIM115 - closed when they have been read
    began = time.perf_counter()
    waiting: dict[int, int] = {}
    ended: list[dict[str, Any]] = [{} for _ in commands]
    for number, command in enumerate(commands):
        try:
            waiting[start(command, outputs[number].fileno())] = number
        except OSError as error:
            ended[number] = {"wall": 0.0, "processor": 0.0, "peak": 0, "status": 127, "output": str(error)}
    signal.signal(signal.SIGALRM, lambda *_: kill(waiting))
    signal.setitimer(signal.ITIMER_REAL, timeout)
    others = 0.0
    while waiting:
        pid, status, usage = os.wait4(-1, 0)
        wall = time.perf_counter() - began
        if pid not in waiting:  # left behind by a command, and over before it was asked for
            others += usage.ru_utime + usage.ru_stime
            continue
        number = waiting.pop(pid)
        ended[number] = {
            "wall": wall,
            "processor": usage.ru_utime + usage.ru_stime,
            "peak": usage.ru_maxrss * 1024,
            "status": os.waitstatus_to_exitcode(status),
        }
    wall = time.perf_counter() - began
    signal.setitimer(signal.ITIMER_REAL, 0)
    if then == "kill":
        kill_the_rest()
    others += reap() if then != "go on" else 0.0
    after = time.perf_counter() - began - wall
    for number, output in enumerate(outputs):
        ended[number].setdefault("output", tail(output))
        output.close()
    return {"ended": ended, "wall": wall, "after_wall": after, "after_processor": others}


def kill(groups: Iterable[int]) -> None:
    """End commands, with all that is in their process groups."""
    for group in list(groups):
        os.killpg(group, signal.SIGKILL)


def start(command: dict[str, Any], output: int) -> int:
    """Start a command in a process group of its own; returns its number."""
    os.chdir(command["directory"])
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        return os.posix_spawnp(
            command["words"][0],
            command["words"],
            command["variables"],
            file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
            setpgroup=0,
        )
    finally:
        os.close(null)


def kill_the_rest() -> None:
    """End all children, and those that become children as their parents end (proc(5))."""
    place = f"/proc/self/task/{os.getpid()}/children"
    while True:
        with open(place) as stream:
            children = stream.read().split()
        if not children:
            return
        for child in children:
            os.kill(int(child), signal.SIGKILL)
            os.waitpid(int(child), 0)


def reap() -> float:
    """Wait for all that is left; returns the seconds of processors that it took."""
    took = 0.0
    while True:
        try:
            _, _, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return took
        took += usage.ru_utime + usage.ru_stime


def tail(output: BinaryIO) -> str:
    """Return the end of what a command said."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _TAIL))
    return output.read().decode(errors="replace")


if __name__ == "__main__":
    main()
