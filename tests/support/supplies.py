"""Wheels, their locks, and stores that have asked the interpreter already: for tests that make many of them."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

from support.locks import write_lock
from support.wheels import WheelSpec, build_wheel
from vrfstore import fs
from vrfstore.runner.link import link
from vrfstore.store.store import Store

__all__ = ["Supplies"]


class Supplies:
    """Wheels in a directory, and what a probe of the interpreter said, so that it is asked once.

    Attributes:
        folder: The directory.
        wheels: Their paths, in the order of their specifications.
    """

    def __init__(self, folder: Path, *specs: WheelSpec) -> None:
        self.folder = folder
        (folder / "wheels").mkdir()
        # Unlike those of any other test: in /proc, a name counts for every store that has it.
        extra = f"Keywords: {fs.unique_name()}\n"
        self.wheels = [build_wheel(replace(spec, metadata_extra=extra), folder / "wheels") for spec in specs]
        store = Store.open(folder / "probed")
        link(self.lock(0), store=store)
        probes = Path(store.layout.of("interpreters")).glob("*.json")
        self._probes = {path.name: path.read_bytes() for path in probes}

    @functools.cache  # noqa: B019 - as long as the test
    def lock(self, *chosen: int) -> Path:
        """Return the lock of some of the wheels, by their numbers."""
        name = "-".join(str(number) for number in chosen)
        return write_lock(self.folder / name, [self.wheels[number] for number in chosen])

    def store(self, place: Path) -> Store:
        """Return a new store."""
        store = Store.open(place)
        for name, content in self._probes.items():
            Path(store.layout.of("interpreters", name)).write_bytes(content)
        return store
