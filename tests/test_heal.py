"""``env check`` and ``env heal``: what drifts is said, mended in place, and what people put there stays."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.crash import dangling, each_kill, make_environment, stats, tree
from support.elf import elf_bytes
from support.index import Index
from support.pythons import pythons
from support.venvs import probed, relocated
from support.wheels import WheelSpec, build_wheel
from vrfstore import fs, interpreter
from vrfstore.errors import DriftError
from vrfstore.interpreter import default_executable
from vrfstore.linker.into import Asked, link_into
from vrfstore.model import LinkOptions, Lock, LockedWheel
from vrfstore.requirements import lock as locks
from vrfstore.runner import inspection
from vrfstore.runner.check import Subject, check
from vrfstore.runner.heal import Healed, heal
from vrfstore.runner.link import link
from vrfstore.store import externals, interpreters
from vrfstore.store.externals import ExternalRecord
from vrfstore.store.store import Store

APPLE = WheelSpec(
    name="apple",
    requires=["pear>=1"],
    files={"apple/__init__.py": "import pear\nwho = 1\n", "apple_single.py": "who = 1\n"},
    data={"data/etc/apple.conf": "sweet\n", "data/share/jupyter/kernels/apple/kernel.json": "{}"},
    entry_points={"console_scripts": {"eat": "apple:who"}},
)
PEAR = WheelSpec(name="pear", version="1.5", files={"pear/__init__.py": "who = 1\n"})
PEAR_0 = WheelSpec(name="pear", version="0.5", files={"pear/__init__.py": "who = 0\n"})
FIG = WheelSpec(name="fig", files={"fig/__init__.py": "who = 'by hand'\n"})


pytestmark = pytest.mark.usefixtures("without_sync")


@dataclass(frozen=True)
class World:
    """A store, an index, and one environment linked from it."""

    store: Store
    index: Index
    folder: Path
    place: Path
    wheels: tuple[Path, ...]

    @property
    def record(self) -> ExternalRecord:
        found = externals.read(str(self.place))
        assert found is not None
        return found

    @property
    def site(self) -> Path:
        return self.place / self.record.site_packages

    @property
    def requirements(self) -> Path:
        return self.folder / "requirements.vrf"

    def resolve(self, place: Path, python: str) -> Path:
        """Link the requirements into a directory, as a user would."""
        link(self.requirements, store=self.store, into=place, python=python)
        return place

    def link(self, place: Path | None = None, python: str | None = None) -> Path:
        """Link what they are known to resolve to, which takes no pip."""
        place = place or self.place
        layout = self.store.layout
        executable = interpreter.find(python)
        with self.store.session() as lease:
            base, _ = interpreters.known(layout, lease, executable)
            plans = [self.store.add(wheel).plan for wheel in self.wheels]
            wheels = [
                LockedWheel(
                    name=plan.reference.name,
                    version=plan.reference.version,
                    filename=wheel.name,
                    digest=plan.reference.digest,
                    url=self.index.file_url(wheel.name),
                )
                for plan, wheel in zip(plans, self.wheels, strict=True)
            ]
            asked = Asked(
                requirements="apple\n",
                path=str(self.requirements),
                python=python or "",
                lock=locks.write(layout, lease, Lock(wheels=tuple(wheels), python=base.short_version)),
                options=LinkOptions(),
            )
            link_into(self.store, lease, plans, base, str(place), asked)
        return place

    def kinds(self, place: Path | None = None) -> list[str]:
        """Return what has drifted; what people did is no drift."""
        found = inspection.find(str(place or self.place), self.store.root, to_look=True)
        checked = check(Subject(found.place, found))
        return [each.kind for each in checked.drifts if each.drifted]

    def heal(self, place: Path | None = None, *, network: bool = True) -> Healed:
        found = inspection.find(str(place or self.place), self.store.root, to_look=False)
        return heal(found, network=network)

    def says(self, expression: str, *imports: str, place: Path | None = None) -> str:
        code = f"import {', '.join(('sys', *imports))}; print(({expression}))"
        python = f"{place or self.place}/bin/python"
        done = subprocess.run([python, "-B", "-c", code], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def by_hand(self, spec: WheelSpec, *options: str, place: Path | None = None) -> None:
        """Install a wheel with pip, or uninstall it."""
        wheel = build_wheel(spec, self.folder)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        pip += ["--python", f"{place or self.place}/bin/python"]
        install = ["install", "--no-index", "--no-deps", "--no-compile", str(wheel)]
        subprocess.run([*pip, *(options or install)], check=True)


@pytest.fixture
def world(index: Index, store: Store, tmp_path: Path) -> World:
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheels = tuple(build_wheel(spec, folder) for spec in (APPLE, PEAR))
    for wheel in wheels:
        index.add(wheel)
    (tmp_path / "requirements.vrf").write_text("apple\n")
    made = World(store, index, tmp_path, tmp_path / "venv", wheels)
    made.link()
    return made


def sources(store: Store) -> dict[str, tuple[str, bytes]]:
    """Return all entries, but for what interpreters add to them."""
    entries = tree(store.layout.of("entries"))
    return {path: content for path, content in entries.items() if not path.endswith(".pyc")}


def content(place: Path) -> dict[str, tuple[str, bytes]]:
    """Return all that an environment has, but for its record, which knows inodes."""
    return {path: found for path, found in tree(place).items() if path != "vrfstore.json"}


def vrfstore(
    *arguments: str | Path, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "vrfstore", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **variables},
    )


def test_where_nothing_has_drifted_nothing_is_touched(world: World) -> None:
    world.by_hand(FIG)
    before = stats(world.place)
    registered = stats(Path(world.store.layout.of("external")))
    assert world.kinds() == []
    assert world.heal() == Healed(place=str(world.place))
    assert stats(world.place) == before
    assert stats(Path(world.store.layout.of("external"))) == registered


def _repoint(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere/at/all")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _remove_token(place: Path) -> None:
    for name in os.listdir(place.parent / "store/external"):
        os.unlink(place.parent / "store/external" / name)


DAMAGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "a link to a package": (lambda site: (site / "apple").unlink(), ["link-missing"]),
    "a re-pointed link": (lambda site: _repoint(site / "apple"), ["link-repointed"]),
    "a module": (lambda site: (site / "apple_single.py").unlink(), ["file-missing"]),
    "a file that a power cut left empty": (lambda site: _empty(site / "apple_single.py"), ["file-missing"]),
    "all scripts": (lambda site: shutil.rmtree(site.parents[2] / "bin"), ["directory-missing"]),
    "all of lib": (lambda site: shutil.rmtree(site.parents[1]), ["directory-missing"]),
    "metadata": (lambda site: shutil.rmtree(site / "apple-1.0.dist-info"), ["directory-missing"]),
    "python": (lambda site: (site.parents[2] / "bin/python").unlink(), ["link-missing"]),
    "a re-pointed python": (lambda site: _repoint(site.parents[2] / "bin/python3"), ["link-repointed"]),
    "the configuration": (lambda site: (site.parents[2] / "pyvenv.cfg").unlink(), ["file-missing"]),
    "its registration": (lambda site: _remove_token(site.parents[2]), ["unregistered"]),
    "a stale link": (
        lambda site: (site.parents[2] / "bin/python3.5").symlink_to("/gone"),
        ["stale-interpreter-link"],
    ),
    "a stale link to itself": (
        lambda site: (site.parents[2] / "bin/python3.5").symlink_to("python"),
        ["stale-interpreter-link"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_said_and_mended_and_people_s_own_stays(world: World, damage: str) -> None:
    entries = sources(world.store)
    whole = content(world.place)
    (world.place / "share/mine").write_text("mine")
    act, expected = DAMAGES[damage]
    act(world.site)
    assert world.kinds() == expected
    assert world.kinds() == expected, "looking has changed something"
    healed = world.heal()
    assert [each.kind for each in healed.mended] == expected
    assert healed.left == ()
    assert world.kinds() == []
    assert world.says("apple.who, sys.prefix", "apple") == f"(1, '{world.place}')"
    (world.place / "share/mine").unlink()
    assert content(world.place) == whole
    assert sources(world.store) == entries


def test_what_was_installed_changed_or_uninstalled_by_hand_stays_so(world: World) -> None:
    world.by_hand(FIG)
    world.by_hand(PEAR_0)
    (world.place / "etc/apple.conf").write_text("mine")
    (world.site / "apple").unlink()
    assert world.kinds() == ["link-missing", "requirement-unmet"]
    healed = world.heal()
    assert [each.kind for each in healed.mended] == ["link-missing"]
    assert [each.message for each in healed.left] == ["apple 1.0 requires pear>=1, and 0.5 is installed"]
    assert world.says("apple.who, pear.who, fig.who", "apple", "pear", "fig") == "(1, 0, 'by hand')"
    assert (world.place / "etc/apple.conf").read_text() == "mine"
    world.by_hand(PEAR, "uninstall", "--yes", "pear")
    (world.site / "apple").unlink()
    world.heal()
    assert not (world.site / "pear").exists()
    world.link()
    assert world.says("apple.who, pear.who", "apple", "pear") == "(1, 1)"
    assert world.kinds() == []


def test_uninstalled_stays_away_when_something_else_is_mended(world: World) -> None:
    world.by_hand(APPLE, "uninstall", "--yes", "apple")
    assert world.kinds() == []
    _repoint(world.site / "pear")
    world.heal()
    assert not (world.site / "apple").exists()
    assert world.says("pear.who", "pear") == "1"
    assert [wheel.name for wheel in world.record.wheels] == ["pear"]


def test_one_that_was_moved_is_registered_anew_and_works(world: World) -> None:
    moved = world.folder / "elsewhere"
    world.place.rename(moved)
    first = vrfstore("--store", world.store.root, "env", "check", moved)
    assert (first.returncode, first.stdout.splitlines()[0]) == (
        23,
        f"{moved}: moved: it was at {world.place}; registered anew",
    )
    known = externals.read_registration(world.store.layout, _record(moved).token)
    assert known is not None
    assert known.path == str(moved)
    assert world.kinds(moved) == ["moved"]
    world.heal(moved)
    assert world.kinds(moved) == []
    assert world.says("sys.prefix", "apple", place=moved) == str(moved)
    assert str(moved) in (moved / "bin/activate").read_text()
    assert dangling(str(moved)) == []


def _record(place: Path) -> ExternalRecord:
    found = externals.read(str(place))
    assert found is not None
    return found


def test_a_copy_becomes_an_environment_of_its_own(world: World) -> None:
    copy = world.folder / "copy"
    shutil.copytree(world.place, copy, symlinks=True)
    assert world.kinds(copy) == ["unregistered"]
    token = world.record.token
    world.heal(copy)
    assert world.kinds(copy) == []
    assert world.kinds() == []
    assert world.record.token == token != _record(copy).token
    registered = externals.registrations(world.store.layout)
    paths = {found.path for found in registered if isinstance(found, externals.Registration)}
    assert paths == {str(world.place), str(copy)}


def test_a_store_that_was_moved_is_followed(world: World) -> None:
    moved = world.folder / "new store"
    Path(world.store.root).rename(moved)
    found = inspection.find(str(world.place), str(moved), to_look=False)
    assert found.store.root == str(moved)
    healed = heal(found)
    assert healed.left == ()
    assert dangling(str(world.place)) == []
    assert world.says("apple.who", "apple") == "1"
    assert world.record.store == str(moved)


def test_nothing_is_started_that_only_a_record_of_anybody_s_names(world: World) -> None:
    trap = world.folder / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {world.folder}/sprung\n")
    trap.chmod(0o755)
    record = json.loads((world.place / "vrfstore.json").read_text())
    changes = {"executable": str(trap), "asked": str(trap), "token": "0" * 16}
    (world.place / "vrfstore.json").write_text(json.dumps(record | changes))
    assert world.kinds() == ["unregistered"]
    assert not (world.folder / "sprung").exists()


def test_entries_that_are_gone_are_fetched_again_through_the_lock(world: World) -> None:
    gone = next(name for name in world.store.entries() if "apple" in name)
    fs.remove_tree(world.store.layout.of("entries", gone))
    assert world.kinds() == ["entry-missing"]
    before = stats(world.place)
    world.index.requests.clear()
    with pytest.raises(DriftError) as raised:
        world.heal(network=False)
    assert raised.value.exit_code == 23
    assert stats(world.place) == before
    assert world.index.requests == []
    healed = world.heal()
    assert [each.kind for each in healed.mended] == ["entry-missing"]
    assert world.index.downloads("apple-1.0-py3-none-any.whl") == 1
    assert world.says("apple.who", "apple") == "1"


def test_without_a_lock_it_says_what_to_do(world: World) -> None:
    for part in ("entries", "locks"):
        for name in os.listdir(world.store.layout.of(part)):
            fs.remove_tree(world.store.layout.of(part, name))
    with pytest.raises(DriftError) as raised:
        world.heal()
    assert "no lock says" in str(raised.value)
    assert raised.value.hint == (
        f"link it again with: vrfstore link {world.requirements} --into {world.place}"
    )


def test_a_composite_that_is_gone_is_made_again(world: World) -> None:
    needing = WheelSpec(
        name="needing",
        files={
            "needing/__init__.py": "who = 1\n",
            "needing/core.so": elf_bytes(needed=["libneeded.so.1"], runpath="$ORIGIN/../needed/lib"),
        },
    )
    needed = WheelSpec(
        name="needed",
        files={"needed/__init__.py": "", "needed/lib/libneeded.so.1": elf_bytes(soname="libneeded.so.1")},
    )
    for spec in (needing, needed):
        world.index.add(spec)
    world.requirements.write_text("needing\nneeded\n")
    world.resolve(world.place, default_executable())
    (composite,) = world.record.composites
    managed = link(world.requirements, store=world.store).environment
    fs.remove_tree(world.store.layout.of("entries", composite.directory))
    for place in (world.place, Path(managed)):
        assert world.kinds(place)[0] == "entry-missing"
    assert world.heal(network=False).left == ()
    for place in (world.place, Path(managed)):
        assert world.heal(place, network=False).left == ()
        assert world.kinds(place) == []
        assert world.says("needing.who", "needing", place=place) == "1"


def as_linked_for(place: Path, version: str) -> None:
    """Let an environment look as if its interpreter had been of another release when it was linked."""
    path = place / "vrfstore.json"
    record = json.loads(path.read_text())
    configuration = (place / "pyvenv.cfg").read_text()
    configuration = configuration.replace(record["interpreter"]["version"], version)
    (place / "pyvenv.cfg").write_text(configuration)
    record["interpreter"]["version"] = version
    digest = hashlib.sha256(configuration.encode()).hexdigest()
    record["made"]["pyvenv.cfg"] = [f"f:644:{digest}", "", []]
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("touched", [False, True])
def test_an_interpreter_that_was_upgraded_is_followed(world: World, touched: bool) -> None:
    whole = content(world.place)
    version = probed(default_executable()).version
    older = f"{version.rpartition('.')[0]}.0"
    as_linked_for(world.place, older)
    if touched:
        (world.place / "pyvenv.cfg").write_text("home = /gone\nversion = 3\n")
    world.by_hand(FIG) if not touched else None
    assert world.kinds() == ["interpreter-upgraded"]
    healed = world.heal(network=False)
    assert [each.kind for each in healed.mended] == ["interpreter-upgraded"]
    assert f"Python {older} is now {version}" in healed.mended[0].message
    assert world.kinds() == []
    assert f"version = {version}\n" in (world.place / "pyvenv.cfg").read_text()
    assert touched or world.says("fig.who, apple.who", "fig", "apple") == "('by hand', 1)"
    now = {path: found for path, found in content(world.place).items() if "fig" not in path}
    assert now.pop("pyvenv.cfg.before-healing", None) == (
        ("-rw-r--r--", b"home = /gone\nversion = 3\n") if touched else None
    )
    assert now == whole


def builds(*, other: bool) -> list[str]:
    """Return pythons that bear to be moved, one for each X.Y; one is enough unless others are wanted."""
    found = {probed(python).short_version: python for python in pythons() if probed(python).prefix != "/usr"}
    if len(found) < 1 + other:
        pytest.skip("there are not enough builds of Python here that can be moved")
    return [found[version] for version in sorted(found, key=lambda version: int(version.split(".")[1]))]


def base_at(folder: Path, python: str) -> str:
    """Put a base without packages into the place of what is there; return ``python3``, which is what is asked for."""
    shutil.rmtree(folder, ignore_errors=True)
    moved = relocated(python, folder, packages=False)
    if moved is None:
        pytest.skip("this build of Python does not bear to be moved")
    (folder / "bin/python3").symlink_to(os.readlink(moved))
    # Its probe is remembered by what tells that it is the same file.
    return str(folder / "bin/python3")


def test_an_interpreter_that_was_moved_is_followed_through_what_was_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = builds(other=False)[-1]
    first = base_at(world.folder / "first", python)
    monkeypatch.setenv("PATH", f"{os.path.dirname(first)}:/nowhere")
    place = world.folder / "following"
    world.link(place, python="python3")
    shutil.rmtree(world.folder / "first")
    assert world.kinds(place) == ["interpreter-missing"]
    before = stats(place)
    assert [each.kind for each in world.heal(place).left] == ["interpreter-missing"]
    assert stats(place) == before
    second = base_at(world.folder / "second", python)
    monkeypatch.setenv("PATH", f"/nowhere:{os.path.dirname(second)}")
    assert world.kinds(place) == ["interpreter-moved"]
    assert world.heal(place, network=False).left == ()
    assert world.kinds(place) == []
    assert world.says("sys.base_prefix, apple.who", "apple", place=place) == f"('{world.folder}/second', 1)"


def test_for_another_minor_version_it_is_resolved_again_and_linked_beside(world: World) -> None:
    old, new = builds(other=True)[-2:]
    base = base_at(world.folder / "opt", old)
    place = world.folder / "following"
    world.link(place, python=base)
    library = _record(place).library
    world.by_hand(FIG, place=place)
    (place / "bin/python3.5").symlink_to("/gone")
    base_at(world.folder / "opt", new)
    assert world.kinds(place) == ["interpreter-changed", "stale-interpreter-link"]
    before = stats(place)
    with pytest.raises(DriftError):
        world.heal(place, network=False)
    assert stats(place) == before
    healed = world.heal(place)
    assert healed.left == ()
    assert [each.kind for each in healed.mended] == ["interpreter-changed", "stale-interpreter-link"]
    assert len(healed.notes) == 1
    assert f"stays in lib/{library}; for {_record(place).library}, install it again with" in healed.notes[0]
    assert f"{place}/bin/python -m pip install fig==1.0" in healed.notes[0]
    assert world.kinds(place) == []
    version = probed(new).short_version
    assert world.says("sys.version_info[:2], apple.who", "apple", place=place) == (
        f"(({version.replace('.', ', ')}), 1)"
    )
    assert not (place / f"bin/{library}").is_symlink()
    left = sorted(path.name for path in (place / f"lib/{library}/site-packages").iterdir())
    assert left == ["fig", "fig-1.0.dist-info"]
    assert dangling(str(place)) == []


def test_what_came_from_a_lock_and_from_a_wheel_by_path_follows_to_another_minor_version(
    world: World,
) -> None:
    old, new = builds(other=True)[-2:]
    base = base_at(world.folder / "opt", old)
    place, lock, own = (world.folder / name for name in ("following", "pylock.toml", "own.txt"))
    wheel = build_wheel(FIG, world.folder)
    own.write_text(f"./{wheel.name}\n")
    world.requirements.write_text("apple\n")
    store = ["--store", world.store.root]
    commands: list[list[str | Path]] = [
        ["lock", world.requirements, "-o", lock, "--python", base],
        ["link", lock, own, "--into", place, "--python", base],
    ]
    for command in commands:
        done = vrfstore(*store, *command)
        assert done.returncode == 0, done
    base_at(world.folder / "opt", new)
    assert world.heal(place).left == ()
    assert world.says("sys.version_info[1], apple.who, bool(fig)", "apple", "fig", place=place) == (
        f"({probed(new).short_version.partition('.')[2]}, 1, True)"
    )


def test_where_nothing_can_be_had_for_the_new_one_all_stays(world: World) -> None:
    old, new = builds(other=True)[-2:]
    base = base_at(world.folder / "opt", old)
    place = world.folder / "following"
    versions = probed(old).short_version
    for spec in (APPLE, PEAR):
        changed = WheelSpec(name=spec.name, version="9", requires_python=f"=={versions}.*")
        world.index.add(changed)
    world.requirements.write_text("apple==9\n")
    world.resolve(place, base)
    base_at(world.folder / "opt", new)
    before = stats(place)
    asked = vrfstore("--store", world.store.root, "env", "heal", place)
    assert asked.returncode == 11, asked
    assert stats(place) == before


def test_as_long_as_the_interpreter_is_there_nothing_follows_to_another_minor_version(world: World) -> None:
    old, new = builds(other=True)[-2:]
    (world.folder / "bin").mkdir()
    asked = world.folder / "bin/python3"
    asked.symlink_to(old)
    place = world.folder / "following"
    world.link(place, python=str(asked))
    asked.unlink()
    asked.symlink_to(new)
    assert world.kinds(place) == []


def test_killed_at_every_step_healing_again_makes_it_whole(world: World) -> None:
    python = builds(other=False)[-1]
    first = base_at(world.folder / "first", python)
    second = base_at(world.folder / "second", python)
    asked = world.folder / "python3"
    counter = iter(range(10_000))
    asked.symlink_to(second)
    whole = content(world.link(world.folder / "pattern", python=str(asked)))

    def prepare() -> Path:
        asked.unlink()
        asked.symlink_to(first)
        place = world.link(world.folder / f"venv-{next(counter)}", python=str(asked))
        asked.unlink()
        asked.symlink_to(second)
        site = place / _record(place).site_packages
        _repoint(site / "apple")
        shutil.rmtree(site / "pear-1.5.dist-info")
        (site / "mine.py").touch()
        (place / "bin/python3.5").symlink_to("/gone")
        return place

    for point, place in each_kill(prepare, functools.partial(_heal, world)):
        healed = world.heal(place)
        assert healed.left == (), f"killed at step {point}"
        assert world.kinds(place) == []
        (place / _record(place).site_packages / "mine.py").unlink()
        healed_content = {
            path: found for path, found in content(place).items() if "activate" not in path.lower()
        }
        assert healed_content == {
            path: found for path, found in whole.items() if "activate" not in path.lower()
        }
        shutil.rmtree(place)


def _heal(world: World, place: Path) -> None:
    world.heal(place)


@pytest.mark.slow
def test_killed_on_the_way_to_another_minor_version_healing_again_makes_it_whole(world: World) -> None:
    old, new = builds(other=True)[-2:]
    bases = {name: base_at(world.folder / name, python) for name, python in (("old", old), ("new", new))}
    asked = world.folder / "python3"
    counter = iter(range(10_000))
    asked.symlink_to(bases["new"])
    # Resolved once, so that no pip runs in what is killed.
    whole = content(world.resolve(world.folder / "pattern", str(asked)))

    def prepare() -> Path:
        asked.unlink()
        base_at(world.folder / "old", old)
        asked.symlink_to(bases["old"])
        place = world.link(world.folder / f"venv-{next(counter)}", python=str(asked))
        (place / _record(place).site_packages / "mine.py").touch()
        asked.unlink()
        asked.symlink_to(bases["new"])
        shutil.rmtree(world.folder / "old")
        return place

    for point, place in each_kill(prepare, functools.partial(_heal, world)):
        assert world.heal(place).left == (), f"killed at step {point}"
        assert world.kinds(place) == []
        mine = next(place.rglob("mine.py"))
        assert mine.parent.parent.name == probed(old).directory_name
        shutil.rmtree(mine.parent.parent)
        healed_content = {
            path: found for path, found in content(place).items() if "activate" not in path.lower()
        }
        assert healed_content == {
            path: found for path, found in whole.items() if "activate" not in path.lower()
        }
        shutil.rmtree(place)


@pytest.fixture
def managed(store: Store, tmp_path: Path) -> Path:
    """The directory of a managed environment."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    record = make_environment(store, *(build_wheel(spec, folder) for spec in (APPLE, PEAR)))
    return Path(store.layout.of("environments", record.directory))


def look(place: Path) -> list[str]:
    found = inspection.find(str(place), None, to_look=True)
    return [each.kind for each in check(Subject(found.place, found)).drifts if each.drifted]


MANAGED_DAMAGES: Mapping[str, tuple[str, list[str]]] = {
    "lib/{library}/site-packages/apple": ("remove", ["link-missing"]),
    "lib/{library}/site-packages/pear": ("repoint", ["link-repointed"]),
    "lib/{library}/site-packages/apple_single.py": ("remove", ["file-missing"]),
    "lib/{library}/site-packages/apple-1.0.dist-info": ("remove", ["directory-missing"]),
    "lib/{library}": ("remove", ["directory-missing"]),
    "bin": ("remove", ["directory-missing"]),
    "bin/python": ("repoint", ["link-repointed"]),
    "bin/eat": ("remove", ["file-missing"]),
    "etc/apple.conf": ("empty", ["file-missing"]),
    "pyvenv.cfg": ("remove", ["file-missing"]),
}


@pytest.mark.parametrize("path", MANAGED_DAMAGES)
def test_a_managed_environment_is_mended_in_place_and_handed_out_again(
    store: Store, managed: Path, path: str
) -> None:
    act, expected = MANAGED_DAMAGES[path]
    assert look(managed) == []
    whole = content(managed)
    record = store.record(managed.name)
    damaged = managed / path.format(library=record.library)
    if act == "repoint":
        _repoint(damaged)
    elif act == "empty":
        _empty(damaged)
    elif damaged.is_dir() and not damaged.is_symlink():
        fs.remove_tree(str(damaged))
    else:
        damaged.unlink()
    assert look(managed) == expected
    healed = heal(inspection.find(str(managed), None, to_look=False))
    assert [each.kind for each in healed.mended] == expected
    assert healed.left == ()
    assert look(managed) == []
    assert content(managed) == whole
    found, generation = store.usable_environment(record.key)
    assert found is not None
    assert generation == 0


def test_a_managed_one_with_something_by_hand_keeps_it_and_is_not_handed_out(
    store: Store, managed: Path
) -> None:
    record = store.record(managed.name)
    site = managed / "lib" / record.library / "site-packages"
    (site / "mine.py").touch()
    (site / "apple").unlink()
    healed = heal(inspection.find(managed.name[:8], store.root, to_look=False))
    assert healed.left == ()
    assert (site / "mine.py").exists()
    assert (site / "apple").is_symlink()
    assert store.usable_environment(record.key) == (None, 1)


def test_a_managed_one_whose_interpreter_is_gone_is_left_with_advice(store: Store, managed: Path) -> None:
    path = managed / "vrfstore.json"
    record = json.loads(path.read_text())
    record["executable"] = record["interpreter"]["real"] = "/gone/python3"
    record["asked"] = "/gone/python3"
    path.chmod(0o644)
    path.write_text(json.dumps(record))
    assert look(managed)[0] == "interpreter-missing"
    asked = vrfstore("--store", store.root, "env", "heal", managed)
    assert asked.returncode == 23
    assert "link its requirements again" in asked.stdout


def test_a_managed_one_killed_at_every_step_of_healing_is_whole_afterwards(
    store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheels = [build_wheel(spec, folder) for spec in (APPLE, PEAR)]
    record = make_environment(store, *wheels)
    place = Path(store.layout.of("environments", record.directory))
    whole = content(place)
    site = place / "lib" / record.library / "site-packages"

    def prepare() -> Path:
        for damaged in (site / "apple", site / "apple_single.py"):
            damaged.unlink(missing_ok=True)
        fs.remove_tree(str(place / "bin"))
        return place

    def mend(place: Path) -> None:
        heal(inspection.find(str(place), None, to_look=False))

    for point, _ in each_kill(prepare, mend):
        mend(place)
        assert look(place) == [], f"killed at step {point}"
        assert content(place) == whole, f"killed at step {point}"
        assert store.usable_environment(record.key)[1] == 0


def _replace_by_file(path: Path) -> None:
    path.unlink()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


def _configure(place: Path, old: str, new: str) -> None:
    path = place / "pyvenv.cfg"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


FRAMES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a program in the place of python": (
        lambda place: _replace_by_file(place / "bin/python"),
        "frame-changed",
        "bin/python",
    ),
    "another release": (
        lambda place: _configure(place, "version = 3", "version = 2"),
        "frame-changed",
        "pyvenv.cfg",
    ),
    "other packages of the base": (
        lambda place: _configure(place, "-packages = true", "-packages = false"),
        "frame-changed",
        "pyvenv.cfg",
    ),
    "another home": (
        lambda place: _configure(place, "home = ", "home = /elsewhere"),
        "interpreter-moved",
        "pyvenv.cfg",
    ),
    "garbage": (
        lambda place: (place / "pyvenv.cfg").write_bytes(b"\xff\0\n= \nhome"),
        "frame-changed",
        "pyvenv.cfg",
    ),
    "the own packages of the user": (
        lambda place: next(place.glob("lib/*/site-packages/_vrfstore_*.pth")).write_text("# no\n"),
        "frame-changed",
        "_vrfstore_user_site.pth",
    ),
}


@pytest.mark.parametrize("frame", FRAMES)
def test_the_frame_is_put_right_and_what_was_there_is_kept_beside(world: World, frame: str) -> None:
    act, kind, name = FRAMES[frame]
    whole = content(world.place)
    if kind != "interpreter-moved" and "_" in name and not list(world.site.glob("_vrfstore_*.pth")):
        pytest.skip("the base of this Python has nothing of the kind")
    act(world.place)
    path = next(each for each in (world.place / name, world.site / name) if os.path.lexists(each))
    edited = path.read_bytes()
    assert world.kinds() == [kind]
    healed = world.heal()
    assert ([each.kind for each in healed.mended], healed.left) == ([kind], ())
    beside = path.with_name(f"{path.name}.before-healing")
    assert beside.read_bytes() == edited
    assert any(str(beside.relative_to(world.place)) in note for note in healed.notes)
    beside.unlink()
    assert content(world.place) == whole
    assert world.kinds() == []


def test_what_somebody_says_beside_in_the_configuration_is_kept(world: World) -> None:
    path = world.place / "pyvenv.cfg"
    usual = path.read_text()
    path.write_text(f"mine = yes\n{usual}prompt = me\n")
    assert world.kinds() == []
    before = path.read_text()
    world.link()
    assert path.read_text() == before
    assert not (world.place / "pyvenv.cfg.before-healing").exists()
    older = before.replace("version = 3", "version = 2")
    for name in ("pyvenv.cfg.before-healing", None):
        path.write_text(older)
        healed = world.heal()
        assert path.read_text() == f"{usual}mine = yes\nprompt = me\n"
        assert (world.place / "pyvenv.cfg.before-healing").read_text() == older
        assert name is None or name in " ".join(healed.notes)
    # The name is taken, by something else.
    path.write_text("garbage")
    world.heal()
    assert len(list(world.place.glob("pyvenv.cfg.before-healing*"))) == 2
    assert path.read_text() == usual


@pytest.mark.parametrize("mend", ["heal", "link"])
def test_after_venv_has_upgraded_it_the_configuration_is_ours_again(world: World, mend: str) -> None:
    usual = (world.place / "pyvenv.cfg").read_text()
    command = [default_executable(), "-m", "venv", "--upgrade", "--without-pip", str(world.place)]
    subprocess.run(command, check=True)
    _configure(world.place, "version = 3", "version = 2")
    if mend == "heal":
        world.heal()
    else:
        world.link()
    said = (world.place / "pyvenv.cfg").read_text().splitlines()
    assert set(usual.splitlines()) <= set(said)
    assert not any(line.startswith("version = 2") for line in said)
    assert world.kinds() == []
    assert world.says("apple.who", "apple") == "1"


@pytest.mark.parametrize("path", ["bin/python", "pyvenv.cfg"])
def test_the_frame_of_a_managed_one_is_put_right(managed: Path, path: str) -> None:
    whole = content(managed)
    _replace_by_file(managed / path)
    assert "frame-changed" in look(managed) or "interpreter-moved" in look(managed)
    healed = heal(inspection.find(str(managed), None, to_look=False))
    assert healed.left == ()
    (managed / f"{path}.before-healing").unlink()
    assert content(managed) == whole


@pytest.mark.parametrize("version", ["1.0", "9.0"])
@pytest.mark.parametrize("mend", ["heal", "link", "drop"])
def test_what_was_installed_through_a_link_is_linked_whole_again(
    world: World, version: str, mend: str
) -> None:
    info = world.site / f"apple-{version}.dist-info"
    if info.exists():
        shutil.rmtree(info)
    info.mkdir()
    (info / "METADATA").write_text("Name: apple\n")
    (info / "INSTALLER").write_text("pip\n")
    (info / "RECORD").write_text(f"apple/__init__.py,,\napple_single.py,,\n{info.name}/RECORD,,\n")
    assert "package-behind-link" in world.kinds()
    assert (world.site / "apple").is_symlink()
    if mend == "heal":
        said = " ".join(world.heal().notes)
        assert f"apple {version} had been installed through a link" in said
    elif mend == "link":
        world.link()
    else:
        World(world.store, world.index, world.folder, world.place, world.wheels[1:]).link()
        assert not list(world.site.glob("apple*"))
        assert world.kinds() == []
        return
    assert world.says("apple.who", "apple") == "1"
    assert world.kinds() == []
    assert [each.name for each in world.site.glob("apple-*")] == ["apple-1.0.dist-info"]
    assert (world.site / "apple-1.0.dist-info/METADATA").read_bytes() != b"Name: apple\n"


def test_what_is_left_has_a_next_step(world: World) -> None:
    (world.place / "lib64").unlink()
    (world.place / "lib64").mkdir()
    (world.place / "lib64/mine").touch()
    healed = world.heal()
    assert [each.kind for each in healed.left] == ["frame-changed"]
    again = f"vrfstore link {world.requirements} --into {world.place}"
    assert any(f"{again} --force" in note for note in healed.notes)
    assert (world.place / "lib64/mine").exists()
