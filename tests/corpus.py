"""Real wheels, unpacked by us and installed by pip, file by file.

usage: python tests/corpus.py [--cache DIRECTORY] [--list FILE] [--offline] [WHEEL ...]

Takes the wheels given, or those that ``corpus.txt`` pins (fetched by pip into the cache, where they are not there
yet). Adds each to a store of its own with ``Store.add``, has pip install it into a fresh venv, and compares paths,
bytes and executable bits. What may differ, and why, is in ``_ALLOWED``. Run it with the Python that the wheels are
for. Exits with 1 if a wheel was refused or differs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from vrfstore import fs
from vrfstore.errors import WheelError
from vrfstore.store.store import Store

LIST = Path(__file__).parent / "corpus.txt"
CACHE = Path(__file__).parent.parent / ".corpus"

_PIP = ("-m", "pip", "--disable-pip-version-check", "--isolated")

SITE_PACKAGES, SCRIPTS, HEADERS = "site-packages", "bin", "headers"
"""First parts of the paths that are compared; whatever begins with another one is data."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A file as it is installed.

    Attributes:
        sha256: Of its bytes.
        size: Bytes.
        executable: Whether anybody may run it.
        generated: Whether it was made from an entry point, or its first line written anew.
    """

    sha256: str
    size: int
    executable: bool
    generated: bool = False


Listing = Mapping[str, Installed]
"""Files by their path in an environment, as ``_SCHEMES`` writes it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that is not the same: ``missing`` (from the entry), ``added``, ``bytes`` or ``executable``."""

    path: str
    kind: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one wheel.

    Attributes:
        wheel: Its file name.
        files: How many files the entry has; none for a refused wheel.
        size: Their bytes.
        seconds: That adding it took.
        differences: What should not differ.
        refused: Why it was not added; empty where it was.
        unanswered: Why pip did not install it; empty where it did.
        warnings: What was said of it.
    """

    wheel: str
    files: int = 0
    size: int = 0
    seconds: float = 0.0
    differences: tuple[Difference, ...] = ()
    refused: str = ""
    unanswered: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether it is in the store as pip would have installed it."""
        return not (self.differences or self.refused or self.unanswered)


@dataclass(slots=True)
class Summary:
    """The sum of outcomes."""

    outcomes: list[Outcome] = field(default_factory=list)

    def __str__(self) -> str:
        everything = self.outcomes
        refused = sum(bool(outcome.refused) for outcome in everything)
        different = sum(bool(outcome.differences) for outcome in everything)
        unanswered = sum(bool(outcome.unanswered) for outcome in everything)
        return (
            f"{len(everything)} wheels, {sum(outcome.files for outcome in everything)} files, "
            f"{sum(outcome.size for outcome in everything)} bytes, "
            f"{sum(outcome.seconds for outcome in everything):.1f} s of ingest; "
            f"{refused} refused, {different} different, {unanswered} not installed by pip"
        )


def read_list(path: Path) -> list[Requirement]:
    """Return the pins of a list: a ``name==version`` a line, ``#`` begins a comment.

    Raises:
        ValueError: A line is something else.
    """
    pins = []
    for line in path.read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text:
            pin = Requirement(text)
            if [specifier.operator for specifier in pin.specifier] != ["=="]:
                raise ValueError(f"not a pin: {line}")
            pins.append(pin)
    return pins


def pinned_wheels(pins: Iterable[Requirement], cache: Path) -> dict[str, Path | None]:
    """Return the wheel in the cache for each pin, by the text of the pin; ``None`` where there is none."""
    there: dict[tuple[str, Version], Path] = {}
    for wheel in sorted(cache.glob("*.whl")):
        try:
            name, version, *_ = parse_wheel_filename(wheel.name)
        except InvalidWheelFilename:
            continue
        there[name, version] = wheel
    found = {}
    for pin in pins:
        (specifier,) = pin.specifier
        found[str(pin)] = there.get((canonicalize_name(pin.name), Version(specifier.version)))
    return found


def download(pins: Sequence[Requirement], cache: Path) -> list[Path]:
    """Return a wheel for each pin, and fetch with pip what the cache does not have.

    Raises:
        subprocess.CalledProcessError: pip did not get one of them.
    """
    cache.mkdir(parents=True, exist_ok=True)
    missing = [pin for pin, wheel in pinned_wheels(pins, cache).items() if wheel is None]
    if missing:
        options = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(cache)]
        # Not --isolated: the caller's own index and certificates count.
        command = [sys.executable, *_PIP[:3], *options, *missing]
        subprocess.run(command, check=True)
    return [wheel for wheel in pinned_wheels(pins, cache).values() if wheel is not None]


def entry_listing(entry: Path, name: str) -> Listing:
    """Return the files of an entry as an environment has them.

    Args:
        entry: Its directory.
        name: The normalised project name, below which its headers are.
    """
    found: dict[str, Installed] = {}
    for scheme, place in (("site-packages", f"{SITE_PACKAGES}/"), ("data", ""), ("scripts", f"{SCRIPTS}/")):
        for path, file in _files(entry / scheme):
            found[f"{place}{path}"] = file
    for path, file in _files(entry / "headers" / name):
        found[f"{HEADERS}/{path}"] = file
    # What was prepared takes the place of the wheel's own.
    for path, file in _files(entry / "links" / "bin"):
        found[f"{SCRIPTS}/{path}"] = _as_generated(file)
    return found


def installed_listing(prefix: Path, name: str, without: Iterable[str] = ()) -> Listing:
    """Return the files of a venv.

    Args:
        prefix: Its directory.
        name: The normalised name of the project that was installed.
        without: Paths that were there before.
    """
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}{getattr(sys, 'abiflags', '')}"
    schemes = {
        f"lib/{version}/site-packages/": f"{SITE_PACKAGES}/",
        f"include/site/{version}/": f"{HEADERS}/",
    }
    before = set(without)
    marker = os.fsencode(f"{prefix}/bin/python")
    found = {}
    for path, file in _files(prefix):
        if path in before:
            continue
        place = path
        for directory, scheme in schemes.items():
            if path.startswith(directory):
                place = scheme + path.removeprefix(directory)
        if place.startswith(f"{HEADERS}/"):
            # pip names the directory as METADATA spells the project, which may be another way.
            _, spelled, rest = place.split("/", 2)
            place = f"{HEADERS}/{rest}" if canonicalize_name(spelled) == name else place
        if place.startswith(f"{SCRIPTS}/"):
            with open(prefix / path, "rb") as stream:
                head = stream.read(len(marker) + 64)
            file = _as_generated(file) if head.startswith(b"#!") and marker in head else file  # noqa: PLW2901
        found[place] = file
    return found


def _as_generated(file: Installed) -> Installed:
    return Installed(file.sha256, file.size, file.executable, generated=True)


def _files(top: Path) -> Iterator[tuple[str, Installed]]:
    """Yield every file below a directory by relative path; symlinks are none."""
    for directory, _, names in os.walk(top):
        for name in names:
            path = Path(directory, name)
            if path.is_symlink():
                continue
            with path.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            found = path.stat()
            yield str(path.relative_to(top)), Installed(sha256, found.st_size, bool(found.st_mode & 0o111))


def compare(entry: Listing, installed: Listing) -> tuple[Difference, ...]:
    """Return what differs between an entry and what pip installed, but for what may; sorted by path."""
    found = []
    for path in sorted(entry.keys() | installed.keys()):
        ours, theirs = entry.get(path), installed.get(path)
        if ours is None or theirs is None:
            kinds = ["missing" if ours is None else "added"]
        else:
            kinds = ["bytes"] if ours.sha256 != theirs.sha256 else []
            kinds += ["executable"] if ours.executable != theirs.executable else []
        differences = [Difference(path, kind) for kind in kinds]
        found += [one for one in differences if not _allowed(one, ours, theirs)]
    return tuple(found)


def _allowed(difference: Difference, ours: Installed | None, theirs: Installed | None) -> bool:
    return any(rule(difference, ours, theirs) for rule in _ALLOWED)


def _record_of_the_installer(
    difference: Difference, ours: Installed | None, theirs: Installed | None
) -> bool:
    """RECORD is every installer's own, and describes what it made; the entry keeps the wheel's."""
    return difference.kind == "bytes" and _of_dist_info(difference.path) == "RECORD"


def _notes_of_the_installer(difference: Difference, ours: Installed | None, theirs: Installed | None) -> bool:
    """pip writes down that it was pip, from where, and on whose request; we prepare our INSTALLER in links/."""
    return difference.kind in {"missing", "bytes"} and _of_dist_info(difference.path) in {
        "INSTALLER", "REQUESTED", "direct_url.json",
    }  # fmt: skip


def _written_script(difference: Difference, ours: Installed | None, theirs: Installed | None) -> bool:
    """Scripts of entry points, and the first line of those with ``#!python``, are every installer's own words."""
    both = ours is not None and theirs is not None and ours.generated and theirs.generated
    return difference.kind == "bytes" and both


def _bytecode(difference: Difference, ours: Installed | None, theirs: Installed | None) -> bool:
    """We take no bytecode from a wheel: it would run without its source ever being looked at."""
    return difference.kind == "missing" and "__pycache__" in difference.path.split("/")


def _executable_script(difference: Difference, ours: Installed | None, theirs: Installed | None) -> bool:
    """What a wheel has as a script is one, whatever its zip says of it: pip leaves such a file as it came."""
    in_scripts = difference.path.startswith(f"{SCRIPTS}/")
    return difference.kind == "executable" and in_scripts and ours is not None and ours.executable


def _pip_of_this_version(difference: Difference, ours: Installed | None, theirs: Installed | None) -> bool:
    """pip names its own scripts after the Python that it is installed for, whatever its entry points say."""
    return difference.kind == "missing" and difference.path in {
        f"{SCRIPTS}/pip{sys.version_info[0]}", f"{SCRIPTS}/pip{sys.version_info[0]}.{sys.version_info[1]}",
    }  # fmt: skip


def _of_dist_info(path: str) -> str:
    """Return the name of a file that lies in a dist-info directory at the top, else nothing."""
    scheme, _, rest = path.partition("/")
    directory, _, name = rest.partition("/")
    return name if scheme == SITE_PACKAGES and directory.endswith(".dist-info") else ""


_ALLOWED: Sequence[Callable[[Difference, Installed | None, Installed | None], bool]] = (
    _record_of_the_installer,
    _notes_of_the_installer,
    _written_script,
    _bytecode,
    _executable_script,
    _pip_of_this_version,
)
"""What may differ; each says why."""


def check(store: Store, wheel: Path, scratch: Path) -> Outcome:
    """Add a wheel, have pip install it, compare, and remove both.

    Args:
        store: A store that is nobody else's; the entry is removed from it.
        wheel: The file.
        scratch: A directory for the venv.
    """
    began = time.perf_counter()
    try:
        added = store.add(wheel)
    except WheelError as error:
        return Outcome(wheel=wheel.name, refused=f"{error.kind}: {error.message}")
    seconds = time.perf_counter() - began
    reference = added.plan.reference
    entry = Path(store.layout.of("entries", reference.directory))
    listing = entry_listing(entry, reference.name)
    prefix = scratch / "venv"
    try:
        unanswered, installed = _installed_by_pip(wheel, prefix, reference.name)
    finally:
        fs.remove_tree(str(prefix))
        fs.remove_tree(str(entry))
    return Outcome(
        wheel=wheel.name,
        files=len(listing),
        size=sum(file.size for file in listing.values()),
        seconds=seconds,
        differences=() if unanswered else compare(listing, installed),
        unanswered=unanswered,
        warnings=added.warnings,
    )


def _installed_by_pip(wheel: Path, prefix: Path, name: str) -> tuple[str, Listing]:
    """Return pip's complaint, if it has one, and what it installed into a fresh venv."""
    venv.create(prefix, with_pip=False, symlinks=True)
    before = [path for path, _ in _files(prefix)]
    options = ["install", "--quiet", "--no-deps", "--no-compile", "--no-index", "--ignore-requires-python"]
    # With a warning for each directory that is not on PATH, real complaints would drown.
    options += ["--no-warn-script-location", "--no-cache-dir", str(wheel)]
    command = [sys.executable, *_PIP, "--python", str(prefix / "bin/python"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return done.stderr.strip() or f"exit {done.returncode}", {}
    return "", installed_listing(prefix, name, before)


def check_all(wheels: Iterable[Path], tell: Callable[[Outcome], None] = lambda _: None) -> Summary:
    """Check wheels one after the other in a store and a directory that are removed at the end."""
    summary = Summary()
    with tempfile.TemporaryDirectory(prefix="corpus-") as scratch:
        store = Store.open(f"{scratch}/store")
        for wheel in wheels:
            outcome = check(store, wheel, Path(scratch))
            summary.outcomes.append(outcome)
            tell(outcome)
    return summary


def _tell(outcome: Outcome) -> None:
    size = f"{outcome.files} files, {outcome.seconds:.2f} s"
    sys.stdout.write(f"{'ok ' if outcome.good else 'BAD'} {outcome.wheel}: {size}\n")
    for problem in filter(None, (outcome.refused, outcome.unanswered)):
        sys.stdout.write(f"    {problem}\n")
    for difference in outcome.differences[:20]:
        sys.stdout.write(f"    {difference.kind}: {difference.path}\n")
    for warning in outcome.warnings:
        sys.stdout.write(f"    warning: {warning}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the wheels that the command line means; return the exit code."""
    parser = argparse.ArgumentParser(description="Compare entries of real wheels with what pip installs.")
    parser.add_argument("wheels", nargs="*", type=Path, metavar="WHEEL", help="instead of those of the list")
    parser.add_argument(
        "--cache", type=Path, default=CACHE, metavar="DIRECTORY", help="where wheels are kept"
    )
    parser.add_argument("--list", type=Path, default=LIST, metavar="FILE", help="a name==version a line")
    parser.add_argument("--offline", action="store_true", help="only what of the list is in the cache")
    asked = parser.parse_args(arguments)
    wheels: list[Path] = asked.wheels
    if not wheels:
        pins = read_list(asked.list)
        if asked.offline:
            wheels = [wheel for wheel in pinned_wheels(pins, asked.cache).values() if wheel is not None]
        else:
            wheels = download(pins, asked.cache)
    summary = check_all(wheels, _tell)
    sys.stdout.write(f"{summary}\n")
    return 0 if all(outcome.good for outcome in summary.outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
