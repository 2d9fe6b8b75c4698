"""What distributions require of each other, and do not have. Pure.

Of each distribution its Requires-Dist counts (core metadata specifications), but for what an extra brings. What nobody
can read, nobody can hold anybody to.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from vrfstore.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from packaging.requirements import Requirement

__all__ = ["Described", "Need", "described", "needs", "unmet"]

_NAME = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)")
"""What a requirement begins with (PEP 508)."""

_HEADER = re.compile(rb"([A-Za-z-]+)[ \t]*:[ \t]*(.*)")


@dataclass(frozen=True, slots=True)
class Described:
    """What the METADATA of a distribution says.

    Attributes:
        name: Normalised.
        version: As it is written.
        requires: Its Requires-Dist, as they are written.
    """

    name: str
    version: str
    requires: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Need:
    """One requirement of a distribution.

    Attributes:
        owner: Who has it.
        name: The normalised name of what is required.
        written: That name as it is written.
        specifier: The versions that would do; empty for any.
        accepts: Whether a version would do.
        extras: The extras that are required of it, normalised and sorted.
    """

    owner: Described
    name: str
    written: str
    specifier: str
    accepts: Callable[[str], bool]
    extras: tuple[str, ...] = ()

    def complaint(self, version: str | None) -> str | None:
        """Return what is wrong in the words of ``pip check``, where this version is there, or none; None if nothing."""
        who = f"{self.owner.name} {self.owner.version} requires"
        if version is None:
            return f"{who} {self.written}, which is not installed"
        if not self.accepts(version):
            return f"{who} {self.written}{self.specifier}, and {version} is installed"
        return None


def described(metadata: bytes, name: str, version: str = "") -> Described:
    """Return what a METADATA file says.

    Args:
        metadata: Its bytes, or the first of them; the headers end at the first empty line.
        name: Whose it is, normalised.
        version: What counts where it names none.
    """
    head = re.split(rb"\r?\n\r?\n", metadata, maxsplit=1)[0]
    # A header that goes on in the next line begins that with white space.
    lines = re.sub(rb"\r?\n[ \t]+", b" ", head).splitlines()
    fields = [match for line in lines if (match := _HEADER.fullmatch(line)) is not None]

    def values(wanted: bytes) -> list[str]:
        return [match[2].decode(errors="replace").strip() for match in fields if match[1].lower() == wanted]

    found = values(b"version")
    return Described(name, found[0] if found else version, tuple(values(b"requires-dist")))


def needs(
    found: Described,
    variables: Mapping[str, str],
    extras: Collection[str] = (),
    *,
    among: Collection[str] | None = None,
) -> Iterator[Need]:
    """Yield what a distribution requires where markers have these values.

    Args:
        found: The distribution.
        variables: Of markers, as ``target.marker_environment`` returns them.
        extras: The extras of it that are wanted, normalised.
        among: The normalised names of what counts; by default everything does.
    """
    from packaging.markers import UndefinedComparison, UndefinedEnvironmentName  # noqa: PLC0415 - 20 ms that most calls do not pay
    from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415
    from packaging.utils import canonicalize_name  # noqa: PLC0415

    for text in found.requires:
        # Reading the rest takes a tenth of a millisecond, and a base has hundreds.
        if among is not None and _name(text) not in among:
            continue
        try:
            asked = Requirement(text)
            if asked.marker is not None and not any(
                asked.marker.evaluate({**variables, "extra": extra}) for extra in ("", *extras)
            ):
                continue
        except (InvalidRequirement, UndefinedComparison, UndefinedEnvironmentName, RecursionError):
            continue
        yield Need(
            owner=found,
            name=str(canonicalize_name(asked.name)),
            written=asked.name,
            specifier=str(asked.specifier),
            accepts=_accepting(asked),
            extras=tuple(sorted(canonicalize_name(extra) for extra in asked.extras)),
        )


def _name(text: str) -> str:
    """Return the normalised name that a requirement begins with; empty where it begins otherwise."""
    found = _NAME.match(text)
    return "" if found is None else re.sub(r"[-_.]+", "-", found[1]).lower()


def _accepting(asked: Requirement) -> Callable[[str], bool]:
    return functools.partial(asked.specifier.contains, prereleases=True)


def unmet(
    environment: Iterable[Described],
    base: Iterable[Described],
    base_versions: Mapping[str, str],
    variables: Mapping[str, str],
) -> tuple[str, ...]:
    """Return what distributions require and do not have, as ``pip check`` does.

    What is wrong between distributions of the base is not the environment's; what it brings to them is.

    Args:
        environment: What is installed in the environment.
        base: What is seen of the base.
        base_versions: Versions in the base by name, also of what says nothing of itself.
        variables: Of markers, as ``target.marker_environment`` returns them.
    """
    own = {found.name: found for found in environment}
    versions = {**base_versions, **{found.name: found.version for found in own.values()}}
    asked = [need for found in own.values() for need in needs(found, variables)]
    for found in base:
        if found.name not in own:
            asked += needs(found, variables, among=own.keys())
    complaints = (need.complaint(versions.get(need.name)) for need in asked)
    return tuple(sorted({complaint for complaint in complaints if complaint is not None}))
