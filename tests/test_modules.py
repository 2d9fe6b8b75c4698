"""The memo of which distribution brought which module: written with the entry, and there after it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from support.wheels import WheelSpec, build_wheel
from vrfstore import codec
from vrfstore.gc.policy import Policy
from vrfstore.gc.sweep import collect
from vrfstore.model import EntryPlan
from vrfstore.store import modules
from vrfstore.store.store import Store

EVERYTHING = Policy(max_age=0, grace=0)

FRUIT = WheelSpec(
    name="Fruit-Salad",
    files={
        "pear/__init__.py": "",
        "pear/stone.py": "",
        "plum.py": "",
        "_fast.cpython-311-x86_64-linux-gnu.so": "",
        "libjuice.so": "",
        "not-a-module.py": "",
        "pulp/data.txt": "",
        "orchard/apple/__init__.py": "",
        "orchard/deep/cherry.py": "",
        "tests/__init__.py": "",
    },
)


def add(store: Store, folder: Path, *specs: WheelSpec) -> list[EntryPlan]:
    return [store.add(build_wheel(spec, folder)).plan for spec in specs]


def lines(store: Store) -> list[list[object]]:
    return [codec.loads(line) for line in Path(store.layout.modules).read_bytes().split(b"\n") if line]


def test_what_can_be_imported_is_told_dotted_within_namespaces(store: Store, tmp_path: Path) -> None:
    (plan,) = add(store, tmp_path, FRUIT)
    assert modules.modules_of(plan) == (
        "_fast", "orchard.apple", "orchard.deep.cherry", "pear", "plum", "tests",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("module", "provided"),
    [
        ("pear", True),
        ("pear.stone.kernel", True),
        ("orchard.apple.core", True),
        ("orchard", False),
        ("orchard.peach", False),
        ("pea", False),
        ("pulp", False),
        ("tests", False),
    ],
)
def test_a_module_is_provided_by_the_innermost_package_that_is_known(
    store: Store, tmp_path: Path, module: str, *, provided: bool
) -> None:
    add(store, tmp_path, FRUIT)
    found = modules.look(store, keep=False).providers(module)
    assert found == (("fruit-salad",) if provided else ())


def test_a_collected_wheel_is_known_still(store: Store, tmp_path: Path) -> None:
    add(store, tmp_path, FRUIT)
    time.sleep(0.01)
    assert collect(store, EVERYTHING).entries
    assert store.entries() == []
    assert modules.look(store, keep=True).providers("plum") == ("fruit-salad",)


def test_entries_without_a_line_are_read_once_and_written_down(store: Store, tmp_path: Path) -> None:
    (plan,) = add(store, tmp_path, FRUIT)
    os.unlink(store.layout.modules)
    assert modules.look(store, keep=False).providers("pear") == ("fruit-salad",)
    assert not os.path.exists(store.layout.modules)
    modules.look(store, keep=True)
    digits = plan.reference.directory.partition("-")[0]
    assert lines(store) == [["fruit-salad", list(modules.modules_of(plan)), [digits]]]
    modules.look(store, keep=True)
    assert len(lines(store)) == 1


def test_versions_and_distributions_that_bring_one_module_are_all_told(store: Store, tmp_path: Path) -> None:
    add(
        store,
        tmp_path,
        WheelSpec(name="one", version="1", files={"old.py": "", "both.py": ""}),
        WheelSpec(name="one", version="2", files={"new.py": ""}),
        WheelSpec(name="two", files={"both.py": "#"}),
    )
    known = modules.look(store, keep=True)
    assert known.providers("old") == known.providers("new") == ("one",)
    assert known.providers("both") == ("one", "two")


def test_a_line_that_was_cut_off_takes_no_other_with_it(store: Store, tmp_path: Path) -> None:
    add(store, tmp_path, WheelSpec(name="one"))
    with open(store.layout.modules, "r+b") as stream:
        stream.truncate(os.path.getsize(store.layout.modules) - 9)
    add(store, tmp_path, WheelSpec(name="two"))
    with open(store.layout.modules, "ab") as stream:
        stream.write(b'\n[1, [2], "x"]\n{}\nnull\n\xff\n')
    assert [line[0] for line in lines_that_count(store)] == ["two"]
    known = modules.look(store, keep=True)
    assert (known.providers("one"), known.providers("two")) == (("one",), ("two",))


def lines_that_count(store: Store) -> list[tuple[str, ...]]:
    return [(line.name,) for line in modules._read(store.layout)]


def test_a_large_file_is_written_anew_with_what_was_read_last(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "_LARGEST", 1000)
    monkeypatch.setattr(modules, "_KEPT", 500)
    for number in range(60):
        path = build_wheel(WheelSpec(name=f"wheel-{number}", files={f"module_{number}.py": ""}), tmp_path)
        store.add(path)
        assert os.path.getsize(store.layout.modules) <= 1000
    names = [line.name for line in modules._read(store.layout)]
    assert names == [f"wheel-{number}" for number in range(60 - len(names), 60)]
    assert len(names) >= 5
    assert os.listdir(store.layout.of("tmp")) == []


def test_one_distribution_cannot_fill_the_file(store: Store, tmp_path: Path) -> None:
    files = {f"{'m' * 99}{number}.py": "" for number in range(10)} | {
        f"n{number}.py": "" for number in range(500)
    }
    (plan,) = add(store, tmp_path, WheelSpec(name="many", files=files))
    found = modules.modules_of(plan)
    assert len(found) == 200
    assert {len(name) for name in found} <= set(range(1, 101))


def test_what_cannot_be_written_down_does_not_keep_a_wheel_out(store: Store, tmp_path: Path) -> None:
    os.mkdir(store.layout.modules)
    add(store, tmp_path, FRUIT)
    assert modules.look(store, keep=True).providers("pear") == ("fruit-salad",)


def test_what_an_archive_only_claims_is_not_believed(store: Store, tmp_path: Path) -> None:
    from dataclasses import replace

    (plan,) = add(store, tmp_path, WheelSpec(name="one"))
    os.unlink(store.layout.modules)
    modules.note(store.layout, replace(plan, claimed="0" * 64))
    assert not os.path.exists(store.layout.modules)
