"""Export and import of an environment, beside tar with gzip, pigz and zstd of the same files.

usage: .venv/bin/python benchmarks/archives.py [REQUIREMENTS [DIRECTORY]]     (or: make bench-archives)

The peers pack and unpack what the wheels of the environment have, and check nothing. An import hashes every file,
derives links and plans, waits until all is on the disk, and links the environment; once more without waiting, because
the peers do not wait either. Runs alternate, and medians are compared; trees are removed at the end only.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import vrfstore
from vrfstore import fs
from vrfstore.runner.exporting import export_archive
from vrfstore.runner.importing import import_archive
from vrfstore.store.store import Store

RUNS = 3
DEFAULT = Path(__file__).parent.parent / "examples/report/requirements.vrf"

PEERS = {"tar + gzip": ("gzip",), "tar + pigz": ("pigz",), "tar + zstd -T0": ("zstd", "-T0")}

SCHEMES = ("site-packages", "data", "scripts", "headers")


def seconds(action: Callable[[], object]) -> float:
    """Return how long one call takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


class Peer:
    """A tar of the same files, packed by another program."""

    def __init__(self, store: Store, scratch: Path, name: str) -> None:
        self.archive = scratch / f"peer-{name.replace(' ', '')}"
        self._packer = " ".join(PEERS[name])
        self._folder = store.layout.of("entries")
        self._trees = [
            f"{entry}/{scheme}"
            for entry in store.entries()
            for scheme in SCHEMES
            if os.path.isdir(f"{self._folder}/{entry}/{scheme}")
        ]

    def pack(self) -> None:
        """Make the archive."""
        words = [
            "tar",
            "-C",
            self._folder,
            "--exclude=__pycache__",
            "-I",
            self._packer,
            "-cf",
            str(self.archive),
        ]
        subprocess.run([*words, *self._trees], check=True)

    def unpack(self, folder: Path) -> None:
        """Unpack it into a new directory."""
        folder.mkdir()
        subprocess.run(["tar", "-C", str(folder), "-I", self._packer, "-xf", str(self.archive)], check=True)


class Ours:
    """``export`` and ``import``, with or without waiting for the disk."""

    def __init__(self, store: Store, environment: str, archive: Path, *, durable: bool) -> None:
        self._store = store
        self._environment = environment
        self.archive = archive
        self._durable = durable
        self.links: list[float] = []

    def pack(self) -> None:
        """Make the archive."""
        export_archive([self._environment], str(self.archive), store=self._store, force=True)

    def unpack(self, folder: Path) -> None:
        """Import it into a new store."""
        result = import_archive(str(self.archive), store=Store.open(folder, durable=self._durable))
        self.links.append(result.timings["link"] * 1000)


def main() -> None:
    """Measure and print."""
    requirements = sys.argv[1] if len(sys.argv) > 1 else str(DEFAULT)
    base = sys.argv[2] if len(sys.argv) > 2 else os.getcwd()  # noqa: PLR2004 - the two arguments
    scratch = Path(tempfile.mkdtemp(dir=base, prefix=".bench-"))
    try:
        store = Store.open(scratch / "store")
        linked = vrfstore.link(requirements, store=store)
        archive = scratch / "ours.tar.zst"
        contenders: dict[str, Ours | Peer] = {
            "export, import": Ours(store, linked.environment, archive, durable=True),
            "  import --no-sync": Ours(store, linked.environment, archive, durable=False),
        }
        contenders |= {
            name: Peer(store, scratch, name) for name, (program, *_) in PEERS.items() if shutil.which(program)
        }
        packing: dict[str, list[float]] = {name: [] for name in contenders}
        unpacking: dict[str, list[float]] = {name: [] for name in contenders}
        for run in range(RUNS):
            for number, (name, contender) in enumerate(contenders.items()):
                packing[name].append(seconds(contender.pack))
                folder = scratch / f"{run}.{number}"
                unpacking[name].append(seconds(lambda made=contender, into=folder: made.unpack(into)))  # type: ignore[misc]
        unpacked = sum(store.plan(entry).unpacked for entry in store.entries()) / 1e6
        cores = len(os.sched_getaffinity(0))
        print(f"{len(linked.packages)} wheels, {unpacked:.0f} MB, {cores} cores, medians of {RUNS}")
        print(f"{'':<20}{'pack s':>8}{'MB':>8}{'unpack s':>10}")
        for name, contender in contenders.items():
            size = contender.archive.stat().st_size / 1e6
            times = (statistics.median(packing[name]), size, statistics.median(unpacking[name]))
            print("{:<20}{:8.2f}{:8.1f}{:10.2f}".format(name, *times))
        links = [
            link
            for contender in contenders.values()
            if isinstance(contender, Ours)
            for link in contender.links
        ]
        print(f"linking the environment, within the import: {statistics.median(links):.1f} ms")
    finally:
        fs.remove_tree(str(scratch))


if __name__ == "__main__":
    main()
