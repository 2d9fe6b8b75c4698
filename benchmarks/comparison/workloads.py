"""Sets of wheels: what is in them, fetching them once, and the files in which tools are told of them.

``workloads/NAME.txt`` pins each by its hashes. ``flask`` is what a small service needs. ``trio``, ``jupyter`` and
``boto3`` are the versions that uv's own benchmarks install, so that its published figures can be held against these.
``document`` is what ``document.vrf`` comes to. ``coupled`` is a stack of wheels whose libraries find each other by
relative paths, and which vrfstore merges into composites. ``added`` is the one package more.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

from comparison import model

__all__ = ["ADDED", "SETS", "Set", "Wheels", "described", "fetch", "pins_of", "without"]

LOCKS = Path(__file__).parent.parent / "workloads"
ADDED = "added"
"""The workload of one wheel that every other one is measured with as the package that is added."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Set:
    """A set of wheels.

    Attributes:
        name: What it is called.
        imports: The modules that whoever wants this set imports.
        collides: Whether two of its wheels have different files at one place; only ours asks for leave then.
    """

    name: str
    imports: tuple[str, ...]
    collides: bool = False

    @property
    def program(self) -> str:
        """A program that imports them."""
        return f"import {', '.join(self.imports)}"


_DOCUMENT = (
    "pandas", "scipy.stats", "sklearn.linear_model", "matplotlib.pyplot", "seaborn", "sympy", "plotly.express",
    "ipykernel.kernelapp",
)  # fmt: skip
SETS = {
    found.name: found
    for found in (
        Set(name="flask", imports=("flask",)),
        Set(name="boto3", imports=("boto3",)),
        Set(name="trio", imports=("sphinx.application", "OpenSSL", "towncrier")),
        # jupyter 1.0.0 and jupyter-core both bring jupyter.py.
        Set(name="jupyter", imports=("jupyterlab.labapp", "notebook.app"), collides=True),
        Set(name="document", imports=_DOCUMENT),
        Set(name="coupled", imports=("pinocchio",)),
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheels:
    """The wheel files of a workload, on this machine.

    Attributes:
        set: What they are for.
        files: All of them.
        added: The one that is added.
    """

    set: Set
    files: tuple[Path, ...]
    added: Path


def fetch(name: str, cache: Path) -> tuple[Path, ...]:
    """Return the wheels of a lock, and let pip fetch them as the user has configured it where they are not there yet.

    Args:
        name: That of a file in ``workloads``.
        cache: The directory that keeps them.

    Raises:
        subprocess.CalledProcessError: pip did not get one of them, or not for this interpreter.
    """
    lock, place = LOCKS / f"{name}.txt", cache / name
    stamp = place / ".fetched"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        options = ["--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--no-deps"]
        words = ["download", *options, "--require-hashes", "--requirement", str(lock), "--dest", str(place)]
        subprocess.run([sys.executable, "-m", "pip", *words], check=True, stderr=subprocess.DEVNULL)
        stamp.write_text(wanted)
    return tuple(sorted(place.glob("*.whl")))


def described(files: Sequence[Path]) -> model.Workload:
    """Return how large some wheels are."""
    members = [member for file in files for member in zipfile.ZipFile(file).infolist()]
    return model.Workload(
        wheels=len(files),
        packed=sum(os.stat(file).st_size for file in files),
        files=len(members),
        unpacked=sum(member.file_size for member in members),
    )


def pins_of(files: Sequence[Path]) -> list[str]:
    """Return the pins of some wheels, as requirements."""
    named = (parse_wheel_filename(file.name) for file in files)
    return [str(Requirement(f"{name}=={version}")) for name, version, *_ in named]


def without(pins: Sequence[str], number: int) -> list[str]:
    """Return all pins but one, another for each number: sets that share most packages.

    From as many numbers on as there are pins, two are left out.
    """
    count = len(pins)
    left_out = {number % count, (number + number // count) % count}
    return [pin for place, pin in enumerate(pins) if place not in left_out]
