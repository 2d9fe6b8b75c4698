"""Budgets: what is taken counts at once, and whoever comes after a cap was hit is told as well."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from vrfstore.errors import CapError
from vrfstore.requirements.budget import Budget, Caps


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_caps_everything_is_allowed() -> None:
    budget = Budget()
    assert budget.remaining() is None
    budget.check()
    budget.packages(10**6)
    budget.foresee(10**15)
    budget.receive(10**15)
    budget.unpack(10**15)


def test_time_runs_from_the_beginning_and_is_never_negative() -> None:
    clock = Clock()
    budget = Budget(Caps(seconds=5), now=clock)
    clock.now += 4
    assert budget.remaining() == 1
    budget.check()
    clock.now += 4
    assert budget.remaining() == 0
    for step in (budget.check, lambda: budget.receive(0), lambda: budget.unpack(0)):
        with pytest.raises(CapError, match="within 5 s, which is the limit") as caught:
            step()
        assert (caught.value.kind, caught.value.exit_code) == ("max-time", 13)


def test_packages() -> None:
    budget = Budget(Caps(packages=3))
    budget.packages(3)
    with pytest.raises(CapError, match="4 packages are needed, and 3 are allowed") as caught:
        budget.packages(4)
    assert caught.value.kind == "max-packages"


def test_what_is_foreseen_is_not_taken() -> None:
    budget = Budget(Caps(received=100))
    budget.foresee(100)
    budget.foresee(100)
    budget.receive(60)
    budget.foresee(40)
    with pytest.raises(CapError, match="more than 100 bytes would have to be fetched") as caught:
        budget.foresee(41)
    assert caught.value.kind == "max-bytes"
    budget.receive(40)


def test_who_goes_beyond_a_cap_ends_it_for_everybody() -> None:
    budget = Budget(Caps(received=100, unpacked=50))
    with pytest.raises(CapError):
        budget.receive(101)
    with pytest.raises(CapError):
        budget.receive(0)
    budget.unpack(50)
    with pytest.raises(CapError, match="unpacks to more than 50 bytes") as caught:
        budget.unpack(1)
    assert caught.value.kind == "max-unpacked"
    with pytest.raises(CapError):
        budget.unpack(0)


def test_threads_count_together() -> None:
    budget = Budget(Caps(received=8000))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(budget.receive, [1] * 8000))
    with pytest.raises(CapError):
        budget.receive(1)
