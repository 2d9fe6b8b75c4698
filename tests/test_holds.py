"""Holds: one owner at a time among threads and processes, whatever kills it."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest

from support.crash import together
from vrfstore.errors import BusyError
from vrfstore.store.holds import hold, shard

ROUNDS = 12


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A file to hold, which is not there yet."""
    return str(tmp_path / "hold")


def count_up(path: str, counter: Path) -> int:
    """Add to a number in a file in two steps, as only somebody who is alone may."""
    for _ in range(ROUNDS):
        with hold(path):
            number = int(counter.read_text())
            time.sleep(0.001)
            counter.write_text(str(number + 1))
    return 0


def test_processes_take_turns(path: str, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    together(*[functools.partial(count_up, path, counter)] * 4)
    assert counter.read_text() == str(4 * ROUNDS)


def test_threads_take_turns(path: str, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    threads = [Thread(target=count_up, args=(path, counter)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.read_text() == str(4 * ROUNDS)


@pytest.mark.parametrize(("timeout", "least", "most"), [(0, 0, 1), (0.2, 0.2, 2)])
def test_who_waited_long_enough_is_told_that_it_is_busy(
    path: str, timeout: float, least: float, most: float
) -> None:
    with hold(path):
        began = time.monotonic()
        with pytest.raises(BusyError) as caught, hold(path, timeout=timeout):
            pass
        assert least <= time.monotonic() - began < most
    assert (caught.value.exit_code, caught.value.kind) == (15, "busy")


def test_who_waits_is_told_so_once_and_who_does_not_is_not(path: str) -> None:
    told: list[str] = []
    with hold(path, on_wait=lambda: told.append("first")), pytest.raises(BusyError):  # noqa: SIM117 - in this order
        with hold(path, timeout=0.1, on_wait=lambda: told.append("second")):
            pass
    assert told == ["second"]


def test_a_hold_ends_with_its_block_also_by_an_error(path: str) -> None:
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(ZeroDivisionError), hold(path):
        raise ZeroDivisionError
    with hold(path, timeout=0):
        pass
    assert os.listdir("/proc/self/fd") == descriptors


def test_a_hold_ends_with_its_process(path: str) -> None:
    script = """if True:
        import sys, time
        from vrfstore.store.holds import hold
        with hold(sys.argv[1]):
            print(flush=True)
            time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(BusyError), hold(path, timeout=0):
            pass
        process.send_signal(signal.SIGKILL)
    with hold(path, timeout=0):
        pass


def test_a_hold_is_not_passed_on_to_what_its_owner_starts(path: str) -> None:
    with hold(path):
        process = subprocess.Popen(["sleep", "60"])
    with process:
        try:
            with hold(path, timeout=0):
                pass
        finally:
            process.kill()


def test_the_file_stays_and_is_the_same(path: str) -> None:
    inodes = set()
    for _ in range(3):
        with hold(path):
            inodes.add(os.stat(path).st_ino)
        inodes.add(os.stat(path).st_ino)
    assert len(inodes) == 1


def test_a_hold_does_not_follow_a_symlink(path: str, tmp_path: Path) -> None:
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(OSError, match="symbolic links"), hold(path):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_digests_share_a_few_thousand_holds_by_kind() -> None:
    assert shard("entry", "abcdef") == shard("entry", "abc000") == "entry-abc"
    assert shard("environment", "abcdef") != shard("entry", "abcdef") != shard("entry", "abd")
