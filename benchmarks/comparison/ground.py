"""What scenarios stand on: a scratch directory, files that say what is asked for, caches that are full, and tidying."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from comparison.processes import After, Command, Spawner, Taken
from comparison.toolbox import Toolbox
from comparison.tools import FILLING, INSTALL, Asked, Place, Steps, Tool
from comparison.workloads import Wheels, pins_of
from vrfstore import fs

__all__ = ["Ground", "Made", "remove", "scratch_directory"]

LONGEST_PAUSE = 5.0
"""Seconds after a delete at most: a file system may make new inodes many times slower for a while."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """An environment that a tool has made, and what that took.

    Attributes:
        python: The path of its interpreter.
        environment: Its directory.
        figures: ``wall``, ``processor``, ``peak``, and the wall time of each step by its name.
    """

    python: str
    environment: str
    figures: dict[str, float]


@dataclass(kw_only=True, slots=True)
class Ground:
    """One workload, an index that has it, and a directory to work in."""

    spawner: Spawner
    box: Toolbox
    scratch: Path
    wheels: Wheels
    index: str
    _count: int = 0
    _lock: dict[str, Any] = field(default_factory=dict)
    _warmed: dict[str, Path] = field(default_factory=dict)

    def fresh(self, name: str) -> Path:
        """Return a path where nothing is."""
        self._count += 1
        return self.scratch / f"{name}-{self._count}"

    def place(self, cache: Path) -> Place:
        """Return where a tool is to make its next environment."""
        cache.mkdir(exist_ok=True)
        return Place(box=self.box, index=self.index, cache=cache, environment=self.fresh("environment"))

    @property
    def pins(self) -> list[str]:
        """What the workload pins."""
        return pins_of(self.wheels.files)

    def asked(self, *, added: bool = False, pins: Sequence[str] | None = None) -> Asked:
        """Return the files that ask for the workload, with one package more, or for some of its pins only."""
        wanted = list(self.pins if pins is None else pins) + (pins_of([self.wheels.added]) if added else [])
        directory = self.fresh("asked")
        directory.mkdir()
        written = Asked(
            pins=directory / "pins.txt",
            lock=directory / "pylock.toml",
            project=directory,
            collides=self.wheels.set.collides,
        )
        written.pins.write_text("".join(f"{pin}\n" for pin in wanted))
        written.lock.write_text(tomli_w.dumps(_part(self._whole_lock(), wanted)))
        project = {"name": "asked", "version": "1.0", "requires-python": ">=3.9", "dependencies": wanted}
        (directory / "pyproject.toml").write_text(tomli_w.dumps({"project": project}))
        return written

    def _whole_lock(self) -> Mapping[str, Any]:
        """Return the lock of all wheels, the added one included; vrfstore makes it, once."""
        if not self._lock:
            place = self.place(self.fresh("locking"))
            wanted, lock = place.cache / "wanted.txt", place.cache / "pylock.toml"
            wanted.write_text("".join(f"{pin}\n" for pin in [*self.pins, *pins_of([self.wheels.added])]))
            words = [self.box.vrfstore, "--store", place.cache / "store", "lock", wanted, "--isolated"]
            self.spawner.run(place.command(*words, "--python", self.box.base, "--quiet", "--output", lock))
            self._lock = tomllib.loads(lock.read_text())
        return self._lock

    def warmed(self, tool: Tool) -> Path:
        """Return the directory of a tool's caches, which have all wheels, and bytecode if the tool keeps that there.

        Raises:
            CommandError: It did not get them.
        """
        if tool.family not in self._warmed:
            cache = self.fresh("cache")
            self.make(FILLING.get(tool.family, tool), self.place(cache), self.asked(added=True))
            self.settle(cache)
            self._warmed[tool.family] = cache
        return self._warmed[tool.family]

    def figures_of(self, *commands: Command) -> dict[str, float]:
        """Run commands side by side, and return what they took.

        Raises:
            CommandError: One of them failed.
        """
        return total([self.spawner.run(*commands)])

    def settle(self, cache: Path, after: After = "wait") -> None:
        """Wait for all that commands have left behind, or kill it: a command that does nothing does it."""
        self.spawner.run(self.place(cache).command("true"), after=after)

    def make(self, tool: Tool, place: Place, asked: Asked) -> Made:
        """Make an environment.

        Raises:
            CommandError: The tool failed.
        """
        return self.run(tool, place, tool.make(place, asked))

    def run(self, tool: Tool, place: Place, steps: Steps) -> Made:
        """Run the steps of a tool one after another.

        Raises:
            CommandError: One of them failed.
        """
        taken = {name: self.spawner.run(command) for name, command in steps.items()}
        environment = str(place.environment)
        if tool.managed:
            environment = os.path.dirname(os.path.dirname(taken[INSTALL].output.strip().splitlines()[-1]))
        figures = total(taken.values()) | {name: each.wall for name, each in taken.items()}
        return Made(python=f"{environment}/bin/python", environment=environment, figures=figures)


def total(taken: Iterable[Taken]) -> dict[str, float]:
    """Return the figures of commands that ran one after another."""
    every = list(taken)
    return {
        "wall": sum(each.wall for each in every),
        "processor": sum(each.processor for each in every),
        "peak": max(each.peak for each in every),
    }


def _part(lock: Mapping[str, Any], pins: Sequence[str]) -> dict[str, Any]:
    """Return a lock with some of the packages of another."""
    names = {pin.partition("==")[0] for pin in pins}
    return {**lock, "packages": [package for package in lock["packages"] if package["name"] in names]}


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """Give a directory on the disk of another one, and remove it, sealed or not."""
    path = tempfile.mkdtemp(dir=parent, prefix=".bench-")
    try:
        yield Path(path)
    finally:
        remove([Path(path)], pause=False)


def remove(paths: Sequence[Path], *, pause: bool = True) -> None:
    """Remove trees, and wait twice as long as that took, until the file system has got over it."""
    began = time.monotonic()
    for path in paths:
        if path.is_dir():
            fs.remove_tree(str(path))
        # What is not sealed may have a mount or a process in its way.
        shutil.rmtree(path, ignore_errors=True)
    if pause:
        os.sync()
        time.sleep(min(LONGEST_PAUSE, 2 * (time.monotonic() - began)))
