"""Defaults that an operator or a user writes down once: ``vrfstore.toml``.

It is looked for where ``$VRFSTORE_CONFIG`` says; otherwise in ``/etc/vrfstore`` and in the user's own configuration
directory, whose keys win. Never beside a project: what a document brings along has no say here. Documented in
docs/configuration.md.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vrfstore import fs
from vrfstore.errors import UsageError
from vrfstore.requirements.budget import Caps
from vrfstore.requirements.policy import Policy
from vrfstore.units import parse_duration, parse_size

if TYPE_CHECKING:  # see requirements.policy
    from vrfstore.requirements.solution import ResolverName

__all__ = ["Configuration", "applied", "places", "read"]

_SITE = "/etc/vrfstore/vrfstore.toml"
_LARGEST = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """What ``vrfstore.toml`` says; None, or nothing, where it says nothing.

    Attributes:
        protect: Names of packages of the base that no other version may come before.
        lock_name: The NAME of the ``pylock.NAME.toml`` that is meant for this service.
        resolver: ``pip`` or ``uv``.
        index_url: The one index that is asked.
        stale_after: Seconds after which what is not pinned is resolved again.
        timeout: Seconds that one call may take.
        max_packages: How many packages an environment may have beside the base's.
        max_bytes: Bytes that one call may fetch.
        max_unpacked: Bytes that what one call fetches may unpack to.
    """

    protect: tuple[str, ...] = ()
    lock_name: str = ""
    resolver: ResolverName | None = None
    index_url: str = ""
    stale_after: float | None = None
    timeout: float | None = None
    max_packages: int | None = None
    max_bytes: int | None = None
    max_unpacked: int | None = None


def places(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the files that have a say, there or not, absolute; later ones win."""
    chosen = variables.get("VRFSTORE_CONFIG")
    if chosen:
        return (os.path.abspath(chosen),)
    home = variables.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return (_SITE, os.path.abspath(f"{home}/vrfstore/vrfstore.toml"))


def read(variables: Mapping[str, str]) -> Configuration:
    """Return what is configured.

    Raises:
        UsageError: A file that was chosen is not there, one cannot be read, or says what nobody understands.
    """
    found: dict[str, Any] = {}
    for path in places(variables):
        try:
            data = fs.read_file(path, _LARGEST)
        except FileNotFoundError:
            if variables.get("VRFSTORE_CONFIG"):
                raise _refused(path, "there is no such file", "check $VRFSTORE_CONFIG") from None
            continue
        except OSError as error:
            raise _refused(path, f"the file cannot be read: {error.strerror}") from error
        found |= _parsed(data, path)
    return Configuration(**found)


def _parsed(data: bytes, path: str) -> dict[str, Any]:
    try:
        document = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise _refused(path, f"not TOML: {error}") from error
    table = document.pop("resolve", {})
    if document:
        raise _unknown(path, sorted(document), "tables are: resolve")
    if not isinstance(table, dict):
        raise _refused(path, "resolve is no table")
    unknown = sorted(table.keys() - _KEYS.keys())
    if unknown:
        raise _unknown(path, [f"resolve.{name}" for name in unknown], f"keys are: {', '.join(sorted(_KEYS))}")
    found = {}
    for name, value in table.items():
        try:
            found[name.replace("-", "_")] = _KEYS[name](value)
        except (TypeError, ValueError) as error:
            raise _refused(path, f"resolve.{name}: {error}") from error
    return found


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is needed")
    return value


def _resolver(value: object) -> str:
    if value not in ("pip", "uv"):
        raise ValueError("it may be pip or uv")
    return str(value)


def _names(value: object) -> tuple[str, ...]:
    from packaging.utils import InvalidName, canonicalize_name  # noqa: PLC0415 - 20 ms that a hit does not pay

    if not isinstance(value, list):
        raise TypeError("a list of names is needed")
    try:
        return tuple(sorted({str(canonicalize_name(_text(name), validate=True)) for name in value}))
    except InvalidName as error:
        raise ValueError(str(error)) from error


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a whole number is needed")
    return value


def _size(value: object) -> int:
    return _number(value) if isinstance(value, int) else parse_size(_text(value))


def _duration(value: object) -> float:
    """Return seconds, which is what a bare number counts, be it written as a number or as a text."""
    return float(_number(value)) if isinstance(value, int) else parse_duration(_text(value), "s")


_KEYS: Mapping[str, Callable[[object], object]] = {
    "protect": _names,
    "lock-name": _text,
    "resolver": _resolver,
    "index-url": _text,
    "stale-after": _duration,
    "timeout": _duration,
    "max-packages": _number,
    "max-bytes": _size,
    "max-unpacked": _size,
}


def _refused(path: str, message: str, hint: str | None = None) -> UsageError:
    return UsageError(message, kind="configuration", path=path, hint=hint)


def _unknown(path: str, names: list[str], hint: str) -> UsageError:
    return _refused(path, f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not known", hint)


def applied(policy: Policy, configured: Configuration) -> Policy:
    """Return a policy with what is configured in the place of what it does not say."""
    caps = policy.caps
    return replace(
        policy,
        resolver=policy.resolver or configured.resolver,
        index_url=policy.index_url or configured.index_url,
        protect=tuple(sorted({*policy.protect, *configured.protect})),
        stale_after=configured.stale_after if policy.stale_after is None else policy.stale_after,
        caps=Caps(
            seconds=configured.timeout if caps.seconds is None else caps.seconds,
            packages=configured.max_packages if caps.packages is None else caps.packages,
            received=configured.max_bytes if caps.received is None else caps.received,
            unpacked=configured.max_unpacked if caps.unpacked is None else caps.unpacked,
        ),
    )
