"""Environments of one's own that somebody has removed: how often gc looks before what they referred to goes."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from support.crash import base, wheel_digest
from support.wheels import WheelSpec, build_wheel
from vrfstore import fs
from vrfstore.gc import absence, sweep
from vrfstore.gc.policy import Policy
from vrfstore.linker.into import Asked, link_into
from vrfstore.model import LinkOptions
from vrfstore.store import externals
from vrfstore.store.holds import hold, shard
from vrfstore.store.layout import Layout
from vrfstore.store.store import Store

DAY = 86400.0
EVERYTHING = Policy(max_age=0, grace=0)


pytestmark = pytest.mark.usefixtures("without_sync")


@pytest.fixture
def place(store: Store, tmp_path: Path) -> Path:
    """An environment of somebody's own, linked from one wheel."""
    (tmp_path / "wheels").mkdir()
    wheel = build_wheel(WheelSpec(name="apple"), tmp_path / "wheels")
    path = tmp_path / "project" / "venv"
    path.parent.mkdir()
    link_apple(store, wheel, path)
    time.sleep(0.02)
    return path


def link_apple(store: Store, wheel: Path, path: Path) -> None:
    asked = Asked(requirements="apple\n", path="x", python="", lock="0" * 64, options=LinkOptions())
    with store.session() as lease:
        plan = store.add(wheel).plan
        assert plan.reference.digest == wheel_digest(wheel)
        link_into(store, lease, [plan], base(), str(path), asked)


def collect(store: Store, policy: Policy = EVERYTHING) -> sweep.Report:
    return sweep.collect(store, policy)


def test_what_an_environment_that_is_there_refers_to_stays(store: Store, place: Path) -> None:
    for _ in range(3):
        report = collect(store)
        assert (report.entries, report.forgotten, report.problems) == ((), (), ())
    assert externals.token_at(str(place))


def test_what_one_referred_to_goes_with_the_second_collection_after_it(store: Store, place: Path) -> None:
    fs.remove_tree(str(place))
    assert collect(store).entries == ()
    report = collect(store)
    assert report.forgotten == (str(place),)
    assert len(report.entries) == 1
    assert store.entries() == []
    assert [name for name in os.listdir(store.layout.of("gc")) if name.startswith("absent.")] == []


def test_two_collections_have_to_be_a_grace_apart(store: Store, place: Path) -> None:
    fs.remove_tree(str(place))
    patient = Policy(max_age=DAY, grace=DAY)
    for _ in range(3):
        assert collect(store, patient).forgotten == ()
    (note,) = (name for name in os.listdir(store.layout.of("gc")) if name.startswith("absent."))
    long_ago = time.time() - 2 * DAY
    os.utime(store.layout.of("gc", note), (long_ago, long_ago))
    assert collect(store, patient).forgotten == (str(place),)


def test_one_that_came_back_between_two_collections_is_absent_anew(store: Store, place: Path) -> None:
    aside = place.with_name("aside")
    place.rename(aside)
    collect(store)
    aside.rename(place)
    collect(store)
    place.rename(aside)
    assert collect(store).forgotten == ()
    aside.rename(place)
    assert collect(store).forgotten == ()
    assert len(store.entries()) == 1


def test_a_dry_run_says_what_would_be_forgotten_and_notes_nothing(store: Store, place: Path) -> None:
    fs.remove_tree(str(place))
    assert sweep.preview(store, EVERYTHING).forgotten == ()
    assert sweep.preview(store, EVERYTHING).forgotten == ()
    collect(store)
    seen = sweep.preview(store, EVERYTHING)
    assert (seen.forgotten, len(seen.entries)) == ((str(place),), 1)
    assert len(store.entries()) == 1


def test_one_that_nobody_can_tell_of_keeps_what_it_needs_and_is_named(
    store: Store, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs.remove_tree(str(place))
    monkeypatch.setattr(externals, "mount_namespace", lambda: 1)
    assert collect(store).problems == ()  # it may just be being made
    (registration,) = Path(store.layout.of("external")).iterdir()
    os.utime(registration, (time.time() - 2 * 3600,) * 2)
    for _ in range(2):
        report = collect(store)
        assert (report.entries, report.forgotten) == ((), ())
        assert [problem for problem in report.problems if f"{place} refers to is kept" in problem]


def test_one_of_another_mount_namespace_that_can_be_seen_is_no_problem(
    store: Store, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place.is_dir()
    monkeypatch.setattr(externals, "mount_namespace", lambda: 1)
    assert collect(store).problems == ()


def test_one_that_is_registered_at_this_moment_is_not_forgotten(store: Store, place: Path) -> None:
    (known,) = externals.registrations(store.layout)
    assert isinstance(known, externals.Registration)
    fs.remove_tree(str(place))
    collect(store)
    with hold(store.layout.of("holds", shard("external", known.token))):
        assert collect(store).forgotten == ()
    absent = absence.Absence(gone=(known,), new=(), over=(), unknown=())
    with store.session() as lease:
        # Somebody has moved it, and says so.
        moved = externals.Registration(
            token=known.token,
            path=f"{place}.moved",
            device=known.device,
            references=known.references,
            locks=known.locks,
            namespace=known.namespace,
        )
        externals.register(store.layout, lease, moved)
    assert absence.settle(store.layout, absent) == ()
    assert list(externals.registrations(store.layout)) == [moved]


def test_one_that_comes_back_and_is_linked_while_it_is_forgotten_is_registered_anew(
    store: Store, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = list(externals.registrations(store.layout))
    (wheel,) = (tmp_path / "wheels").iterdir()
    aside = place.rename(place.with_name("aside"))
    collect(store)
    linking = threading.Thread(target=link_apple, args=(store, wheel, place))
    forget = externals.forget

    def forget_late(layout: Layout, token: str) -> bool:
        aside.rename(place)
        linking.start()
        linking.join(0.5)
        return forget(layout, token)

    monkeypatch.setattr(externals, "forget", forget_late)
    assert collect(store).forgotten == (str(place),)
    linking.join()
    assert list(externals.registrations(store.layout)) == known
