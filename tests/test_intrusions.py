"""What root writes into an entry through a link is noticed before anybody else gets the entry."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.crash import compile_entry, make_environment
from support.wheels import WheelSpec, build_wheel
from vrfstore import fs
from vrfstore.errors import StoreDamagedError
from vrfstore.model import EntryPlan
from vrfstore.runner.verify import verify
from vrfstore.store.intrusions import look_at_entry
from vrfstore.store.store import Store

KIT = WheelSpec(
    name="kit",
    files={"kit/__init__.py": "one = 1\n", "kit/inner/deep.py": "", "space/part/__init__.py": ""},
    data={"data/share/jupyter/kernels/kit/kernel.json": "{}"},
)
LINKED = ["site-packages/kit", "site-packages/space/part", "data/share/jupyter/kernels/kit"]


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return build_wheel(KIT, tmp_path)


@pytest.fixture
def plan(store: Store, wheel: Path) -> EntryPlan:
    return store.add(wheel).plan


def place(store: Store, plan: EntryPlan) -> Path:
    return Path(store.layout.of("entries", plan.reference.directory))


def as_root(directory: Path, act: Callable[[Path], object]) -> None:
    """Do what permissions keep nobody from who is root."""
    directory.chmod(0o755)
    act(directory)
    directory.chmod(0o555)


def replace_module(directory: Path) -> None:
    """As pip does: away with what is there, and then a new file."""
    module = directory / "__init__.py"
    module.unlink()
    module.write_text("one = 2\n")


def test_directories_of_an_entry_are_dated_alike(store: Store, plan: EntryPlan) -> None:
    root = place(store, plan)
    dated = {path for path in root.rglob("*") if path.is_dir() and not path.is_symlink()}
    assert {path.stat().st_mtime_ns for path in dated} == {fs.SEALED_AT}


@pytest.mark.parametrize("linked", LINKED)
def test_a_name_that_came_into_a_linked_directory_stops_the_next_link(
    store: Store, plan: EntryPlan, wheel: Path, linked: str
) -> None:
    as_root(place(store, plan) / linked, lambda directory: (directory / "plugin.txt").touch())
    with pytest.raises(StoreDamagedError, match=r"plugin\.txt does not belong") as caught:
        make_environment(store, wheel)
    assert caught.value.kind == "entry-damaged"
    assert plan.reference.directory in str(caught.value.hint)
    assert not store.environments()


def test_an_environment_that_stands_is_not_handed_out_either(
    store: Store, plan: EntryPlan, wheel: Path
) -> None:
    make_environment(store, wheel)
    as_root(place(store, plan) / "site-packages/kit", replace_module)
    with pytest.raises(StoreDamagedError, match=r"kit/__init__\.py"):
        make_environment(store, wheel)


def test_after_a_repair_it_is_linked_again(store: Store, plan: EntryPlan, wheel: Path) -> None:
    as_root(place(store, plan) / "site-packages/kit", replace_module)
    assert verify(store, mend=True).sound
    make_environment(store, wheel)
    assert (place(store, plan) / "site-packages/kit").stat().st_mtime_ns == fs.SEALED_AT


def test_what_a_repair_takes_away_leaves_the_date(store: Store, plan: EntryPlan, wheel: Path) -> None:
    wheel.unlink()
    as_root(place(store, plan) / "site-packages/kit", lambda directory: (directory / "plugin.txt").touch())
    assert verify(store, mend=True).sound
    assert (place(store, plan) / "site-packages/kit").stat().st_mtime_ns == fs.SEALED_AT


def test_an_entry_that_only_has_other_dates_is_dated_again(
    store: Store, plan: EntryPlan, wheel: Path
) -> None:
    linked = place(store, plan) / "site-packages/kit"
    os.utime(linked)
    make_environment(store, wheel)
    assert linked.stat().st_mtime_ns == fs.SEALED_AT


def test_compiling_is_no_intrusion(store: Store, plan: EntryPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_entry(store, plan.reference.directory)

    def never(*_: object, **__: object) -> None:
        pytest.fail("the entry was looked at as a whole")

    monkeypatch.setattr("vrfstore.store.verify.check_entry", never)
    look_at_entry(store, plan)


def test_what_a_user_may_not_date_is_looked_at_each_time(
    store: Store, plan: EntryPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked = place(store, plan) / "site-packages/kit"
    os.utime(linked)

    def refused(path: str, *_: object) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(fs, "set_times", refused)
    look_at_entry(store, plan)
    assert linked.stat().st_mtime_ns != fs.SEALED_AT
