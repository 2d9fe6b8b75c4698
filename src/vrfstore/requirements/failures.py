"""Why a resolution failed, as values that are the same whichever resolver spoke; and which demands contradict.

``pip_words`` and ``uv_words`` read what the two say into these, and ``explain`` says them to whoever wrote the
requirements. So one cause has one wording.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from vrfstore.values import dataclass

__all__ = [
    "Conflict",
    "Demand",
    "DiskFull",
    "Failure",
    "HashMismatch",
    "HashMissing",
    "NoVersion",
    "NoWheel",
    "OtherPython",
    "PackageMissing",
    "Unexplained",
    "Unreachable",
    "accepts",
    "contested",
    "newest",
    "project",
    "same_specifier",
    "version_key",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """Somebody asks for versions of a project.

    Attributes:
        project: Its normalised name.
        specifier: Which versions, such as ``>=2,<3``; empty for any.
        chain: Who asks: projects from the one that the file names to the one that asks. Empty where the file asks.
        version: Of the last in the chain; empty where all its versions do, or nobody says.
        constraint: The file does not ask, but limits.
    """

    project: str
    specifier: str = ""
    chain: tuple[str, ...] = ()
    version: str = ""
    constraint: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageMissing:
    """The index does not know the project."""

    demand: Demand


@dataclass(frozen=True, kw_only=True, slots=True)
class NoVersion:
    """The project exists, and none of its versions satisfies the demand.

    Attributes:
        demand: What was asked for.
        versions: What this Python could have instead, oldest first, as far as the resolver tells.
        yanked: A version that would satisfy it, but was yanked.
        prerelease: A pre-release that would satisfy it, but was not asked for as one.
    """

    demand: Demand
    versions: tuple[str, ...] = ()
    yanked: str = ""
    prerelease: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherPython:
    """What satisfies the demand is for other Pythons.

    Attributes:
        demand: What was asked for.
        version: The newest that satisfies it.
        needs: Which Pythons that is for, such as ``>=3.12``.
        versions: What this Python could have instead, oldest first, as far as the resolver tells.
    """

    demand: Demand
    version: str
    needs: str
    versions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class NoWheel:
    """What satisfies the demand has no wheel that fits.

    Attributes:
        demand: What was asked for.
        version: The newest that satisfies it.
        source: It could be built.
        versions: What has a wheel, oldest first, as far as the resolver tells.
    """

    demand: Demand
    version: str
    source: bool
    versions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Conflict:
    """Demands on one project that no version satisfies together; none where the resolver did not name any."""

    demands: tuple[Demand, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class HashMismatch:
    """A file is not one of those that were asked for.

    Attributes:
        project: Its normalised name; empty where unknown.
        expected: Digests, in hexadecimal digits.
        got: The digest that it has, in the same way.
    """

    project: str
    expected: tuple[str, ...]
    got: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class HashMissing:
    """Some requirements have hashes and another has none: a project, or empty where unknown."""

    project: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreachable:
    """The index, or the way to it, failed.

    Attributes:
        reason: In few words, such as ``[Errno 111] Connection refused``; empty where there are none.
        cause: ``credentials``, ``certificate``, ``proxy``, ``time``, or empty.
    """

    reason: str = ""
    cause: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskFull:
    """There was no room, or no quota; with the system's own words."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Unexplained:
    """None of these: the resolver's own words, one line."""

    words: str


Failure = (
    PackageMissing
    | NoVersion
    | OtherPython
    | NoWheel
    | Conflict
    | HashMismatch
    | HashMissing
    | Unreachable
    | DiskFull
    | Unexplained
)


def project(text: str) -> str:
    """Return the normalised project name that a requirement begins with."""
    return canonicalize_name(re.split(r"[\s\[<>=!~;@(]", text.strip(), maxsplit=1)[0])


def version_key(text: str) -> Version:
    """Return what orders versions; what is none comes first."""
    try:
        return Version(text)
    except InvalidVersion:
        return Version("0.dev0")


def newest(versions: Sequence[str]) -> str:
    """Return the newest version that is no pre-release, or the newest if all are; empty where there are none."""
    finals = [version for version in versions if not version_key(version).is_prerelease]
    return max(finals or versions, key=version_key, default="")


def accepts(specifier: str, version: str) -> bool:
    """Tell whether a version satisfies a specifier, pre-releases included."""
    try:
        return SpecifierSet(specifier).contains(version, prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return False


def same_specifier(one: str, other: str) -> bool:
    """Tell whether two specifiers say the same, however they are written."""
    try:
        return SpecifierSet(one) == SpecifierSet(other)
    except InvalidSpecifier:
        return one == other


def contested(demands: Iterable[Demand]) -> tuple[Demand, ...]:
    """Choose the demands that contradict each other: those on the project of which most different ones limit versions.

    Of several versions of one project that ask, the newest speaks for all. One demand that is left alone contradicts
    nothing: it is what cannot be satisfied.
    """
    groups: dict[str, dict[tuple[object, ...], list[Demand]]] = {}
    for demand in demands:
        group = groups.setdefault(demand.project, {})
        same = group.setdefault(demand.chain[-1:] or (demand.specifier, demand.constraint), [])
        age = version_key(demand.version)
        if not same or version_key(same[0].version) < age:
            same[:] = [demand]
        elif version_key(same[0].version) == age and demand.specifier not in {
            each.specifier for each in same
        }:
            same.append(demand)
    chosen = max(
        (tuple(itertools.chain(*group.values())) for group in groups.values()), key=_limits, default=()
    )
    return tuple(demand for demand in chosen if demand.specifier) or chosen


def _limits(demands: Sequence[Demand]) -> tuple[int, int]:
    return len({demand.specifier for demand in demands if demand.specifier}), len(demands)
