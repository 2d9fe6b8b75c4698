"""Whoever waits for threads hears a signal, however unluckily it comes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from vrfstore.threads import await_all, outcome, outcomes

PATIENCE = 30.0
"""Seconds until what should have been interrupted ends by itself."""


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        threads.submit(int).result()  # who is told to end while a thread is started does not know of it
        yield threads


WAITS: dict[str, Callable[[ThreadPoolExecutor, Callable[[], bool]], object]] = {
    "outcome": lambda pool, work: outcome(pool.submit(work)),
    "outcomes": lambda pool, work: outcomes(pool, lambda _: work(), range(3)),
    "await_all": lambda pool, work: await_all([pool.submit(work)]),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_signal_that_does_not_end_the_wait_is_heard_nevertheless(
    pool: ThreadPoolExecutor, wait: Callable[[ThreadPoolExecutor, Callable[[], bool]], object]
) -> None:
    heard = threading.Event()
    in_time = []

    def work() -> bool:
        # It is delivered to this thread: the system call in which the main thread waits goes on.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        in_time.append(heard.wait(PATIENCE))
        return True

    def wait_and_tell() -> None:
        try:
            wait(pool, work)
        finally:
            heard.set()

    with pytest.raises(KeyboardInterrupt):
        wait_and_tell()
    pool.shutdown()
    assert in_time == [True]  # once: the others have not begun


def test_outcomes_come_in_order_and_none_begins_after_a_failure(pool: ThreadPoolExecutor) -> None:
    assert outcomes(pool, lambda number: number * 2, [3, 1, 2]) == [6, 2, 4]
    gate = threading.Event()
    begun = []

    def work(number: int) -> None:
        begun.append(number)
        if number:
            gate.wait(PATIENCE)
            raise LookupError(number)

    def fail() -> None:
        outcomes(pool, work, [1, 0, 0])

    with ThreadPoolExecutor(1) as other:
        failing = other.submit(fail)
        gate.set()
        with pytest.raises(LookupError):
            failing.result(PATIENCE)
    pool.shutdown()
    assert begun[0] == 1


def test_all_is_awaited_for_as_long_as_there_is_time(pool: ThreadPoolExecutor) -> None:
    gate = threading.Event()
    futures = [pool.submit(gate.wait, PATIENCE), pool.submit(gate.wait, PATIENCE)]
    assert not await_all(futures, 0)
    assert not await_all(futures, 0.15)
    gate.set()
    assert await_all(futures)
    assert await_all(futures, 0)
    assert await_all([])


def test_the_first_failure_is_raised_before_all_is_done(pool: ThreadPoolExecutor) -> None:
    gate = threading.Event()

    def fail() -> bool:
        raise LookupError

    with ThreadPoolExecutor(1) as other:
        futures = [pool.submit(gate.wait, PATIENCE), other.submit(fail)]
        with pytest.raises(LookupError):
            await_all(futures)
        assert not futures[0].done()
        gate.set()
