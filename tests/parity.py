"""Environments of real distributions, each held against a venv that pip made of the same wheels.

usage: python tests/parity.py [--python PYTHON]... [--only NAME]... [--json FILE] [--cache DIRECTORY] [--jobs N]
       python tests/parity.py --lock [--python PYTHON]...

``parity/distributions.toml`` and ``parity/environments.toml`` say what is linked and what is then run;
``parity/requirements-3.X.txt`` pins every wheel by its hash. Each case gets an environment from ``vrfstore link``, and
a venv from ``python -m venv --system-site-packages`` and ``pip install --no-deps --no-index`` of the wheels that the
environment's lock names. In both the same is looked at:

========================  ================================================================================
``files``                 every file that pip installed: at its place, with its bytes, as executable; no more
``metadata``              what ``importlib.metadata`` says of all distributions, and ``sys.path``
``pip list``              what the interpreter's own pip lists
``imports``               where modules and the parts of namespaces are found
``check N``, commands     exit code, stdout, and the last line of stderr, with the two prefixes made equal
========================  ================================================================================

A case may say of one of them why it differs (``explained``). Exits with 1 if anything else does. ``--lock`` writes the
files of pins anew.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename

from support.pythons import pythons
from vrfstore import fs

DATA = Path(__file__).parent / "parity"
CACHE = Path(__file__).parent.parent / ".parity"

_SECONDS = 300
"""That one command may take."""

_SHOWN = 24
"""Lines of one difference."""

IMPORTS = """
import importlib, sys
failed = 0
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name)
    except BaseException as error:
        failed = 1
        print(name, type(error).__name__, error)
    else:
        print(name, getattr(module, "__file__", None), list(getattr(module, "__path__", ())))
sys.exit(failed)
"""

METADATA = """
import importlib.metadata, json, os, sys
def state(path):
    return "directory" if os.path.isdir(path) else "file" if os.path.exists(path) else "missing"
found = []
for one in importlib.metadata.distributions():
    inside = str(one.locate_file("")).startswith(sys.prefix + os.sep)
    found.append({
        "name": one.metadata["Name"], "version": one.version, "requires": one.requires,
        "entry points": sorted([point.group, point.name, point.value] for point in one.entry_points),
        "files": {str(path): state(path.locate()) for path in one.files or ()} if inside else None,
    })
packages = getattr(importlib.metadata, "packages_distributions", dict)()
print(json.dumps({
    "distributions": found,
    "packages_distributions": {name: sorted(who) for name, who in packages.items()},
    "sys.path": sys.path[1:],
}))
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What one environment is made of, and what is looked at in it.

    Attributes:
        name: That of the distribution, or of the environment.
        requirements: What is linked; each has one version in the pins.
        hazards: Rows of the table of hazards that it is there for.
        imports: Modules, by their full names.
        checks: Programs for ``python -c`` that print something that is the same every time.
        commands: Command lines, the first word of which is in the environment's ``bin``.
        pythons: The interpreters that it is for, such as ``>=3.10``.
        refused: The exit code of ``vrfstore link`` where there is to be no environment.
        explained: Why something differs, by the label of what was looked at, or ``files:PATTERN``.
    """

    name: str
    requirements: tuple[str, ...]
    hazards: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    pythons: str = ""
    refused: int = 0
    explained: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> Case:
        """Return the case that a table of a data file describes.

        Raises:
            ValueError: It has a key that is not known.
        """
        unknown = item.keys() - set(cls.__slots__)
        if unknown:
            raise ValueError(f"{item['name']}: {', '.join(sorted(unknown))} is not known")
        values: dict[str, Any] = {"requirements": (item["name"],)}
        values |= {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command ended, with what depends on its place made equal."""

    code: int
    stdout: str
    last: str

    def __str__(self) -> str:
        return f"exit {self.code}\n{self.stdout}\nstderr: {self.last}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One thing that was looked at in both.

    Attributes:
        python: The interpreter's version.
        case: The name of the case.
        label: What was looked at.
        difference: How ours differs; empty where it does not.
        explained: Why it does, where that is known.
        failed: What the reference said, if it failed: where ours does too, that is equal, and yet shows nothing.
    """

    python: str
    case: str
    label: str
    difference: str = ""
    explained: str = ""
    failed: str = ""


@dataclass(slots=True)
class Summary:
    """The sum of outcomes."""

    outcomes: list[Outcome] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def unexplained(self) -> list[Outcome]:
        """What differs, and nobody says why."""
        return [one for one in self.outcomes if one.difference and not one.explained]

    def __str__(self) -> str:
        columns = (
            "python",
            "cases",
            "looked at",
            "equal",
            "failed in both",
            "explained",
            "different",
            "seconds",
        )
        rows = [columns, *(self._row(python) for python in self.seconds)]
        if len(self.seconds) > 1:
            rows.append(self._row(""))
        widths = [max(len(row[column]) for row in rows) for column in range(len(columns))]
        lines = (
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        )
        return "\n".join(lines)

    def _row(self, python: str) -> tuple[str, ...]:
        of = [one for one in self.outcomes if python in {"", one.python}]
        numbers = (
            len({(one.python, one.case) for one in of}),
            len(of),
            sum(not one.difference for one in of),
            sum(bool(one.failed and not one.difference) for one in of),
            sum(bool(one.difference and one.explained) for one in of),
            sum(bool(one.difference and not one.explained) for one in of),
            round(self.seconds[python] if python else sum(self.seconds.values())),
        )
        return (python or "all", *(str(number) for number in numbers))


def read_cases(directory: Path = DATA) -> list[Case]:
    """Return the cases of both data files."""
    cases = []
    for name, key in (("distributions", "distribution"), ("environments", "environment")):
        with (directory / f"{name}.toml").open("rb") as stream:
            cases += [Case.of(item) for item in tomllib.load(stream)[key]]
    return cases


# Pins and wheels


@dataclass(frozen=True, slots=True)
class Pin:
    """A wheel: ``name==version`` and its SHA-256."""

    requirement: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.requirement} --hash=sha256:{self.sha256}"


def read_pins(path: Path) -> list[Pin]:
    """Return the pins of a file, each on a line; ``#`` begins a comment.

    Raises:
        ValueError: A line is something else.
    """
    pins = []
    for line in path.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        found = re.fullmatch(r"([a-z0-9-]+==\S+) --hash=sha256:([0-9a-f]{64})", line)
        if found is None:
            raise ValueError(f"not a pin: {line}")
        pins.append(Pin(found[1], found[2]))
    return pins


def cached(pin: Pin, cache: Path) -> Path | None:
    """Return the wheel of a pin, if the cache has it."""
    return next((cache / pin.sha256).glob("*.whl"), None)


def fetch(python: str, pins: Sequence[Pin], cache: Path) -> list[Path]:
    """Return the wheel of each pin, and fetch what the cache does not have with the interpreter's own pip.

    Raises:
        subprocess.CalledProcessError: pip did not get one of them, or not with that hash.
    """
    missing = [pin for pin in pins if cached(pin, cache) is None]
    if missing:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="parity-", dir=cache) as scratch:
            wanted = Path(scratch, "wanted.txt")
            wanted.write_text("".join(f"{pin}\n" for pin in missing))
            _download(python, ["--no-deps", "--require-hashes", "--requirement", str(wanted)], scratch)
            _keep(Path(scratch), cache)
    return [wheel for pin in pins if (wheel := cached(pin, cache)) is not None]


def fetch_for(python: str, pins: Sequence[Pin], requirements: Iterable[str], cache: Path) -> list[Path]:
    """Return the wheels of the pins that some requirements come to, and fetch only what the cache lacks of those.

    Raises:
        subprocess.CalledProcessError: pip did not get one of them.
        ValueError: It got another wheel than the pinned one.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="parity-", dir=cache) as scratch:
        links, wheels = Path(scratch, "links"), Path(scratch, "wheels")
        wheels.mkdir()
        link_wheels([wheel for pin in pins if (wheel := cached(pin, cache)) is not None], links)
        constraints = Path(scratch, "constraints.txt")
        constraints.write_text("".join(f"{pin.requirement}\n" for pin in pins))
        options = ["--find-links", str(links), "--constraint", str(constraints), *requirements]
        try:
            _download(python, ["--no-index", *options], str(wheels), stderr=subprocess.DEVNULL)
        except subprocess.CalledProcessError:
            _download(python, options, str(wheels))
        found = _keep(wheels, cache)
    strange = [str(pin) for pin in found if pin not in set(pins)]
    if strange:
        raise ValueError(f"not the pinned wheel: {', '.join(strange)}")
    return [wheel for pin in found if (wheel := cached(pin, cache)) is not None]


def link_wheels(wheels: Iterable[Path], directory: Path) -> None:
    """Make a directory of symlinks to wheels, which pip can look for them in."""
    directory.mkdir(parents=True, exist_ok=True)
    for wheel in wheels:
        (directory / wheel.name).symlink_to(wheel.resolve())


def _download(python: str, arguments: Sequence[str], destination: str, *, stderr: int | None = None) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--dest", destination]
    # Not --isolated: the caller's own index and certificates count.
    subprocess.run([python, "-m", "pip", "download", *options, *arguments], check=True, stderr=stderr)


def _keep(scratch: Path, cache: Path) -> list[Pin]:
    """Move wheels into the cache, each to a directory named by its hash; return their pins."""
    pins = []
    for wheel in sorted(scratch.glob("*.whl")):
        with wheel.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        (cache / sha256).mkdir(exist_ok=True)
        wheel.rename(cache / sha256 / wheel.name)
        name, version, *_ = parse_wheel_filename(wheel.name)
        pins.append(Pin(f"{name}=={version}", sha256))
    return sorted(pins, key=str)


def lock(python: str, short: str, cases: Iterable[Case], cache: Path, data: Path = DATA) -> list[Pin]:
    """Resolve all cases together for one Python, and write its file of pins.

    Args:
        python: The interpreter.
        short: Its version, as ``3.X``.
        cases: What is to be there.
        cache: Where the wheels are kept.
        data: Where the pins go; ``versions.txt`` there holds some projects back.

    Raises:
        subprocess.CalledProcessError: There is no such set, or no such wheel.
    """
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    wanted = {one for case in cases if _is_for(case, f"{short}.0") for one in case.requirements}
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="parity-", dir=cache) as scratch:
        asked, resolved = Path(scratch, "asked.txt"), Path(scratch, "resolved.txt")
        asked.write_text("".join(f"{one}\n" for one in sorted(wanted)))
        options = ["--quiet", "--only-binary", ":all:", "--no-annotate", "--no-header", "--python", python]
        options += ["--constraint", str(data / "versions.txt"), "--output-file", str(resolved)]
        subprocess.run([uv or "uv", "pip", "compile", *options, str(asked)], check=True)
        _download(python, ["--no-deps", "--requirement", str(resolved)], scratch)
        pins = _keep(Path(scratch), cache)
    heading = "# Written by parity.py --lock: the wheels of all cases on CPython {} on x86_64 Linux.\n"
    lines = "".join(f"{pin}\n" for pin in pins)
    (data / f"requirements-{short}.txt").write_text(heading.format(short) + lines)
    return pins


def _is_for(case: Case, version: str) -> bool:
    return SpecifierSet(case.pythons).contains(version, prereleases=True)


# The two environments


@functools.cache
def _without_override() -> tuple[str, ...]:
    """Return the beginning of a command that keeps root out of what is not writable, as it does an ordinary user.

    What a ``.pth`` of the base runs at every start may append to a file of a package (a certificate to certifi's
    bundle, say), and root's entries are no more proof against that than root's venvs are.
    """
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or setpriv is None:
        return ()
    return (setpriv, "--bounding-set", "-dac_override,-dac_read_search", "--")


@dataclass(frozen=True, slots=True)
class Place:
    """One of the two: its prefix, and a home and a working directory for what is run there."""

    prefix: Path
    scratch: Path

    def run(self, command: Sequence[str | Path]) -> Answer:
        """Run a command as in the activated environment; a first word without a slash is looked up in ``bin``."""
        home, work = self.scratch / "home", self.scratch / "work"
        for directory in (home, work):
            directory.mkdir(parents=True, exist_ok=True)
        variables = {
            "PATH": f"{self.prefix}/bin:/usr/local/bin:/usr/bin:/bin",
            "VIRTUAL_ENV": str(self.prefix),
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "NO_COLOR": "1",
            "COLUMNS": "400",  # so that lines do not break at the length of a prefix
            "PYTHONHASHSEED": "0",
            # Without --user-site an environment does not see the user's own packages; a venv of this kind does.
            "PYTHONNOUSERSITE": "1",
            "MPLBACKEND": "Agg",
            "QT_QPA_PLATFORM": "offscreen",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_CONFIG_FILE": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        first, *rest = command
        program = self.prefix / "bin" / first
        try:
            program.stat()  # what is started in between would say it in words of its own
            done = subprocess.run(
                [*_without_override(), program, *rest],
                cwd=work,
                env=variables,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="backslashreplace",
                check=False,
                timeout=_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return Answer(-1, "", f"still running after {_SECONDS} s")
        except OSError as error:
            return Answer(-1, "", f"{first}: {error.strerror}")
        return Answer(
            done.returncode, self.equalised(done.stdout).rstrip(), self.equalised(_last_line(done.stderr))
        )

    def equalised(self, text: str) -> str:
        """Return a text without what must differ: the prefix, the scratch directory, addresses, how long it took."""
        for path, name in ((self.prefix, "<prefix>"), (self.scratch, "<scratch>")):
            for spelling in {str(path), os.path.realpath(path)}:
                text = text.replace(spelling, name)
        text = re.sub(r"\b0x[0-9a-f]{6,}\b", "<address>", text)
        return re.sub(r"\b\d+\.\d+ ?m?s\b", "<time>", text)


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


class LinkError(Exception):
    """``vrfstore link`` did not make an environment; ``code`` is its exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"exit {code}: {message}")
        self.code = code


def link(python: str, case: Case, links: Path, store: Path, scratch: Path) -> tuple[Path, list[Path]]:
    """Have the command link an environment; return its prefix, and the wheels that are in it.

    Args:
        python: The base interpreter.
        case: What is asked for.
        links: A directory with one wheel of each project.
        store: The store.
        scratch: Where the file of requirements goes.

    Raises:
        LinkError: There is none.
    """
    file = scratch / "requirements.vrf"
    versions = dict(parse_wheel_filename(wheel.name)[:2] for wheel in links.glob("*.whl"))
    # Unpinned, another version that the base has would do.
    file.write_text("".join(f"{one}=={versions[canonicalize_name(one)]}\n" for one in case.requirements))
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    variables |= {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(links),
        "VRFSTORE_COMPILE": "off",
    }
    command = [sys.executable, "-m", "vrfstore", "--store", str(store), "link", str(file), "--python", python]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, env=variables)
    if done.returncode != 0:
        raise LinkError(done.returncode, done.stderr.strip())
    result = json.loads(done.stdout)
    with open(result["lock"], "rb") as stream:
        packages = tomllib.load(stream).get("packages", [])
    return Path(result["environment"]), [links / package["wheels"][0]["name"] for package in packages]


def make_reference(python: str, wheels: Sequence[Path], prefix: Path) -> None:
    """Make a venv, and have the interpreter's own pip install wheels there.

    Raises:
        subprocess.CalledProcessError: It did not.
    """
    subprocess.run([python, "-m", "venv", "--system-site-packages", "--without-pip", prefix], check=True)
    if not wheels:
        return
    options = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--no-warn-script-location"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    variables |= {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    # Not the links, which pip would spell out in direct_url.json and whose directory has every other wheel too.
    files = [os.path.realpath(wheel) for wheel in wheels]
    subprocess.run(
        [prefix / "bin/python", "-m", "pip", "install", *options, *files], check=True, env=variables
    )


# What is looked at


_OF_THE_VENV = (
    "pyvenv.cfg",
    "vrfstore.json",
    ".gitignore",
    "bin/python*",
    "bin/*ctivate*",
    "lib64",
    "lib64/*",
    "lib/*/site-packages/_vrfstore_*.pth",
)
"""What is the venv's or the environment's own, and comes from no wheel."""

_OF_THE_INSTALLER = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"})
"""What every installer writes into dist-info in its own words."""


def listing(prefix: Path) -> dict[str, Path]:
    """Return every file of an environment that comes from a wheel, by path; through links to directories."""
    found = {}
    for directory, names, files in os.walk(prefix, followlinks=True):
        names[:] = [name for name in names if name not in {"__pycache__", "lib64"}]
        for name in files:
            path = Path(directory, name)
            relative = path.relative_to(prefix).as_posix()
            if name == ".vrfstore" or any(fnmatchcase(relative, pattern) for pattern in _OF_THE_VENV):
                continue
            if path.parent.name.endswith(".dist-info") and name in _OF_THE_INSTALLER:
                continue
            found[relative] = path
    return found


def compare_files(ours: Place, theirs: Place) -> list[str]:
    """Return what differs between the files of two environments: ``missing``, ``added``, ``bytes``, ``executable``."""
    here, there = listing(ours.prefix), listing(theirs.prefix)
    found = [f"missing: {path}" for path in there.keys() - here.keys()]
    found += [f"added: {path}" for path in here.keys() - there.keys()]
    for path in here.keys() & there.keys():
        if not _same_bytes(here[path], there[path], theirs.prefix):
            found.append(f"bytes: {path}")
        one, other = _is_executable(here[path]), _is_executable(there[path])
        # What a wheel has as a script is one, whatever its zip says of it; pip leaves such a file as it came.
        if one != other and not (one and path.startswith("bin/")):
            found.append(f"executable: {path}")
    return sorted(found)


def _same_bytes(ours: Path, theirs: Path, prefix: Path) -> bool:
    try:
        if theirs.parent.name == "bin" and _is_written(theirs, prefix):
            return ours.is_file()
        if ours.stat().st_size != theirs.stat().st_size:
            return False
        with ours.open("rb") as one, theirs.open("rb") as other:
            return all(
                block == other.read(1 << 20) for block in iter(functools.partial(one.read, 1 << 20), b"")
            )
    except OSError:
        return False


def _is_executable(path: Path) -> bool:
    return path.exists() and bool(path.stat().st_mode & 0o111)


def _is_written(script: Path, prefix: Path) -> bool:
    """Return whether the installer wrote its first line, or all of it."""
    with script.open("rb") as stream:
        head = stream.read(len(os.fsencode(prefix)) + 64)
    return head.startswith(b"#!") and os.fsencode(prefix) in head


def _metadata(place: Place) -> tuple[bool, str]:
    answer = place.run(["python", "-c", METADATA])
    if answer.code != 0:
        return False, str(answer)
    found = json.loads(answer.stdout)
    for one in found["distributions"]:
        one["files"] = _named_files(one["files"])
    return True, json.dumps(found, indent=1, sort_keys=True)


def _named_files(files: Mapping[str, str] | None) -> dict[str, str] | None:
    """Return the rows of a RECORD that wheels bring; the links to directories in ours are not among them."""
    if files is None:
        return None
    return {
        path: state
        for path, state in files.items()
        if state != "directory" and not path.endswith(".pyc") and Path(path).name not in _OF_THE_INSTALLER
    }


def _pip_list(place: Place) -> tuple[bool, str]:
    answer = place.run(["python", "-m", "pip", "list", "--format", "json"])
    if answer.code != 0:
        return False, str(answer)
    return True, "\n".join(sorted(f"{one['name']} {one['version']}" for one in json.loads(answer.stdout)))


def _ran(command: Sequence[str]) -> Callable[[Place], tuple[bool, str]]:
    def look(place: Place) -> tuple[bool, str]:
        answer = place.run(command)
        return answer.code == 0, str(answer)

    return look


def looks(case: Case) -> Iterator[tuple[str, Callable[[Place], tuple[bool, str]]]]:
    """Yield what is looked at in both: a label, and what gives its success and its text in a place."""
    yield "metadata", _metadata
    yield "pip list", _pip_list
    if case.imports:
        yield "imports", _ran(["python", "-c", IMPORTS, *case.imports])
    for number, check in enumerate(case.checks, 1):
        yield f"check {number}", _ran(["python", "-c", check])
    for command in case.commands:
        yield command, _ran(shlex.split(command))


def compare(version: str, case: Case, ours: Place, theirs: Place) -> list[Outcome]:
    """Look at everything in both, and return what was seen."""
    # Files first: what runs later may write some.
    outcomes = [_files_outcome(version, case, compare_files(ours, theirs))]
    for label, look in looks(case):
        (_, mine), (good, reference) = look(ours), look(theirs)
        outcomes.append(
            Outcome(
                python=version,
                case=case.name,
                label=label,
                difference=_difference(reference, mine),
                explained=case.explained.get(label, ""),
                failed="" if good else reference,
            )
        )
    return outcomes


def _files_outcome(version: str, case: Case, differences: Iterable[str]) -> Outcome:
    patterns = {
        key.removeprefix("files:"): why for key, why in case.explained.items() if key.startswith("files:")
    }
    reasons: list[str] = []
    rest: list[str] = []
    for one in differences:
        path = one.partition(": ")[2]
        why = next((why for pattern, why in patterns.items() if fnmatchcase(path, pattern)), "")
        (reasons if why else rest).append(why or one)
    return Outcome(
        python=version,
        case=case.name,
        label="files",
        difference="\n".join(rest or sorted(set(reasons))),
        explained="" if rest else "; ".join(sorted(set(reasons))),
    )


def _difference(reference: str, ours: str) -> str:
    if reference == ours:
        return ""
    lines = difflib.unified_diff(
        reference.splitlines(), ours.splitlines(), "pip's venv", "vrfstore's environment", n=1, lineterm=""
    )
    return "\n".join(lines) or "they differ in line ends"


def examine(python: str, version: str, case: Case, links: Path, store: Path, scratch: Path) -> list[Outcome]:
    """Make both environments of a case, compare them, and remove the venv.

    Args:
        python: The base interpreter.
        version: What to call it.
        case: What is asked for.
        links: A directory with one wheel of each project.
        store: The store.
        scratch: An empty directory.
    """

    def single(label: str, difference: str) -> list[Outcome]:
        why = case.explained.get(label, "")
        return [Outcome(python=version, case=case.name, label=label, difference=difference, explained=why)]

    try:
        environment, wheels = link(python, case, links, store, scratch)
    except LinkError as error:
        return single("link", "" if error.code == case.refused else str(error))
    if case.refused:
        return single("link", f"made, where exit {case.refused} was to be")
    prefix = scratch / "venv"
    try:
        make_reference(python, wheels, prefix)
        return compare(version, case, Place(environment, scratch / "ours"), Place(prefix, scratch / "theirs"))
    except subprocess.CalledProcessError as error:
        return single("reference", str(error))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def examine_all(
    python: str,
    version: str,
    cases: Iterable[Case],
    wheels: Iterable[Path],
    scratch: Path,
    *,
    jobs: int = 1,
    tell: Callable[[Sequence[Outcome], float], None] = lambda _, __: None,
) -> list[Outcome]:
    """Examine all cases that are for an interpreter, with one store.

    Args:
        python: The base interpreter.
        version: Its version, as ``3.X.Y``.
        cases: All of them.
        wheels: One of each project.
        scratch: A directory; the store is kept there for the next interpreter.
        jobs: How many at a time.
        tell: Is given the outcomes of a case and how many seconds it took.
    """
    links = scratch / f"wheels-{version}"
    link_wheels(wheels, links)

    def one(number: int, case: Case) -> tuple[list[Outcome], float]:
        began = time.perf_counter()
        place = scratch / f"{version}-{number}"
        place.mkdir()
        found = examine(python, version, case, links, scratch / "store", place)
        return found, time.perf_counter() - began

    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(jobs) as pool:
        chosen = [case for case in cases if _is_for(case, version)]
        for done in as_completed([pool.submit(one, *each) for each in enumerate(chosen)]):
            found, seconds = done.result()
            tell(found, seconds)
            outcomes += found
    return outcomes


def version_of(python: str) -> str:
    """Return the version of an interpreter, as ``3.X.Y``."""
    done = subprocess.run(
        [python, "-c", "import platform; print(platform.python_version())"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def short_version(version: str) -> str:
    """Return ``3.X`` of ``3.X.Y``."""
    return version.rpartition(".")[0]


def _tell(found: Sequence[Outcome], seconds: float) -> None:
    first = found[0]
    bad = any(one.difference and not one.explained for one in found)
    sys.stdout.write(
        f"{'BAD' if bad else 'ok '} {first.python} {first.case}: {len(found)} looks, {seconds:.1f} s\n"
    )
    for one in found:
        if one.failed and not one.difference:
            sys.stdout.write(f"    {one.label}: failed in both\n")
            for line in one.failed.splitlines()[:_SHOWN]:
                sys.stdout.write(f"        {line}\n")
        if one.difference:
            sys.stdout.write(
                f"    {one.label}: {'explained: ' + one.explained if one.explained else 'differs'}\n"
            )
            lines = one.difference.splitlines()
            for line in lines[: 0 if one.explained else _SHOWN]:
                sys.stdout.write(f"        {line}\n")
            if len(lines) > _SHOWN and not one.explained:
                sys.stdout.write(f"        ({len(lines) - _SHOWN} more)\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine what the command line means; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Hold environments of real distributions against pip's venvs."
    )
    parser.add_argument("--python", action="append", metavar="PYTHON", help="by default, every one found")
    parser.add_argument("--only", action="append", metavar="NAME", help="a case; by default, all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the outcomes go")
    parser.add_argument(
        "--cache", type=Path, default=CACHE, metavar="DIRECTORY", help="where wheels are kept"
    )
    parser.add_argument(
        "--data", type=Path, default=DATA, metavar="DIRECTORY", help="where cases and pins are"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="cases at a time")
    parser.add_argument("--lock", action="store_true", help="write the pins anew")
    asked = parser.parse_args(arguments)
    cases = read_cases(asked.data)
    unknown = set(asked.only or ()) - {case.name for case in cases}
    if unknown:
        parser.error(f"there is no case {', '.join(sorted(unknown))}")
    chosen = [case for case in cases if not asked.only or case.name in asked.only]
    interpreters = {python: version_of(python) for python in asked.python or pythons()}
    if asked.lock:
        by_short = {short_version(version): python for python, version in interpreters.items()}
        for short, python in by_short.items():
            lock(python, short, cases, asked.cache, asked.data)
        return 0
    summary = _examine_everywhere(interpreters, chosen, asked)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(one) for one in summary.outcomes], indent=1) + "\n")
    sys.stdout.write(f"\n{summary}\n")
    return 1 if summary.unexplained else 0


def _examine_everywhere(
    interpreters: Mapping[str, str], cases: Sequence[Case], asked: argparse.Namespace
) -> Summary:
    summary = Summary()
    scratch = tempfile.mkdtemp(prefix="parity-")
    try:
        for python, version in interpreters.items():
            began = time.perf_counter()
            pins = read_pins(asked.data / f"requirements-{short_version(version)}.txt")
            wanted = {one for case in cases if _is_for(case, version) for one in case.requirements}
            # For an old Python, the command looks for a pip that runs there among the wheels as well.
            wanted |= {"pip"} & {pin.requirement.partition("==")[0] for pin in pins}
            wheels = (
                fetch_for(python, pins, sorted(wanted), asked.cache)
                if asked.only
                else fetch(python, pins, asked.cache)
            )
            summary.outcomes += examine_all(
                python, version, cases, wheels, Path(scratch), jobs=asked.jobs, tell=_tell
            )
            summary.seconds[version] = time.perf_counter() - began
    finally:
        fs.remove_tree(scratch)
    return summary


if __name__ == "__main__":
    sys.exit(main())
