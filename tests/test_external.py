"""Environments at a path of the user's: made, brought up to date around what was put there, killed, raced, attacked."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.crash import LOCK, base, dangling, each_kill, stats, together, tree, wheel_digest
from support.elf import elf_bytes
from support.faults import Fault, with_fault
from support.index import Index
from support.pythons import pythons
from support.wheels import WheelSpec, build_wheel
from vrfstore import fs, interpreter
from vrfstore.cli.running import run
from vrfstore.errors import BusyError, StoreDamagedError, UsageError
from vrfstore.gc.policy import Policy
from vrfstore.gc.sweep import collect
from vrfstore.linker import external
from vrfstore.linker.distributions import Distribution, distributions
from vrfstore.linker.into import Asked, Linked, check_directory, link_into
from vrfstore.model import LinkOptions
from vrfstore.store import composites, externals, leases
from vrfstore.store.externals import ExternalRecord, Made
from vrfstore.store.store import Store

APPLE = WheelSpec(
    name="apple",
    files={"apple/__init__.py": "who = 1\n", "apple/deep/__init__.py": "", "apple_single.py": "who = 1\n"},
    data={"data/etc/apple.conf": "sweet\n", "data/share/jupyter/kernels/apple/kernel.json": "{}"},
    entry_points={"console_scripts": {"eat": "apple:who"}},
)
APPLE_2 = WheelSpec(
    name="apple",
    version="2.0",
    files={"apple/__init__.py": "who = 2\n", "apple_single.py": "who = 2\n", "apple_more/__init__.py": ""},
    data={"data/etc/apple.conf": "sour\n"},
    entry_points={"console_scripts": {"bite": "apple:who"}},
)
PEAR = WheelSpec(name="pear", files={"pear/__init__.py": "who = 1\n", "orchard/pear/__init__.py": ""})
FIG = WheelSpec(name="fig", files={"fig/__init__.py": "", "orchard/fig/__init__.py": ""})
LARGE = WheelSpec(name="large", files={"large/__init__.py": "", "top.so": b"\x7f" * (fs.COPY_LIMIT + 1)})

EVERYTHING = Policy(max_age=0, grace=0)


pytestmark = pytest.mark.usefixtures("without_sync")


@pytest.fixture
def wheels(tmp_path: Path) -> dict[str, Path]:
    """Wheel files by name of the specification."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    specs = {"apple": APPLE, "apple_2": APPLE_2, "pear": PEAR, "fig": FIG, "large": LARGE}
    return {name: build_wheel(spec, folder) for name, spec in specs.items()}


def place_wheels(
    store: Store,
    place: Path,
    *wheels: Path,
    options: LinkOptions = LinkOptions(),  # noqa: B008 - frozen
    force: bool = False,
    known: ExternalRecord | None = None,
) -> Linked:
    """Link some wheels into a directory."""
    digests = [wheel_digest(wheel) for wheel in wheels]
    with leases.take(store.layout, digests=digests, lock=LOCK) as lease:
        plans = [store.add(wheel).plan for wheel in wheels]
        asked = Asked(requirements="", path="", python="", lock=LOCK, options=options)
        real = check_directory(store, str(place), force=force)
        return link_into(store, lease, plans, base(), real, asked, known=known, force=force)


def site(place: Path) -> Path:
    return place / "lib" / base().directory_name / "site-packages"


def record(place: Path) -> ExternalRecord:
    found = externals.read(str(place))
    assert found is not None
    return found


def pip(place: Path, *arguments: str | Path) -> None:
    """Let pip change an environment, from outside."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps"] if arguments[0] == "install" else []
    python = ["--python", f"{place}/bin/python"]
    subprocess.run([*command, *python, arguments[0], *offline, *arguments[1:]], check=True)


def says(place: Path, expression: str, *imports: str) -> str:
    code = f"import {', '.join(('sys', *imports))}; print(({expression}))"
    done = subprocess.run([place / "bin/python", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def sources(store: Store) -> dict[str, tuple[str, bytes]]:
    """Return all entries, but for what interpreters add to them."""
    entries = tree(store.layout.of("entries"))
    return {path: content for path, content in entries.items() if not path.endswith(".pyc")}


def later(store: Store) -> None:
    """Collect everything that may go, once it is older than the clock can tell."""
    time.sleep(0.05)
    collect(store, EVERYTHING)


def alike(place: Path) -> dict[str, tuple[str, bytes]]:
    """Return all of an environment that does not differ from one to the next."""
    return {
        path: (
            mode,
            content.replace(os.fsencode(place.name), b"<place>") if path.startswith("bin/act") else content,
        )
        for path, (mode, content) in tree(place).items()
        if path != "vrfstore.json" and not path.lower().startswith("bin/activate")
    }


def test_a_fresh_one_is_a_venv_without_hard_links_to_files_of_the_store(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    place = tmp_path / "venv"
    before = tree(store.root, without=("external", "holds", "interpreters", "tmp", "leases"))
    linked = place_wheels(store, place, wheels["apple"], wheels["pear"], wheels["large"])
    assert says(place, "apple.who, pear.who, sys.prefix", "apple", "pear") == f"(1, 1, '{place}')"
    assert not linked.by_hand
    assert not linked.changes.kept
    files = [path for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 15
    assert {os.lstat(path).st_nlink for path in files} == {1}
    assert (site(place) / "top.so").is_symlink()
    assert {path.name for path in (place / "bin").iterdir()} >= {
        "activate", "activate.csh", "activate.fish", "activate.nu", "Activate.ps1", "eat", "python", "python3",
    }  # fmt: skip
    assert dangling(str(place)) == []
    assert (place / ".gitignore").read_text() == "*\n"
    after = tree(store.root, without=("external", "holds", "interpreters", "tmp", "leases"))
    assert {path: after[path] for path in before} == before


def test_again_it_is_a_hit_and_nothing_at_all_is_written(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    place = tmp_path / "venv"
    place_wheels(store, place, wheels["apple"], wheels["pear"])
    before = stats(place)
    registered = stats(Path(store.layout.of("external")))
    linked = place_wheels(store, place, wheels["pear"], wheels["apple"])
    assert linked.changes.nothing
    assert stats(place) == before
    assert stats(Path(store.layout.of("external"))) == registered


def test_only_what_changed_is_linked_again(store: Store, tmp_path: Path, wheels: Mapping[str, Path]) -> None:
    place, other = tmp_path / "venv", tmp_path / "other"
    place_wheels(store, place, wheels["apple"], wheels["pear"])
    before = stats(place)
    linked = place_wheels(store, place, wheels["apple_2"], wheels["pear"])
    after = stats(place)
    untouched = {path for path in before if after.get(path) == before[path]}
    for part in ("pear", "pear-1.0.dist-info/METADATA", "orchard"):
        assert f"{site(place)}/{part}" in untouched
    assert f"{place}/bin/activate" in untouched
    assert all("pear" not in path and "activate" not in path for path in linked.changes.put)
    assert says(place, "apple.who, apple_single.who", "apple", "apple_single") == "(2, 2)"
    assert not (place / "bin/eat").exists()
    assert (place / "etc/apple.conf").read_text() == "sour\n"
    place_wheels(store, other, wheels["apple_2"], wheels["pear"])
    for cache in place.rglob("*.pyc"):
        cache.unlink()
    assert alike(place) == alike(other)


def test_a_module_that_is_replaced_by_one_of_equal_size_is_not_imported_from_its_old_bytecode(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    place = tmp_path / "venv"
    place_wheels(store, place, wheels["apple"])
    module = site(place) / "apple_single.py"
    assert says(place, "apple_single.who", "apple_single") == "1"
    when = os.stat(module).st_mtime_ns
    place_wheels(store, place, wheels["apple_2"])
    os.utime(module, ns=(when, when))
    assert says(place, "apple_single.who", "apple_single") == "2"


def test_what_pip_did_is_told_apart_and_stays(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    place = tmp_path / "venv"
    place_wheels(store, place, wheels["apple"], wheels["pear"])
    entries = sources(store)
    pip(place, "install", wheels["apple_2"], wheels["fig"])
    linked = place_wheels(store, place, wheels["apple"], wheels["pear"])
    assert {(each.name, each.version) for each in linked.by_hand} == {("apple", "2.0"), ("fig", "1.0")}
    assert [reference.name for reference in linked.record.wheels] == ["pear"]
    assert says(place, "apple.who, pear.who, fig.__name__", "apple", "pear", "fig") == "(2, 1, 'fig')"
    assert sources(store) == entries
    again = stats(place)
    assert place_wheels(store, place, wheels["apple"], wheels["pear"]).changes.nothing
    assert stats(place) == again
    # What is asked for and was uninstalled comes back; what is not asked for and is the user's stays.
    pip(place, "uninstall", "--yes", "apple")
    linked = place_wheels(store, place, wheels["apple"], wheels["pear"])
    assert {each.name for each in linked.by_hand} == {"fig"}
    assert says(place, "apple.who, fig.__name__", "apple", "fig") == "(1, 'fig')"
    assert sources(store) == entries


def test_what_uv_did_is_told_apart_and_stays(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    place = tmp_path / "venv"
    place_wheels(store, place, wheels["apple"], wheels["pear"])
    entries = sources(store)
    command = [f"{os.path.dirname(sys.executable)}/uv", "pip", "install", "--offline", "--no-deps", "--quiet"]
    wanted = [str(wheels["apple_2"]), str(wheels["fig"])]
    subprocess.run([*command, "--python", f"{place}/bin/python", *wanted], check=True)
    linked = place_wheels(store, place, wheels["apple"], wheels["pear"])
    assert {(each.name, each.version) for each in linked.by_hand} == {("apple", "2.0"), ("fig", "1.0")}
    assert says(place, "apple.who, pear.who, fig.__name__", "apple", "pear", "fig") == "(2, 1, 'fig')"
    assert sources(store) == entries


def test_files_that_were_changed_stay_and_are_named(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    place = tmp_path / "venv"
    place_wheels(store, place, wheels["apple"])
    (place / "etc/apple.conf").write_text("mine\n")
    (place / "bin/activate").write_text("mine\n")
    linked = place_wheels(store, place, wheels["apple_2"])
    assert linked.changes.kept == ("bin/activate", "etc/apple.conf")
    assert (place / "etc/apple.conf").read_text() == "mine\n"
    linked = place_wheels(store, place, wheels["apple_2"], force=True)
    assert linked.changes.kept == ()
    assert (place / "etc/apple.conf").read_text() == "sour\n"


def test_a_directory_in_the_place_of_a_link_stays(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    place = tmp_path / "venv"
    place_wheels(store, place, wheels["apple"])
    entries = sources(store)
    (site(place) / "apple").unlink()
    (site(place) / "apple").mkdir()
    (site(place) / "apple/mine.py").write_text("who = 'me'\n")
    for _ in range(2):
        place_wheels(store, place, wheels["apple"])
        assert says(place, "apple.who, apple.mine.who, apple.deep.__name__", "apple.mine", "apple.deep") == (
            "(1, 'me', 'apple.deep')"
        )
    (site(place) / "apple/mine.py").unlink()
    place_wheels(store, place, wheels["apple"])
    assert (site(place) / "apple").is_symlink()
    assert says(place, "apple.who", "apple") == "1"
    assert sources(store) == entries


@pytest.mark.parametrize("name", ["lib64", "bin/eat", "bin/python3"])
def test_a_directory_in_the_place_of_what_cannot_be_one_stays_and_is_named(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path], name: str
) -> None:
    place = tmp_path / "venv"
    place_wheels(store, place, wheels["apple"])
    (place / name).unlink()
    (place / name).mkdir()
    (place / name / "mine").touch()
    linked = place_wheels(store, place, wheels["apple"], wheels["pear"])
    assert linked.changes.kept == (name,)
    assert (place / name / "mine").exists()
    assert says(place, "pear.who", "pear") == "1"


def test_a_portion_of_a_namespace_is_joined_by_others(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    place = tmp_path / "venv"
    place_wheels(store, place, wheels["pear"])
    mine = site(place) / "orchard/mine"
    mine.mkdir()
    (mine / "__init__.py").write_text("who = 'me'\n")
    place_wheels(store, place, wheels["pear"], wheels["fig"])
    assert says(place, "1", "orchard.pear", "orchard.fig", "orchard.mine") == "1"
    place_wheels(store, place, wheels["fig"])
    assert (mine / "__init__.py").exists()
    assert not (site(place) / "orchard/pear").exists()


def test_killed_at_every_step_the_next_one_makes_it_whole_and_loses_nothing(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    whole = tmp_path / "whole"
    place_wheels(store, whole, wheels["apple_2"], wheels["fig"])
    pattern = tmp_path / "pattern"
    counter = iter(range(10_000))
    old = [wheels["apple"], wheels["pear"]]
    place_wheels(store, pattern, *old)

    def prepare() -> Path:
        place = tmp_path / f"venv-{next(counter)}"
        place_wheels(store, place, *old)
        (site(place) / "mine.py").write_text("who = 'me'\n")
        (site(place) / "orchard/mine.py").write_text("")
        (place / "share/jupyter/kernels/mine").mkdir()
        (place / "etc/mine.conf").write_text("")
        return place

    def change(place: Path) -> None:
        place_wheels(store, place, wheels["apple_2"], wheels["fig"])

    for point, place in each_kill(prepare, change):
        known = externals.read_registration(store.layout, record(place).token)
        assert known is not None
        named = {reference.directory for reference in known.references}
        linked_to = {
            os.readlink(path).partition("/entries/")[2].partition("/")[0]
            for path in place.rglob("*")
            if path.is_symlink() and "/entries/" in os.readlink(path)
        }
        assert linked_to <= named, f"gc could take what is linked to, after a kill at step {point}"
        change(place)
        for mine in ("share/jupyter/kernels/mine", "etc/mine.conf"):
            assert (place / mine).exists()
        shutil.rmtree(place / "share")
        (place / "etc/mine.conf").unlink()
        for mine in ("mine.py", "orchard/mine.py"):
            (site(place) / mine).unlink()
        assert alike(place) == alike(whole), f"killed at step {point}"
        assert record(place).finished
        shutil.rmtree(place)


def test_killed_at_every_step_a_fresh_one_is_made_whole_by_the_next(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    whole = tmp_path / "whole"
    place_wheels(store, whole, wheels["apple"])
    counter = iter(range(10_000))
    action = functools.partial(_link_apple, store, wheels["apple"])
    for point, place in each_kill(lambda: tmp_path / f"venv-{next(counter)}", action):
        linked = place_wheels(store, place, wheels["apple"])
        assert not linked.by_hand, f"killed at step {point}"
        assert alike(place) == alike(whole), f"killed at step {point}"
        shutil.rmtree(place)


def _link_apple(store: Store, wheel: Path, place: Path) -> None:
    place_wheels(store, place, wheel)


def test_two_at_once_make_one(store: Store, tmp_path: Path, wheels: Mapping[str, Path]) -> None:
    place = tmp_path / "venv"
    for wheel in wheels.values():
        store.add(wheel)
    actions = [
        functools.partial(_link_many, store, place, [wheels["apple"], wheels["pear"]]),
        functools.partial(_link_many, store, place, [wheels["apple_2"], wheels["fig"]]),
    ]
    together(*actions, *actions)
    found = record(place)
    assert found.finished
    names = {(wheel.name, wheel.version) for wheel in found.wheels}
    assert names in ({("apple", "1.0"), ("pear", "1.0")}, {("apple", "2.0"), ("fig", "1.0")})
    assert {(each.name, each.version) for each in installed(place)} == names
    assert dangling(str(place)) == []


def _link_many(store: Store, place: Path, wheels: list[Path]) -> None:
    place_wheels(store, place, *wheels)


def installed(place: Path) -> list[Distribution]:
    return distributions(str(site(place)))


def test_who_decided_by_an_older_record_is_told(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    place = tmp_path / "venv"
    old = place_wheels(store, place, wheels["apple"]).record
    place_wheels(store, place, wheels["pear"])
    before = stats(place)
    with pytest.raises(BusyError):
        place_wheels(store, place, wheels["apple"], known=old)
    assert stats(place) == before


@pytest.mark.parametrize(
    "occupy",
    [
        pytest.param(lambda place: (place / "precious").write_text("x"), id="a file in it"),
        pytest.param(lambda place: (place / "pyvenv.cfg").write_text("home = /\n"), id="a venv"),
        pytest.param(lambda place: (place / "vrfstore.json").write_text("{}"), id="no record"),
    ],
)
def test_a_directory_of_somebody_else_is_refused(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path], occupy: functools.partial[object]
) -> None:
    place = tmp_path / "venv"
    place.mkdir()
    occupy(place)
    before = stats(place)
    with pytest.raises((UsageError, StoreDamagedError)):
        place_wheels(store, place, wheels["apple"])
    assert stats(place) == before
    place_wheels(store, place, wheels["apple"], force=True)
    assert says(place, "apple.who", "apple") == "1"
    assert (place / "precious").exists() == any("precious" in path for path in before)


def test_places_that_cannot_be_environments_are_refused(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    inside, around = f"{store.root}/venv", str(Path(store.root).parent)
    for path in (inside, store.root, around, str(file), "/", os.environ["HOME"]):
        with pytest.raises(UsageError):
            check_directory(store, path, force=True)


def test_a_path_may_have_spaces_be_relative_or_lead_through_links(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "a place with spaces, 'quotes' and é"
    (tmp_path / "short").symlink_to(real)
    real.mkdir()
    place_wheels(store, tmp_path / "short", wheels["apple"])
    monkeypatch.chdir(tmp_path)
    for path in (Path("short"), Path(real.name), Path("./short/../short")):
        assert place_wheels(store, path, wheels["apple"]).changes.nothing
    assert len(os.listdir(store.layout.of("external"))) == 1
    assert (
        says(real, "sys.prefix == __import__('os').getcwd() + '/' + sys.argv[0] or apple.who", "apple") == "1"
    )
    activated = subprocess.run(
        ["/bin/sh", "-c", '. "$0/bin/activate" && eat; python -c "import sys; print(sys.prefix)"', real],
        capture_output=True,
        text=True,
        check=False,
    )
    assert activated.stdout.splitlines()[-1] == str(real)


def test_another_store_takes_over(tmp_path: Path, wheels: Mapping[str, Path]) -> None:
    one, other = Store.open(tmp_path / "one"), Store.open(tmp_path / "other")
    place = tmp_path / "venv"
    first = place_wheels(one, place, wheels["apple"]).record
    with pytest.raises(UsageError) as raised:
        place_wheels(other, place, wheels["apple"])
    assert raised.value.kind == "into-other-store"
    assert one.root in raised.value.message
    second = place_wheels(other, place, wheels["apple"], force=True).record
    assert second.token != first.token
    shutil.rmtree(one.layout.of("entries"))
    assert dangling(str(place)) == []
    assert says(place, "apple.who", "apple") == "1"


def test_gc_never_takes_what_it_refers_to_and_says_why(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    place = tmp_path / "venv"
    place_wheels(store, place, wheels["apple"], wheels["pear"])
    store.add(wheels["fig"])
    later(store)
    assert {name.partition("-")[2] for name in store.entries()} == {"apple-1.0", "pear-1.0"}
    assert says(place, "apple.who", "apple") == "1"
    place_wheels(store, place, wheels["apple"])
    later(store)
    assert {name.partition("-")[2] for name in store.entries()} == {"apple-1.0"}


def test_it_is_registered_before_anything_is_changed(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "venv"
    place_wheels(store, place, wheels["apple"])
    token = record(place).token
    seen: list[set[str]] = []

    def watch(_name: str, path: str) -> None:
        if path.startswith(f"{place}/"):
            known = externals.read_registration(store.layout, token)
            assert known is not None
            seen.append({reference.name for reference in known.references})

    monkeypatch.setattr(fs, "on_effect", watch)
    place_wheels(store, place, wheels["pear"])
    assert seen
    assert all(names == {"apple", "pear"} for names in seen)
    known = externals.read_registration(store.layout, token)
    assert known is not None
    assert {reference.name for reference in known.references} == {"pear"}


def _record_with(place: Path, **changes: object) -> None:
    path = place / "vrfstore.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"token": "../../x"},
        {"token": "g" * 16},
        {"schema": 99},
        {"made": {"../../escape": ["d", "", []]}},
        {"made": {"/etc/passwd": ["d", "", []]}},
        {"made": {"a//b": ["d", "", []]}},
        {"made": []},
        {"wheels": "x"},
        {"interpreter": 3},
        {"options": {"unknown": 1}},
    ],
    ids=str,
)
def test_a_record_that_means_harm_is_refused(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path], changes: dict[str, object]
) -> None:
    place = tmp_path / "venv"
    place_wheels(store, place, wheels["apple"])
    _record_with(place, **changes)
    with pytest.raises(StoreDamagedError):
        place_wheels(store, place, wheels["apple"])
    assert os.listdir(store.layout.of("external"))
    place_wheels(store, place, wheels["apple"], force=True)
    assert says(place, "apple.who", "apple") == "1"


def test_a_record_too_large_to_be_one_is_refused(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    place = tmp_path / "venv"
    place_wheels(store, place, wheels["apple"])
    with open(place / "vrfstore.json", "r+b") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(StoreDamagedError):
        place_wheels(store, place, wheels["apple"])


def test_a_record_cannot_lead_out_through_a_link(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    place, outside = tmp_path / "venv", tmp_path / "outside"
    place_wheels(store, place, wheels["apple"])
    (outside / "__pycache__").mkdir(parents=True)
    (outside / "secret").symlink_to("somewhere")
    (outside / "empty").mkdir()
    (place / "door").symlink_to(outside)
    made = json.loads((place / "vrfstore.json").read_text())["made"]
    listed = {
        "door/secret": ["l:somewhere", "", []],
        "door/empty": ["d", "", []],
        "door/deep/er": ["d", "", []],
    }
    _record_with(place, made=made | listed)
    before = stats(outside)
    place_wheels(store, place, wheels["pear"])
    assert stats(outside) == before
    assert (place / "door").is_symlink()


def test_on_a_full_disk_it_says_so_and_the_next_one_makes_it_whole(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    whole = tmp_path / "whole"
    place_wheels(store, whole, wheels["apple"])
    calls = with_fault(
        Fault(), functools.partial(_link_apple, store, wheels["apple"], tmp_path / "count")
    ).calls
    for point in range(1, calls + 1, max(1, calls // 25)):
        place = tmp_path / f"venv-{point}"
        action = functools.partial(_link_apple, store, wheels["apple"], place)
        outcome = with_fault(Fault(point=point, lasting=True), action)
        assert outcome.exit_code == 16, outcome
        place_wheels(store, place, wheels["apple"])
        assert alike(place) == alike(whole)
        shutil.rmtree(place)


def test_how_it_is_linked_can_be_said_and_changed(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    place = tmp_path / "venv"
    options = LinkOptions(isolated=True, prompt="orchard", materialize=("apple",))
    place_wheels(store, place, wheels["apple"], wheels["pear"], options=options)
    assert not (site(place) / "apple").is_symlink()
    assert (site(place) / "pear").is_symlink()
    assert "include-system-site-packages = false" in (place / "pyvenv.cfg").read_text()
    assert "prompt = 'orchard'" in (place / "pyvenv.cfg").read_text()
    assert "orchard" in (place / "bin/activate").read_text()
    (site(place) / "apple/deep/made_at_run_time.txt").touch()
    place_wheels(store, place, wheels["pear"], options=options)
    assert (site(place) / "apple/deep/made_at_run_time.txt").exists()
    assert not (site(place) / "apple/__init__.py").exists()
    place_wheels(store, place, wheels["pear"])
    assert "include-system-site-packages = true" in (place / "pyvenv.cfg").read_text()


def debian() -> str:
    """Return a Python of Debian's that sees Debian's pip."""
    for python in pythons():
        directories = interpreter.probe(python).site_directories
        places = [place for place in directories if Path(place, "pip").is_dir()]
        if places and places[0].endswith("/lib/python3/dist-packages"):
            return python
    pytest.skip("there is no Python with Debian's pip")


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ([], True),
        (["--materialize", "all"], False),
        (["--materialize", "apple"], True),
        (["--isolated"], False),
    ],
)
def test_who_would_use_the_pip_of_debian_is_warned(
    index: Index,
    store: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    warned: bool,
) -> None:
    for spec in (APPLE, PEAR):
        index.add(spec)
    asked = tmp_path / "requirements.vrf"
    asked.write_text("apple<2\npear\n")
    command = ["--store", store.root, "link", str(asked), "--into", str(tmp_path / "venv"), "--json"]
    command += ["--python", debian(), *options]
    assert run(command) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert any("is Debian's" in each for each in warnings) == warned
    assert run(command) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == [], "nothing was done"


@pytest.mark.parametrize("way", ["materialized", "pip"])
def test_what_that_warning_proposes_works(
    index: Index, store: Store, tmp_path: Path, wheels: Mapping[str, Path], way: str
) -> None:
    for spec in (APPLE, PEAR):
        index.add(spec)
    asked = tmp_path / "requirements.vrf"
    asked.write_text("apple<2\npear\n")
    place = tmp_path / "venv"
    command = ["--store", store.root, "link", str(asked), "--into", str(place), "--python", debian()]
    assert run([*command, *(["--materialize", "all"] if way == "materialized" else [])]) == 0
    installed = next(place.glob("lib/python3*/site-packages"))
    if way == "pip":  # one that is not Debian's, as if it had been installed there
        shutil.copytree(Path(sysconfig.get_path("purelib"), "pip"), installed / "pip")
    before = sources(store)
    own_pip = [f"{place}/bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*own_pip, "install", "--no-index", "--no-deps", wheels["apple_2"]], check=True)
    assert says(place, "apple.who", "apple") == "2"
    subprocess.run([*own_pip, "uninstall", "--yes", "apple", "pear"], check=True)
    assert not any(os.path.lexists(installed / name) for name in ("apple", "pear"))
    assert sources(store) == before


def test_the_command_makes_it_and_says_what_is_by_hand(
    index: Index, store: Store, tmp_path: Path, wheels: Mapping[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for spec in (APPLE, PEAR):
        index.add(spec)
    asked = tmp_path / "requirements.vrf"
    asked.write_text("apple<2\npear\n")
    place = tmp_path / "venv"
    command = ["--store", store.root, "link", str(asked), "--into", str(place), "--json"]
    answers = []
    for _ in range(2):
        assert run(command) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert [answer["status"] for answer in answers] == ["built", "hit"]
    assert answers[0]["python"] == f"{place}/bin/python"
    pip(place, "install", wheels["fig"], wheels["apple_2"])
    assert run(command) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["by_hand"] == [
        {"name": "apple", "version": "2.0"},
        {"name": "fig", "version": "1.0"},
    ]
    assert "apple 2.0 was installed by hand and stays; 1.0 is not linked" in said.err
    assert run(["--store", store.root, "link", str(asked), "--into", store.root]) == 2


PATHS = ["a", "a/b", "a/b/c", "a/d", "e", "e/f", "g"]
WHATS = ["d", "l:x", "l:y", "f:644:0", "f:644:1"]
MADE = st.dictionaries(
    st.sampled_from(PATHS), st.builds(Made, st.sampled_from(WHATS), before=st.tuples(st.sampled_from(WHATS)))
)
WANTED = st.dictionaries(st.sampled_from(PATHS), st.sampled_from(WHATS))
FOUND = st.fixed_dictionaries(
    {path: st.none() | st.sampled_from([*WHATS, "?", "f:644:9", "l:mine"]) for path in PATHS}
)


@settings(max_examples=400)
@given(MADE, WANTED, FOUND, st.sets(st.sampled_from(PATHS)), st.sets(st.sampled_from(PATHS)))
def test_nothing_of_the_users_is_ever_changed(
    made: dict[str, Made],
    wanted: dict[str, str],
    found: dict[str, str | None],
    again: set[str],
    stays: set[str],
) -> None:
    changes = external.decide(made, wanted, found, again=again, stays=stays)
    put, remove, kept = map(set, (changes.put, changes.remove, changes.kept))
    assert not put & remove
    assert not put & kept
    assert not remove & wanted.keys()
    for path in put | remove:
        there = found[path]
        mine = made.get(path)
        ours = mine is not None and there in (mine.what, *mine.before)
        assert there is None or ours or path in again
        assert there is None or path not in stays or path in again or path in remove
    # What is below a path that becomes a link would be somewhere else by then.
    becoming = {path for path in put if wanted[path] != "d"}
    assert not any(path.startswith(f"{above}/") for path in remove for above in becoming)
    for path, what in wanted.items():
        done = path in put or path in kept or found[path] == what
        assert done or any(path.startswith(f"{above}/") for above in kept)
    order = list(changes.put)
    assert all(
        order.index(path) > order.index(above)
        for path in put
        for above in put
        if path.startswith(f"{above}/")
    )
    order = list(changes.remove)
    assert all(
        order.index(path) < order.index(above)
        for path in remove
        for above in remove
        if path.startswith(f"{above}/")
    )
    if {path: wanted.get(path) for path in PATHS} == found:
        assert changes.nothing


def _registered(store: Store) -> list[str]:
    return sorted(os.listdir(store.layout.of("external")))


def test_what_was_at_the_same_path_before_is_forgotten_once_the_new_one_stands(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    place = tmp_path / "venv"
    place_wheels(store, place, wheels["apple"])
    shutil.rmtree(place)
    place_wheels(store, place, wheels["pear"])
    assert _registered(store) == [f"{record(place).token}.json"]
    later(store)
    assert {name.partition("-")[2] for name in store.entries()} == {"pear-1.0"}


def test_a_copy_that_is_linked_takes_nothing_from_where_it_is_from(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    place, copy = tmp_path / "venv", tmp_path / "copy"
    place_wheels(store, place, wheels["apple"])
    shutil.copytree(place, copy, symlinks=True)
    place_wheels(store, copy, wheels["pear"])
    assert _registered(store) == sorted(f"{record(each).token}.json" for each in (place, copy))


def test_by_force_nothing_is_left_of_another_version_that_was_installed_by_hand(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    place = tmp_path / "venv"
    place_wheels(store, place, wheels["apple"])
    pip(place, "install", wheels["apple_2"], wheels["fig"])
    linked = place_wheels(store, place, wheels["apple"], force=True)
    assert not (site(place) / "apple-2.0.dist-info").exists()
    assert (site(place) / "fig-1.0.dist-info").exists()
    assert says(place, "apple.who, importlib.metadata.version('apple')", "apple", "importlib.metadata") == (
        "(1, '1.0')"
    )
    assert linked.warnings == ("apple 2.0, installed by hand, was replaced",)


def test_what_was_installed_for_another_interpreter_is_named(
    store: Store, tmp_path: Path, wheels: Mapping[str, Path]
) -> None:
    place = tmp_path / "venv"
    place_wheels(store, place, wheels["apple"])
    (place / "lib/python3.5/site-packages/mine-1.dist-info").mkdir(parents=True)
    known = json.loads((place / "vrfstore.json").read_text())
    known["library"] = "python3.5"
    (place / "vrfstore.json").write_text(json.dumps(known))
    linked = place_wheels(store, place, wheels["apple"])
    assert len(linked.warnings) == 1
    assert linked.warnings[0].endswith(f"{place}/bin/python -m pip install mine==1")
    assert place_wheels(store, place, wheels["apple"]).warnings == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_links_into_nobody_else_s_directory(store: Store, tmp_path: Path) -> None:
    place = tmp_path / "venv"
    place.mkdir()
    os.chown(place, 12345, 12345)
    for force in (False, True):
        with pytest.raises(UsageError) as raised:
            check_directory(store, str(place), force=force)
        assert raised.value.kind == "into-owner"


def test_whoever_holds_an_environment_makes_no_composite(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mending a member takes its hold, and then those of environments that are linked to it.
    top = WheelSpec(
        name="top",
        files={
            "top/__init__.py": "",
            "top/core.so": elf_bytes(needed=["libbottom.so.1"], runpath="$ORIGIN/../bottom/lib"),
        },
    )
    bottom = WheelSpec(
        name="bottom",
        files={"bottom/__init__.py": "", "bottom/lib/libbottom.so.1": elf_bytes(soname="libbottom.so.1")},
    )
    held: list[str] = []
    made: list[list[str]] = []
    hold, ensure = Store.hold_environment, composites.ensure

    @contextlib.contextmanager
    def holding(self: Store, key: str) -> Iterator[None]:
        with hold(self, key):
            held.append(key)
            yield
            held.remove(key)

    def making(*arguments: Any) -> None:
        made.append(list(held))
        ensure(*arguments)

    monkeypatch.setattr(Store, "hold_environment", holding)
    monkeypatch.setattr(composites, "ensure", making)
    linked = place_wheels(store, tmp_path / "venv", build_wheel(top, tmp_path), build_wheel(bottom, tmp_path))
    assert len(linked.record.composites) == 1
    assert made == [[]]
