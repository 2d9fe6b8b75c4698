"""Whether wheels fit an interpreter: their tags (PEP 425) and their Requires-Python.

Decided from the description of the interpreter alone, and so for one that is not on this machine too. ``packaging``
decides; what most sets of wheels are made of, ``py3-none-any`` and plain comparisons of releases, is decided here,
because loading it takes several times as long as linking.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence

from vrfstore.errors import WheelError
from vrfstore.model import EntryPlan, Interpreter
from vrfstore.target import abi_tags, platform_tags

__all__ = ["check_compatible", "platform_tags", "supported_tags"]

_ANYWHERE = "py3-none-any"

_CLAUSE = re.compile(r"\s*(~=|[=!<>]=|[<>])\s*([0-9]{1,9}(?:\.[0-9]{1,9})*)(\.\*)?\s*")
"""One clause of a version specifier that compares a release, with nothing before or after it."""

_PRE_RELEASE = re.compile(r"(a|b|rc)[0-9]+|\+")
_RELEASE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})*")

_SHOWN = 200
"""Characters of a Requires-Python in a message; it may be as long as whoever wrote it liked."""


def check_compatible(plans: Sequence[EntryPlan], interpreter: Interpreter) -> None:
    """Make sure that every wheel can be used by an interpreter.

    Args:
        plans: Entries of wheels, in any order; composites are not looked at.
        interpreter: Whom for; need not be on this machine.

    Raises:
        WheelError: Some cannot, all of which are named: for none of their tags (``wheel-incompatible``), else
            because of Requires-Python (``requires-python``).
    """
    plans = [plan for plan in plans if not plan.members]
    bound = [plan for plan in plans if _ANYWHERE not in plan.tags]
    supported = supported_tags(interpreter) if bound else frozenset()
    foreign = [plan for plan in bound if supported.isdisjoint(plan.tags)]
    barred = [
        plan
        for plan in plans
        if plan.requires_python and not _allows(plan.requires_python, interpreter.version)
    ]
    if not foreign and not barred:
        return
    reasons = [f"{_name(plan)} is for {_compressed(plan.tags)}" for plan in _ordered(foreign)]
    reasons += [
        f"{_name(plan)} requires Python {_clipped(plan.requires_python)}" for plan in _ordered(barred)
    ]
    raise WheelError(
        f"not every wheel fits {_described(interpreter)}: {'; '.join(reasons)}",
        kind="wheel-incompatible" if foreign else "requires-python",
        hint="link for an interpreter that they are made for, or resolve again for this one",
    )


def _ordered(plans: Sequence[EntryPlan]) -> list[EntryPlan]:
    return sorted(plans, key=_name)


def _name(plan: EntryPlan) -> str:
    return f"{plan.reference.name} {plan.reference.version}"


def _described(interpreter: Interpreter) -> str:
    libc = f" with {interpreter.libc}" if interpreter.libc else ""
    python = f"{interpreter.version}{' free-threaded' if 't' in interpreter.abi_flags else ''}"
    return f"Python {python} on {interpreter.platform}{libc}"


def _clipped(requires: str | None) -> str:
    shown = "".join(filter(str.isprintable, requires or ""))
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


def _compressed(tags: Sequence[str]) -> str:
    """Return tags as the name of a wheel has them (PEP 425, compressed), else one after another."""
    columns = [sorted(set(column)) for column in zip(*(tag.split("-") for tag in tags), strict=False)]
    if {"-".join(row) for row in itertools.product(*columns)} == set(tags):
        return "-".join(".".join(column) for column in columns)
    return ", ".join(sorted(tags)) or "nothing"


def supported_tags(interpreter: Interpreter) -> frozenset[str]:
    """Return the tags of all wheels that an interpreter can use.

    Where its C library is unknown and its platform is that of this machine, it is taken to have this machine's.
    """
    return _supported(
        interpreter.short_version, tuple(abi_tags(interpreter)), interpreter.platform, interpreter.libc
    )


@functools.lru_cache(maxsize=16)
def _supported(version: str, abis: tuple[str, ...], platform: str, libc: str) -> frozenset[str]:
    from packaging import tags  # noqa: PLC0415 - see above

    major, minor = (int(part) for part in version.split("."))
    platforms = _platforms_here(platform) if not libc else ()
    platforms = platforms or platform_tags(platform, libc)
    native = tags.cpython_tags((major, minor), abis=abis, platforms=platforms)
    pure = tags.compatible_tags((major, minor), interpreter=f"cp{major}{minor}", platforms=platforms)
    return frozenset(map(str, itertools.chain(native, pure)))


def _platforms_here(platform: str) -> tuple[str, ...]:
    """Return what this machine says of itself if it is such a platform, else nothing."""
    import sysconfig  # noqa: PLC0415 - hardly ever needed

    from packaging import tags  # noqa: PLC0415

    return tuple(tags.platform_tags()) if sysconfig.get_platform() == platform else ()


@functools.lru_cache(maxsize=1024)
def _allows(requires: str, version: str) -> bool:
    """Whether a Requires-Python allows a version of Python; that of a pre-release counts as of its release.

    One that cannot be read forbids nothing. Both as with pip.
    """
    version = _PRE_RELEASE.sub("", version)
    plain = _allows_release(requires, version)
    if plain is not None:
        return plain
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # noqa: PLC0415 - see above

    try:
        return SpecifierSet(requires).contains(version, prereleases=True)
    except InvalidSpecifier:
        return True


def _allows_release(requires: str, version: str) -> bool | None:
    """Answer like a specifier set where all that is compared are releases (PEP 440), else return None."""
    if not _RELEASE.fullmatch(version):
        return None
    found = _numbers(version)
    allowed = True
    for clause in filter(str.strip, requires.split(",")):
        parts = _CLAUSE.fullmatch(clause)
        if parts is None:
            return None
        operator, asked, wildcard = parts[1], _numbers(parts[2]), bool(parts[3])
        if (wildcard and operator not in {"==", "!="}) or (operator == "~=" and len(asked) == 1):
            return None
        allowed = allowed and _satisfies(found, operator, asked, wildcard=wildcard)
    return allowed


def _numbers(release: str) -> list[int]:
    return [int(part) for part in release.split(".")]


def _satisfies(found: list[int], operator: str, asked: list[int], *, wildcard: bool) -> bool:
    length = max(len(found), len(asked))
    have, want = (numbers + [0] * (length - len(numbers)) for numbers in (found, asked))
    if wildcard:
        want = asked
        have = have[: len(asked)]
    match operator:
        case "==":
            return have == want
        case "!=":
            return have != want
        case ">=":
            return have >= want
        case "<=":
            return have <= want
        case ">":
            return have > want
        case "<":
            return have < want
        case _:
            return have >= want and have[: len(asked) - 1] == asked[:-1]
