"""Locks that others made, as ``pylock.toml`` (PEP 751): which of their wheels are for one interpreter.

``packaging.pylock`` reads and validates them. Its ``select`` decides alike, but stops at the first thing that is wrong
and tells it in words only, takes pre-releases of Python for none, and until 26.3 does not decode the file names of
URLs; so the choice is made here, and a test holds it to that one's.

No disk is looked at: where a wheel is said to be by path, nobody asks here whether it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from vrfstore.errors import RequirementsError, ResolutionError, UsageError
from vrfstore.model import Interpreter, Lock, LockedWheel, LockFile, parse_digest
from vrfstore.requirements import toml
from vrfstore.requirements.parse import shown
from vrfstore.requirements.places import beside, file_url, wheel_name
from vrfstore.requirements.solution import Solution, SourceFile, source_file
from vrfstore.requirements.urls import without_credentials
from vrfstore.tags import allows_python, ordered_tags
from vrfstore.target import marker_environment

if TYPE_CHECKING:
    from packaging.markers import Marker
    from packaging.pylock import Package, PackageSdist, PackageWheel, Pylock

__all__ = ["choose", "offered", "select", "versions"]

_KIND = "lock-invalid"
_MEANINGLESS = (ValueError, TypeError, KeyError, AssertionError)
"""What versions of ``packaging`` raise for markers that name what is not there, or compare sets with texts."""
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")
_SHOWN = 20
"""Packages that an error names."""


def offered(lock_file: LockFile) -> tuple[frozenset[str], frozenset[str]]:
    """Return the extras and the dependency groups that a lock lets one choose from, normalised.

    Raises:
        RequirementsError: It is not TOML.
    """
    from packaging.utils import canonicalize_name  # noqa: PLC0415 - where there is a lock only

    document = toml.loads(lock_file.text, lock_file.path, _KIND)
    extras, groups = (
        frozenset(
            str(canonicalize_name(name))
            for name in toml.texts(document.get(key, []), key, lock_file.path, _KIND)
        )
        for key in ("extras", "dependency-groups")
    )
    return extras, groups


def versions(lock_file: LockFile) -> dict[str, str]:
    """Return the versions that a lock names by normalised name, whatever else it says of them.

    Raises:
        RequirementsError: It is not a lock, or one of a later version.
    """
    return {package.name: str(package.version) for package in _load(lock_file).packages if package.version}


def select(
    lock_file: LockFile, interpreter: Interpreter, extras: Collection[str] = (), groups: Collection[str] = ()
) -> Lock:
    """Return the wheels of a lock that are for an interpreter; see ``choose``, but nothing may be built."""
    return choose(lock_file, interpreter, extras, groups).lock


def choose(
    lock_file: LockFile,
    interpreter: Interpreter,
    extras: Collection[str] = (),
    groups: Collection[str] = (),
    *,
    allow_builds: bool = False,
    document: dict[str, Any] | None = None,
) -> Solution:
    """Return the wheels of a lock that are for an interpreter, and the source distributions of what has none.

    Args:
        lock_file: The lock; paths in it are relative to its directory.
        interpreter: For whom; need not be on this machine. What it has already does not matter.
        extras: Which extras are wanted, normalised; those that the lock does not know change nothing.
        groups: Which dependency groups, in the same way; the lock's own default if there are none.
        allow_builds: A source distribution will do.
        document: What counts instead of the lock's text, for those who have parsed that already.

    Raises:
        RequirementsError: It is not a lock, or one of a later version.
        ResolutionError: It is not for this interpreter (``requires-python``), or has packages without a wheel for it
            (``no-wheel``) or whose wheel has no SHA-256 (``no-hash``), all of which are named.
    """
    pylock = _load(lock_file, document)
    environment = marker_environment(interpreter)
    _check_interpreter(pylock, lock_file, interpreter, environment)
    chosen: dict[str, str | frozenset[str]] = {
        **environment,
        "extras": frozenset(extras),
        "dependency_groups": frozenset(groups or pylock.default_groups or ()),
    }
    packages = [
        package
        for package in pylock.packages
        if package.marker is None or _holds(package.marker, chosen, "lock_file", lock_file)
    ]
    _check_packages(packages, lock_file, interpreter)
    ranks = {tag: rank for rank, tag in reversed(list(enumerate(ordered_tags(interpreter))))}
    best = {package.name: _best(package, ranks) for package in packages}
    sources = [
        package for package in packages if allow_builds and best[package.name] is None and package.sdist
    ]
    lacking = [package for package in packages if best[package.name] is None and package not in sources]
    buildable = bool(lacking) and all(package.sdist is not None for package in lacking)
    _refuse(
        (f"{package.name} ({_lack(package)})" for package in lacking),
        f"has no wheel for Python {interpreter.version} on {interpreter.platform}",
        "no-wheel",
        lock_file,
        "lock again for this interpreter"
        + (", or allow builds with --allow-builds" if buildable else "; vrfstore installs wheels only"),
    )
    _refuse(
        (name for name, wheel in best.items() if wheel is not None and "sha256" not in wheel.hashes),
        "has no SHA-256",
        "no-hash",
        lock_file,
        "lock again from an index that publishes hashes",
    )
    wheels = [_locked(package, wheel, lock_file) for package in packages if (wheel := best[package.name])]
    return Solution(
        Lock(wheels=tuple(sorted(wheels, key=lambda wheel: wheel.name)), python=interpreter.short_version),
        tuple(_source(package, lock_file) for package in sources),
    )


def _source(package: Package, lock_file: LockFile) -> SourceFile:
    sdist = package.sdist
    if sdist is None or package.version is None:
        raise _invalid(f"{package.name} has a source distribution, and no version", lock_file)
    try:
        return source_file(
            package.name, str(package.version), _url(sdist, lock_file), sdist.hashes.get("sha256")
        )
    except UsageError as error:
        raise _invalid(f"the hash of {package.name} is none", lock_file) from error


def _load(lock_file: LockFile, document: dict[str, Any] | None = None) -> Pylock:
    from packaging.pylock import Pylock, PylockValidationError  # noqa: PLC0415 - 30 ms for those with locks

    if document is None:
        document = toml.loads(lock_file.text, lock_file.path, _KIND)
    _name_wheels(document)
    try:
        return Pylock.from_dict(document)
    except PylockValidationError as error:
        raise _invalid(str(error), lock_file) from error
    except RecursionError as error:
        raise _invalid("it is nested too deeply", lock_file) from error


def _name_wheels(document: Mapping[str, Any]) -> None:
    """Give wheels that have none the name that their URL says; packaging before 26.3 forgets to decode it."""
    packages = document.get("packages")
    for package in packages if isinstance(packages, list) else []:
        wheels = package.get("wheels") if isinstance(package, dict) else None
        for wheel in wheels if isinstance(wheels, list) else []:
            if not isinstance(wheel, dict) or wheel.get("name") or wheel.get("path"):
                continue
            url = wheel.get("url")
            if isinstance(url, str) and "%" in url:
                wheel["name"] = unquote(url.partition("#")[0].partition("?")[0].rpartition("/")[2])


def _invalid(reason: str, lock_file: LockFile) -> RequirementsError:
    return RequirementsError(
        f"not a lock that can be read: {reason}",
        kind=_KIND,
        path=lock_file.path,
        hint="make it again with pip lock, uv export, or whatever made it",
    )


def _check_interpreter(
    pylock: Pylock, lock_file: LockFile, interpreter: Interpreter, environment: Mapping[str, str]
) -> None:
    requires = str(pylock.requires_python or "")
    if not allows_python(requires, interpreter.version):
        raise _unfit(f"the lock is for Python {requires}", lock_file, interpreter)
    if pylock.environments and not any(
        _holds(marker, environment, "requirement", lock_file) for marker in pylock.environments
    ):
        known = " or ".join(map(str, pylock.environments))
        raise _unfit(f"the lock is for environments with {shown(known)[1:-1]}", lock_file, interpreter)


def _unfit(message: str, lock_file: LockFile, interpreter: Interpreter) -> ResolutionError:
    return ResolutionError(
        f"{message}, and {interpreter.executable} is {interpreter.version} on {interpreter.platform}",
        kind="requires-python",
        path=lock_file.path,
        hint="choose another interpreter with --python, or lock again for this one",
    )


def _holds(marker: Marker, environment: Mapping[str, Any], context: Any, lock_file: LockFile) -> bool:
    try:
        return marker.evaluate(dict(environment), context=context)
    except _MEANINGLESS as error:
        raise _invalid(f"the marker {shown(str(marker))} makes no sense: {error}", lock_file) from error
    except RecursionError as error:
        raise _invalid("a marker is nested too deeply", lock_file) from error


def _check_packages(packages: list[Package], lock_file: LockFile, interpreter: Interpreter) -> None:
    """Make sure that no package is there twice, or for other Pythons."""
    names = [package.name for package in packages]
    if len(set(names)) < len(names):
        twice = next(name for name in sorted(names) if names.count(name) > 1)
        raise _invalid(f"more than one {twice} is for this interpreter", lock_file)
    barred = [
        f"{package.name} is for Python {package.requires_python}"
        for package in packages
        if not allows_python(str(package.requires_python or ""), interpreter.version)
    ]
    if barred:
        raise _unfit("; ".join(barred[:_SHOWN]), lock_file, interpreter)


def _best(package: Package, ranks: Mapping[str, int]) -> PackageWheel | None:
    """Return the wheel of a package whose tags an interpreter likes best; of equal ones the first."""
    from packaging.utils import parse_wheel_filename  # noqa: PLC0415 - see above

    ranked = []
    for place, wheel in enumerate(_wheels(package)):
        tags = parse_wheel_filename(wheel.filename)[3]
        rank = min((ranks[str(tag)] for tag in tags if str(tag) in ranks), default=None)
        if rank is not None and _is_fetched(wheel):
            ranked.append((rank, place, wheel))
    return min(ranked)[2] if ranked else None


def _wheels(package: Package) -> Sequence[PackageWheel]:
    """Return the wheels of a package; one that was asked for by URL or path stands there as an archive."""
    from packaging.pylock import PackageWheel  # noqa: PLC0415 - see above

    archive = package.archive
    if archive is None:
        return package.wheels or ()
    place = archive.path or unquote((archive.url or "").partition("#")[0].partition("?")[0])
    filename = place.rpartition("/")[2]
    if wheel_name(filename) != package.name:
        return ()
    found = PackageWheel(
        name=filename, url=archive.url, path=archive.path, size=archive.size, hashes=archive.hashes
    )
    return (found,)


def _is_fetched(wheel: PackageWheel) -> bool:
    """Whether a wheel is in a place that can be fetched from."""
    if wheel.path:
        return "\0" not in wheel.path
    try:
        parts = urlsplit(wheel.url or "")
    except ValueError:
        return False
    if parts.scheme == "file":
        return parts.netloc in {"", "localhost"} and "%00" not in parts.path
    return parts.scheme in {"http", "https"} and not _UNPRINTABLE.search(wheel.url or "")


def _lack(package: Package) -> str:
    """Return why no wheel of a package will do."""
    if package.vcs is not None:
        return f"it is fetched from {shown(package.vcs.type)[1:-1]}"
    if package.directory is not None:
        return "it is a directory"
    wheels = _wheels(package)
    if not wheels:
        return "it is an archive of sources" if package.archive is not None else "it is a source distribution"
    names = ", ".join(sorted(wheel.filename for wheel in wheels)[:3])
    return f"only {names}{', …' if len(wheels) > 3 else ''}"  # noqa: PLR2004 - as many as are named


def _refuse(names: Iterable[str], message: str, kind: str, lock_file: LockFile, hint: str) -> None:
    found = sorted(names)
    if not found:
        return
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise ResolutionError(
        f"{', '.join(found[:_SHOWN])}{more} {message}", kind=kind, path=lock_file.path, hint=hint
    )


def _locked(package: Package, wheel: PackageWheel, lock_file: LockFile) -> LockedWheel:
    from packaging.utils import parse_wheel_filename  # noqa: PLC0415 - see above

    if wheel_name(wheel.filename) is None:
        raise _invalid(f"{shown(wheel.filename)} is not a file name that wheels have", lock_file)
    try:
        digest = parse_digest(wheel.hashes["sha256"])
    except UsageError as error:
        raise _invalid(f"the hash of {package.name} is none", lock_file) from error
    return LockedWheel(
        name=package.name,
        version=str(package.version or parse_wheel_filename(wheel.filename)[1]),
        filename=wheel.filename,
        digest=digest,
        url=_url(wheel, lock_file),
        requires_python=str(package.requires_python) if package.requires_python else None,
        # Until 26.3 packaging takes `true` for a number too.
        size=wheel.size if type(wheel.size) is int and wheel.size > 0 else None,
    )


def _url(file: PackageWheel | PackageSdist, lock_file: LockFile) -> str:
    if file.path:
        return file_url(beside(lock_file.path, file.path))
    return without_credentials(file.url or "")
