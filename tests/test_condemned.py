"""The list of names that are about to go: whole or absent, honoured, and never in the way for long."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vrfstore.errors import BusyError
from vrfstore.store import condemned
from vrfstore.store.holds import hold
from vrfstore.store.layout import Layout
from vrfstore.store.store import Store

NAME = "environments/0123456789abcdef0123456789abcdef"
OTHER = "entries/0123456789abcdef0123-other-1.0"

NAMES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=300),
    max_size=300,
)


@contextmanager
def seconds(least: float, most: float) -> Iterator[None]:
    """Hold a block to the time that it may take."""
    began = time.monotonic()
    yield
    assert least <= time.monotonic() - began < most


@given(lists=st.lists(NAMES, min_size=1, max_size=3))
@settings(max_examples=30)
def test_a_list_is_read_as_it_was_published_whatever_was_there_before(lists: list[list[str]]) -> None:
    with TemporaryDirectory() as root:
        layout = Layout(root)
        os.mkdir(layout.of("gc"))
        for names in lists:
            condemned.publish(layout, names)
            assert condemned.names(layout) == frozenset(names)
            condemned.withdraw(layout)
            assert condemned.names(layout) == frozenset()


def test_a_full_batch_needs_no_room_on_the_disk(store: Store) -> None:
    spare = Path(store.layout.of("gc", "spare"))
    before = spare.stat()
    assert before.st_size == condemned.CAPACITY
    assert before.st_blocks * 512 >= condemned.CAPACITY, "a hole would have to be filled on a full disk"
    condemned.publish(store.layout, [f"entries/{number:03}-{'x' * 288}" for number in range(256)])
    published = os.stat(store.layout.condemned)
    assert (published.st_ino, published.st_size) == (before.st_ino, before.st_size)
    condemned.withdraw(store.layout)
    assert spare.stat().st_ino == before.st_ino
    assert not os.path.exists(store.layout.condemned)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_list_is_written_over_no_file_that_somebody_else_has_too(
    store: Store, tmp_path: Path, link: Callable[[Path, str], None]
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"kept" * condemned.CAPACITY)
    spare = store.layout.of("gc", "spare")
    os.unlink(spare)
    link(outside, spare)
    condemned.publish(store.layout, [NAME])
    assert condemned.names(store.layout) == {NAME}
    assert outside.read_bytes() == b"kept" * condemned.CAPACITY


def test_who_wants_what_is_not_condemned_does_not_wait(store: Store) -> None:
    with hold(store.layout.of("gc", "run")), seconds(0, 1.5):
        condemned.wait_until_clear(store.layout, {NAME})
        condemned.publish(store.layout, [OTHER])
        condemned.wait_until_clear(store.layout, {NAME})
        condemned.wait_until_clear(store.layout, ())
    assert condemned.names(store.layout) == {OTHER}


def test_a_list_that_a_dead_collector_left_is_cleared_at_once(store: Store) -> None:
    condemned.publish(store.layout, [OTHER, NAME])
    with seconds(0, 1.5):
        condemned.wait_until_clear(store.layout, {NAME})
    assert condemned.names(store.layout) == frozenset()
    assert os.path.exists(store.layout.of("gc", "spare"))


def test_a_list_of_a_live_collector_is_waited_for(store: Store) -> None:
    with hold(store.layout.of("gc", "run")):
        condemned.publish(store.layout, [NAME])
        timer = threading.Timer(0.3, condemned.withdraw, [store.layout])
        timer.start()
        with seconds(0.25, 1.9):
            condemned.wait_until_clear(store.layout, {NAME, OTHER})
        timer.join()


def test_a_list_that_changes_to_other_names_is_not_waited_for(store: Store) -> None:
    with hold(store.layout.of("gc", "run")):
        condemned.publish(store.layout, [NAME])

        def go_on() -> None:
            condemned.withdraw(store.layout)
            condemned.publish(store.layout, [OTHER])

        timer = threading.Timer(0.2, go_on)
        timer.start()
        with seconds(0.15, 1.9):
            condemned.wait_until_clear(store.layout, {NAME})
        timer.join()
        assert condemned.names(store.layout) == {OTHER}


def test_nobody_waits_longer_than_two_seconds_for_a_live_collector(store: Store) -> None:
    with hold(store.layout.of("gc", "run")):
        condemned.publish(store.layout, [NAME])
        with seconds(1.9, 5), pytest.raises(BusyError) as caught:
            condemned.wait_until_clear(store.layout, {NAME})
        assert condemned.names(store.layout) == {NAME}
    assert (caught.value.exit_code, caught.value.kind) == (15, "gc-busy")


def test_users_who_meet_a_stale_list_at_once_all_go_on(store: Store) -> None:
    condemned.publish(store.layout, [NAME])
    errors: list[BaseException] = []

    def use() -> None:
        try:
            condemned.wait_until_clear(store.layout, {NAME})
        except BaseException as error:  # noqa: BLE001 - for the assertion below
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(os.listdir(store.layout.of("gc"))) == ["ballast", "run", "spare"]
