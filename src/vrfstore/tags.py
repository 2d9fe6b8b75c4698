"""What an interpreter can use: the tags of wheels (PEP 425), and which Requires-Python allow it.

Computed from the description of the interpreter alone, and so for one that is not on this machine too. ``packaging``
decides; plain comparisons of releases are decided here, because loading it takes several times as long as linking.
"""

from __future__ import annotations

import functools
import itertools
import re

from vrfstore.model import Interpreter
from vrfstore.target import abi_tags, platform_tags

__all__ = ["allows_python", "ordered_tags", "supported_tags"]

_CLAUSE = re.compile(r"\s*(~=|[=!<>]=|[<>])\s*([0-9]{1,9}(?:\.[0-9]{1,9})*)(\.\*)?\s*")
"""One clause of a version specifier that compares a release, with nothing before or after it."""

_PRE_RELEASE = re.compile(r"(a|b|rc)[0-9]+|\+")
_RELEASE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})*")


def supported_tags(interpreter: Interpreter) -> frozenset[str]:
    """Return the tags of all wheels that an interpreter can use; see ``ordered_tags``."""
    return _supported(*_deciding(interpreter))


def ordered_tags(interpreter: Interpreter) -> tuple[str, ...]:
    """Return the tags of all wheels that an interpreter can use, best first.

    Where its C library is unknown and its platform is that of this machine, it is taken to have this machine's.
    """
    return _ordered(*_deciding(interpreter))


def _deciding(interpreter: Interpreter) -> tuple[str, tuple[str, ...], str, str]:
    return interpreter.short_version, tuple(abi_tags(interpreter)), interpreter.platform, interpreter.libc


@functools.lru_cache(maxsize=16)
def _supported(version: str, abis: tuple[str, ...], platform: str, libc: str) -> frozenset[str]:
    return frozenset(_ordered(version, abis, platform, libc))


@functools.lru_cache(maxsize=16)
def _ordered(version: str, abis: tuple[str, ...], platform: str, libc: str) -> tuple[str, ...]:
    from packaging import tags  # noqa: PLC0415 - see above

    major, minor = (int(part) for part in version.split("."))
    platforms = _platforms_here(platform) if not libc else ()
    platforms = platforms or platform_tags(platform, libc)
    native = tags.cpython_tags((major, minor), abis=abis, platforms=platforms)
    pure = tags.compatible_tags((major, minor), interpreter=f"cp{major}{minor}", platforms=platforms)
    return tuple(map(str, itertools.chain(native, pure)))


def _platforms_here(platform: str) -> tuple[str, ...]:
    """Return what this machine says of itself if it is such a platform, else nothing."""
    import sysconfig  # noqa: PLC0415 - hardly ever needed

    from packaging import tags  # noqa: PLC0415

    return tuple(tags.platform_tags()) if sysconfig.get_platform() == platform else ()


@functools.lru_cache(maxsize=1024)
def allows_python(requires: str, version: str) -> bool:
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
