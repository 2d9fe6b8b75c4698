"""Linkers, collectors and readers on one store, for as long as wanted; whatever a reader was given has to work.

usage: python tests/soak.py [--seconds N] [--linkers N] [--collectors N] [--seed N] [--json]

Each linker takes some wheels, links them, and starts a real interpreter that imports all of them, piece by piece:
from an environment that is leased, from one that ``vrfstore run`` gives, or from one outside, which is then removed, or
linked again. The collectors have no grace at all, and a budget that nothing fits into; where two meet, one is turned
away, which is as it should be. Anything else that fails is counted, and makes the exit status 1. In the end, with
nobody left, two collections have to leave an empty store. pytest does not collect this; ``test_soak`` runs it.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.crash import litter, together
from support.supplies import Supplies
from support.wheels import WheelSpec
from vrfstore.errors import BusyError
from vrfstore.gc.policy import Policy
from vrfstore.gc.sweep import Report, collect
from vrfstore.runner.link import CompileMode, link
from vrfstore.store.store import Store

PARTS = 4
"""Modules of each wheel."""

TREES = tuple(f"tree{number}" for number in range(60))
"""Names of wheels: so many that most are in no environment at any moment."""

SPECS = tuple(
    WheelSpec(
        name=name,
        files={
            f"{name}/__init__.py": f"name = {name!r}\n",
            **{f"{name}/part{number}.py": f"value = {number}\n" for number in range(PARTS)},
            # Of one directory that several share, and of one that has several levels.
            f"wood/{name}.py": f"name = {name!r}\n",
            f"{name}/deep/down/leaf.txt": name,
        },
        data={f"data/share/{name}.txt": name},
        entry_points={"console_scripts": {name: f"{name}:main"}},
    )
    for name in TREES
)

READ = f"""
import importlib, importlib.metadata, importlib.resources, random, sys, time
for name in sys.argv[1:]:
    assert importlib.import_module(name).name == name
    for number in range({PARTS}):
        time.sleep(random.random() / 100)
        assert importlib.import_module(f"{{name}}.part{{number}}").value == number
    assert importlib.import_module(f"wood.{{name}}").name == name
    assert (importlib.resources.files(name) / "deep/down/leaf.txt").read_text() == name
    assert open(f"{{sys.prefix}}/share/{{name}}.txt").read() == name
    assert importlib.metadata.version(name) == "1.0"
"""

EVERYTHING = Policy(max_age=0, grace=0)
TINY = Policy(max_age=3600, grace=0, max_size=1)

SHOWN = 20
"""Failures that are told in full."""

UNTOLD = "nobody can tell from here whether it is there"
"""What a collection says of an environment outside that is just being made."""


@dataclass
class Tally:
    """What one process, or all of them, did.

    Attributes:
        links: Seconds that each link took.
        pauses: Seconds for each batch of a collection that its list was up.
        counts: How often each thing was done.
        failures: What went wrong, in words.
    """

    links: list[float] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Count what another one did as well."""
        self.links += other.links
        self.pauses += other.pauses
        self.counts += other.counts
        self.failures += other.failures


class Linker:
    """One that links, reads and removes until its time is over."""

    def __init__(self, store: Store, supplies: Supplies, number: int, seed: int) -> None:
        self._store = store
        self._supplies = supplies
        self._random = random.Random(f"{seed} {number}")
        self._own = supplies.folder / f"own{number}"
        self._tally = Tally()

    def work(self, until: float) -> Tally:
        """Work until a moment of ``time.monotonic``."""
        self._own.mkdir()
        ways = (self._leased, self._run, self._outside)
        while time.monotonic() < until:
            chosen = sorted(self._random.sample(range(len(TREES)), self._random.randint(1, 4)))
            try:
                self._random.choices(ways, [6, 1, 3])[0](chosen)
            except Exception:  # noqa: BLE001 - counted
                self._tally.failures.append(traceback.format_exc())
        return self._tally

    def _link(self, chosen: Sequence[int], **options: Any) -> Any:
        modes: list[CompileMode] = ["off", "eager", "background"]
        mode = self._random.choices(modes, [90, 5, 5])[0]
        began = time.monotonic()
        result = link(self._supplies.lock(*chosen), store=self._store, compile_mode=mode, **options)
        self._tally.links.append(time.monotonic() - began)
        self._tally.counts[result.status] += 1
        return result

    def _leased(self, chosen: Sequence[int]) -> None:
        result = self._link(chosen, lease=True)
        try:
            self._read([result.python], chosen)
        finally:
            result.lease.release()

    def _run(self, chosen: Sequence[int]) -> None:
        """From the command line, where the lease goes on to the command."""
        lock = str(self._supplies.lock(*chosen))
        self._read(
            [sys.executable, "-m", "vrfstore", "--store", self._store.root, "run", lock, "--", "python"],
            chosen,
        )

    def _outside(self, chosen: Sequence[int]) -> None:
        place = self._own / self._random.choice("ab")
        result = self._link(chosen, into=place)
        self._read([result.python], chosen)
        if self._random.random() < 1 / 2:
            shutil.rmtree(place)
            self._tally.counts["removed outside"] += 1

    def _read(self, python: list[str], chosen: Sequence[int]) -> None:
        names = [TREES[number] for number in chosen]
        done = subprocess.run([*python, "-c", READ, *names], check=False, capture_output=True, text=True)
        self._tally.counts["readers"] += 1
        if done.returncode:
            self._tally.failures.append(f"{python} {names}: {done.stderr}")


def collector(store: Store, until: float, seed: int) -> Tally:
    """Collect until a moment of ``time.monotonic``."""
    tally, chance = Tally(), random.Random(seed)
    while time.monotonic() < until:
        try:
            count(tally, collect(store, chance.choice([EVERYTHING, TINY])))
        except BusyError:
            tally.counts["turned away"] += 1
            time.sleep(chance.random() / 20)
        except Exception:  # noqa: BLE001 - counted
            tally.failures.append(traceback.format_exc())
    return tally


def count(tally: Tally, report: Report) -> None:
    tally.counts["collections"] += 1
    tally.counts["environments collected"] += len(report.environments)
    tally.counts["entries collected"] += len(report.entries)
    tally.counts["forgotten"] += len(report.forgotten)
    tally.pauses += report.pauses
    tally.failures += [problem for problem in report.problems if UNTOLD not in problem]


def linker(store: Store, supplies: Supplies, number: int, until: float, seed: int) -> Tally:
    return Linker(store, supplies, number, seed).work(until)


def soak(folder: Path, *, seconds: float, linkers: int, collectors: int, seed: int) -> Tally:
    """Let them work beside each other, then have all of it collected.

    Args:
        folder: Where everything is made.
        seconds: For how long.
        linkers: How many link.
        collectors: How many collect.
        seed: Of what each of them chooses; what comes of it depends on the moment.
    """
    supplies = Supplies(folder, *SPECS)
    store = Store.open(folder / "store", durable=False)  # what waits for a disk here says nothing of gc
    until = time.monotonic() + seconds
    total = Tally()
    work = [functools.partial(linker, store, supplies, number, until, seed) for number in range(linkers)]
    work += [functools.partial(collector, store, until, seed + number) for number in range(collectors)]
    for tally in together(*work):
        total.add(tally)
    for place in folder.glob("own*/*"):  # and not what is above them: that would prove nothing
        shutil.rmtree(place)
    total.failures += leftovers(store)
    return total


def leftovers(store: Store) -> list[str]:
    """Collect while nobody uses anything; return what is there still."""
    deadline = time.monotonic() + 60
    while True:  # what compiles in the background stops by itself
        time.sleep(0.1)
        collect(store, EVERYTHING)
        left = [
            *store.environments(),
            *store.entries(),
            *litter(store),
            *os.listdir(store.layout.of("external")),
        ]
        if not left or time.monotonic() > deadline:
            return [f"left behind: {name}" for name in left]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value, in milliseconds, that so many percent do not exceed; 0 of none."""
    ordered = sorted(values)
    return (
        round(1000 * ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)], 1) if ordered else 0.0
    )


def main() -> int:
    """Run it, and say what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--linkers", type=int, default=8)
    parser.add_argument("--collectors", type=int, default=2)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    # Nobody's configuration has a say.
    os.environ |= {"HOME": str(folder), "PIP_CONFIG_FILE": os.devnull, "VRFSTORE_COMPILE": "off"}
    try:
        found = soak(
            folder, seconds=asked.seconds, linkers=asked.linkers, collectors=asked.collectors, seed=asked.seed
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures = {
        "seconds": asked.seconds,
        "seed": asked.seed,
        "links": len(found.links),
        "link_p50_ms": percentile(found.links, 50),
        "link_p99_ms": percentile(found.links, 99),
        "link_longest_ms": percentile(found.links, 100),
        "list_up_p50_ms": percentile(found.pauses, 50),
        "list_up_p99_ms": percentile(found.pauses, 99),
        "list_up_longest_ms": percentile(found.pauses, 100),
        **{name.replace(" ", "_"): number for name, number in sorted(found.counts.items())},
        "failures": len(found.failures),
    }
    text = (
        json.dumps(figures)
        if asked.json
        else "\n".join(f"{name}: {value}" for name, value in figures.items())
    )
    sys.stdout.write(f"{text}\n")
    sys.stderr.writelines(f"{failure}\n" for failure in found.failures[:SHOWN])
    return 1 if found.failures else 0


if __name__ == "__main__":
    sys.exit(main())
