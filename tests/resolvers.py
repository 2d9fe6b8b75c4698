"""Real requirement sets, each locked with pip and with uv, held against each other, linked, and asked for conflicts.

usage: python tests/resolvers.py [--python PYTHON]... [--only NAME]... [--json FILE] [--jobs N] [--data FILE]

``resolvers/sets.toml`` says what is asked for. Each set is locked twice for an isolated environment, and twice on a
base that has some of its packages already: a venv with the wheels that the set pins, some of which fit and some of
which do not. What is looked at:

============  ==============================================================================================
``resolvers`` both find a lock, or neither does
``wheels``    both locks have the same wheels: name, version, file name, digest
``base``      neither lock has a package of the base that fits, and both have those that do not
``pip check`` what pip says of the environments that are linked from the locks
============  ==============================================================================================

A set may say of one of them why it differs (``explained``). Exits with 1 if anything else does. What an index has
changes every day, and so may what is found; both resolvers ask the one that pip is configured with.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from support.pythons import pythons
from vrfstore import fs

DATA = Path(__file__).parent / "resolvers/sets.toml"

RESOLVERS = ("pip", "uv")
BASES = ("isolated", "base")

_SHOWN = 24
"""Lines of one difference."""

_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


@dataclass(frozen=True, kw_only=True, slots=True)
class RequirementSet:
    """What is asked for, and what a base has of it.

    Attributes:
        name: What to call it.
        requirements: Lines of a file of requirements.
        fits: Pins of what the base has and the set can do with.
        misfits: Pins of what the base has and the set cannot do with.
        pythons: The interpreters that it is for, such as ``>=3.10``.
        refused: The exit code of ``vrfstore lock`` where there is to be no lock.
        explained: Why something differs, by the label of what was looked at; for one package, by ``LABEL:NAME``, where
            the name may be a pattern.
    """

    name: str
    requirements: tuple[str, ...]
    fits: tuple[str, ...] = ()
    misfits: tuple[str, ...] = ()
    pythons: str = ""
    refused: int = 0
    explained: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> RequirementSet:
        """Return the set that a table of the data file describes.

        Raises:
            ValueError: It has a key that is not known.
        """
        unknown = item.keys() - set(cls.__slots__)
        if unknown:
            raise ValueError(f"{item['name']}: {', '.join(sorted(unknown))} is not known")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in item.items()
        }
        return cls(**values)


@dataclass(frozen=True, order=True, slots=True)
class Wheel:
    """A wheel as a lock names it."""

    name: str
    version: str
    filename: str
    digest: str

    def __str__(self) -> str:
        return f"{self.filename} ({self.digest[:12]}…)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one resolver came to.

    Attributes:
        code: The exit code of ``vrfstore lock``.
        wheels: What it locked.
        error: What it said where it did not.
        seconds: How long the command took.
    """

    code: int
    wheels: tuple[Wheel, ...] = ()
    error: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One thing that was looked at.

    Attributes:
        python: The interpreter's version.
        name: The name of the set.
        base: ``isolated`` or ``base``.
        label: What was looked at.
        difference: What should not be so; empty where all is well.
        explained: Why it is, where that is known.
        wheels: How many were looked at.
        seconds: How long each resolver took.
    """

    python: str
    name: str
    base: str
    label: str
    difference: str = ""
    explained: str = ""
    wheels: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Summary:
    """The sum of outcomes."""

    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def unexplained(self) -> list[Outcome]:
        """What differs, and nobody says why."""
        return [one for one in self.outcomes if one.difference and not one.explained]

    def __str__(self) -> str:
        columns = ("python", "base", "sets", "wheels", "looked at", "equal", "explained", "different",
                   *(f"{resolver} s" for resolver in RESOLVERS))  # fmt: skip
        places = dict.fromkeys((one.python, one.base) for one in self.outcomes)
        rows = [columns, *(self._row(*place) for place in places)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(columns))]
        lines = (
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        )
        return "\n".join(lines)

    def _row(self, python: str, base: str) -> tuple[str, ...]:
        of = [one for one in self.outcomes if (one.python, one.base) == (python, base)]
        numbers = (
            len({one.name for one in of}),
            sum(one.wheels for one in of),
            len(of),
            sum(not one.difference for one in of),
            sum(bool(one.difference and one.explained) for one in of),
            sum(bool(one.difference and not one.explained) for one in of),
            *(round(sum(one.seconds.get(resolver, 0) for one in of)) for resolver in RESOLVERS),
        )
        return (python, base, *(str(number) for number in numbers))


def read_sets(path: Path = DATA) -> list[RequirementSet]:
    """Return the sets of a data file."""
    with path.open("rb") as stream:
        return [RequirementSet.of(item) for item in tomllib.load(stream)["set"]]


# What should not be so


def different_answers(answers: Mapping[str, Answer], refused: int) -> list[str]:
    """Return which resolver did not end as it was to."""
    return [
        f"{resolver}: exit {answer.code}, where {refused} was to be: {answer.error}"
        for resolver, answer in answers.items()
        if answer.code != refused
    ]


def different_wheels(answers: Mapping[str, Answer]) -> dict[str, str]:
    """Return how two locks differ, by the name of the package."""
    found = {resolver: {wheel.name: wheel for wheel in answer.wheels} for resolver, answer in answers.items()}
    names = sorted({name for wheels in found.values() for name in wheels})
    return {
        name: "; ".join(f"{resolver} {wheels.get(name, 'nothing')}" for resolver, wheels in found.items())
        for name in names
        if len({wheels.get(name) for wheels in found.values()}) > 1
    }


def different_base(answers: Mapping[str, Answer], asked: RequirementSet) -> dict[str, str]:
    """Return what a lock brings that the base has, or leaves out that it must bring, by the name of the package."""
    found: dict[str, list[str]] = {}
    for resolver, answer in answers.items():
        locked = {wheel.name: wheel.version for wheel in answer.wheels}
        for pin in asked.fits:
            name, _, version = pin.partition("==")
            if name in locked:
                found.setdefault(name, []).append(
                    f"{version} of the base fits, and {resolver} brings {locked[name]}"
                )
        for pin in asked.misfits:
            name, _, version = pin.partition("==")
            if name not in locked:
                found.setdefault(name, []).append(
                    f"{version} of the base does not fit, and {resolver} brings none"
                )
    return {name: "; ".join(texts) for name, texts in found.items()}


def explain(differences: Mapping[str, str], label: str, explained: Mapping[str, str]) -> tuple[str, str]:
    """Return what differs and nobody explains; or else all of it, and why.

    Args:
        differences: Texts by the name of the package.
        label: What was looked at.
        explained: See ``RequirementSet``.
    """
    patterns = {
        key.removeprefix(f"{label}:"): why for key, why in explained.items() if key.startswith(f"{label}:")
    }
    if label in explained:
        patterns["*"] = explained[label]
    reasons = {
        name: next((why for pattern, why in patterns.items() if fnmatchcase(name, pattern)), "")
        for name in differences
    }
    rest = [f"{name}: {text}" for name, text in differences.items() if not reasons[name]]
    if rest:
        return "\n".join(rest), ""
    return (
        "\n".join(f"{name}: {text}" for name, text in differences.items()),
        "; ".join(dict.fromkeys(reasons.values())),
    )


# Locking and linking


class BaseMissingError(Exception):
    """There is no such wheel."""


def make_base(python: str, pins: Sequence[str], directory: Path) -> str:
    """Make a venv that has some wheels and nothing else, and return its python.

    Raises:
        BaseMissingError: One of them was not to be had.
    """
    subprocess.run([python, "-m", "venv", "--without-pip", directory], check=True)
    base = str(directory / "bin/python")
    if pins:
        options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--no-compile"]
        # Not --isolated: the caller's own index and certificates count.
        options += ["--no-warn-script-location", *pins]
        command = [*_PIP, "--python", base, "install", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BaseMissingError(done.stderr.strip())
    return base


def vrfstore(store: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "vrfstore", "--store", store, *words, "--json", "--quiet"]
    variables = os.environ | {"VRFSTORE_COMPILE": "off"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables)


def lock(resolver: str, file: Path, options: Sequence[str], scratch: Path) -> Answer:
    """Lock a file; the lock is then in ``scratch``, in a directory named after the resolver.

    Args:
        resolver: Who is asked.
        file: What for.
        options: Those of ``vrfstore lock``.
        scratch: Gets a store for each resolver, since what a store knows is no longer resolved by anybody.
    """
    began = time.perf_counter()
    place = scratch / resolver
    place.mkdir()
    output = place / "pylock.toml"
    done = vrfstore(place / "store", "lock", file, "--output", output, "--resolver", resolver, *options)
    seconds = time.perf_counter() - began
    said = json.loads(done.stdout)
    if done.returncode != 0:
        return Answer(code=done.returncode, error=said["error"]["message"], seconds=seconds)
    wheels = tuple(
        Wheel(each["name"], each["version"], each["filename"], each["digest"]) for each in said["packages"]
    )
    return Answer(code=0, wheels=wheels, seconds=seconds)


def complaints(store: Path, output: Path, options: Sequence[str]) -> str:
    """Link the environment of a lock, and return what pip finds wrong in it."""
    done = vrfstore(store, "link", output, *options)
    if done.returncode != 0:
        return f"exit {done.returncode}: {json.loads(done.stdout)['error']['message']}"
    python = json.loads(done.stdout)["python"]
    checked = subprocess.run(
        [*_PIP, "--python", python, "check"], capture_output=True, text=True, check=False
    )
    return "" if checked.returncode == 0 else (checked.stdout + checked.stderr).strip()


def examine(python: str, version: str, asked: RequirementSet, store: Path, scratch: Path) -> list[Outcome]:
    """Look at everything about one set.

    Args:
        python: The interpreter.
        version: What to call it.
        asked: What for.
        store: Where environments are linked.
        scratch: An empty directory.
    """
    file = scratch / "requirements.vrf"
    file.write_text("".join(f"{line}\n" for line in asked.requirements))
    outcomes = []
    for kind in BASES:
        place = scratch / kind
        place.mkdir()
        options = ["--python", python, "--isolated"]
        if kind == "base":
            try:
                base = make_base(python, (*asked.fits, *asked.misfits), place / "base")
            except BaseMissingError as error:
                told = Outcome(
                    python=version, name=asked.name, base=kind, label="base", difference=str(error)
                )
                outcomes.append(told)
                continue
            options = ["--python", base]
        outcomes += _examine_on(kind, version, asked, options, store, place)
    return outcomes


def _examine_on(
    kind: str, version: str, asked: RequirementSet, options: Sequence[str], store: Path, scratch: Path
) -> list[Outcome]:
    file = scratch.parent / "requirements.vrf"
    answers = {resolver: lock(resolver, file, options, scratch) for resolver in RESOLVERS}

    def outcome(label: str, differences: Mapping[str, str], **values: Any) -> Outcome:
        difference, why = explain(differences, label, asked.explained)
        return Outcome(
            python=version,
            name=asked.name,
            base=kind,
            label=label,
            difference=difference,
            explained=why,
            **values,
        )

    ends = different_answers(answers, asked.refused)
    found = [
        outcome(
            "resolvers",
            dict(end.split(": ", 1) for end in ends),
            seconds={resolver: answer.seconds for resolver, answer in answers.items()},
        )
    ]
    if ends or asked.refused:
        return found
    wheels = len({wheel for answer in answers.values() for wheel in answer.wheels})
    found.append(outcome("wheels", different_wheels(answers), wheels=wheels))
    if kind == "base":
        found.append(outcome("base", different_base(answers, asked)))
    # Equal locks come to one environment.
    different = {answer.wheels: resolver for resolver, answer in reversed(answers.items())}
    told = {
        resolver: complaints(store, scratch / resolver / "pylock.toml", options)
        for resolver in different.values()
    }
    found.append(outcome("pip check", {resolver: text for resolver, text in told.items() if text}))
    return found


def examine_all(
    python: str,
    version: str,
    sets: Iterable[RequirementSet],
    scratch: Path,
    *,
    jobs: int = 1,
    tell: Callable[[Sequence[Outcome]], None] = lambda _: None,
) -> list[Outcome]:
    """Examine all sets that are for an interpreter.

    Args:
        python: The interpreter.
        version: Its version, as ``3.X.Y``.
        sets: All of them.
        scratch: A directory; the store is kept there for the next interpreter.
        jobs: How many at a time.
        tell: Is given the outcomes of a set.
    """

    def one(number: int, asked: RequirementSet) -> list[Outcome]:
        place = scratch / f"{version}-{number}"
        place.mkdir()
        return examine(python, version, asked, scratch / "store", place)

    outcomes: list[Outcome] = []
    chosen = [each for each in sets if SpecifierSet(each.pythons).contains(version, prereleases=True)]
    with ThreadPoolExecutor(jobs) as pool:
        for done in as_completed([pool.submit(one, *each) for each in enumerate(chosen)]):
            tell(done.result())
            outcomes += done.result()
    return outcomes


def version_of(python: str) -> str:
    """Return the version of an interpreter, as ``3.X.Y``."""
    question = "import platform; print(platform.python_version())"
    return subprocess.run([python, "-c", question], capture_output=True, text=True, check=True).stdout.strip()


def is_served(version: str) -> bool:
    """Return whether our pip runs on a Python, and so can be asked about its environments."""
    return SpecifierSet(metadata("pip")["Requires-Python"]).contains(version, prereleases=True)


def _tell(found: Sequence[Outcome]) -> None:
    bad = any(one.difference and not one.explained for one in found)
    seconds = ", ".join(
        f"{resolver} {sum(one.seconds.get(resolver, 0) for one in found):.1f} s" for resolver in RESOLVERS
    )
    sys.stdout.write(f"{'BAD' if bad else 'ok '} {found[0].python} {found[0].name}: {seconds}\n")
    for one in found:
        if not one.difference:
            continue
        why = f"explained: {one.explained}" if one.explained else "differs"
        sys.stdout.write(f"    {one.base}, {one.label}: {why}\n")
        lines = one.difference.splitlines()
        for line in lines[:_SHOWN]:
            sys.stdout.write(f"        {line}\n")
        if len(lines) > _SHOWN:
            sys.stdout.write(f"        ({len(lines) - _SHOWN} more)\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine what the command line means; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Hold what pip and uv find for real requirement sets against each other."
    )
    parser.add_argument(
        "--python", action="append", metavar="PYTHON", help="by default, every one found that our pip runs on"
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="a set; by default, all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the outcomes go")
    parser.add_argument("--data", type=Path, default=DATA, metavar="FILE", help="where the sets are")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="sets at a time")
    asked = parser.parse_args(arguments)
    sets = read_sets(asked.data)
    unknown = set(asked.only or ()) - {each.name for each in sets}
    if unknown:
        parser.error(f"there is no set {', '.join(sorted(unknown))}")
    chosen = [each for each in sets if not asked.only or each.name in asked.only]
    interpreters = {python: version_of(python) for python in asked.python or pythons()}
    summary = Summary()
    scratch = tempfile.mkdtemp(prefix="resolvers-")
    try:
        for python, version in interpreters.items():
            if asked.python or is_served(version):
                summary.outcomes += examine_all(
                    python, version, chosen, Path(scratch), jobs=asked.jobs, tell=_tell
                )
    finally:
        fs.remove_tree(scratch)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(one) for one in summary.outcomes], indent=1) + "\n")
    sys.stdout.write(f"\n{summary}\n")
    return 1 if summary.unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
