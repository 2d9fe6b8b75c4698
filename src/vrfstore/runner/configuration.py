"""Defaults that an operator or a user writes down once: ``vrfstore.toml``.

It is looked for where ``$VRFSTORE_CONFIG`` says; otherwise in ``/etc/vrfstore`` and in the user's own configuration
directory, whose keys win. Never beside a project: what a document brings along has no say here. Documented in
docs/configuration.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from vrfstore import fs
from vrfstore.errors import UsageError
from vrfstore.requirements.budget import Caps
from vrfstore.requirements.policy import Policy
from vrfstore.units import parse_duration, parse_room, parse_size
from vrfstore.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:  # see requirements.policy
    from typing import Any

    from vrfstore.gc.policy import Room
    from vrfstore.requirements.solution import ResolverName

__all__ = ["Collecting", "Configuration", "applied", "places", "read"]

_SITE = "/etc/vrfstore/vrfstore.toml"
_LARGEST = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Collecting:
    """What ``vrfstore.toml`` says of gc; None where it says nothing. See ``gc.policy.Policy``.

    Attributes:
        max_age: Seconds.
        grace: Seconds.
        max_size: Bytes.
        min_free: Bytes, or a part of the file system.
        target_free: Bytes, or a part of the file system.
        keep_last: How many environments of each project root stay.
        max_freed: Bytes.
        max_seconds: Seconds.
        host: The name of the one host that collects, where several have the store on a file system they share.
        prometheus: The file that metrics go to.
    """

    max_age: float | None = None
    grace: float | None = None
    max_size: int | None = None
    min_free: Room | None = None
    target_free: Room | None = None
    keep_last: int | None = None
    max_freed: int | None = None
    max_seconds: float | None = None
    host: str | None = None
    prometheus: str | None = None


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
        install: Whether links may install what is not there, if nobody says so.
        shared_store: The absolute path of the store that is shared, if nobody says so.
        collecting: What is said of gc.
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
    install: bool | None = None
    shared_store: str | None = None
    collecting: Collecting = Collecting()


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
    resolving: dict[str, Any] = {}
    collecting: dict[str, Any] = {}
    for path in places(variables):
        try:
            data = fs.read_file(path, _LARGEST)
        except FileNotFoundError:
            if variables.get("VRFSTORE_CONFIG"):
                raise _refused(path, "there is no such file", "check $VRFSTORE_CONFIG") from None
            continue
        except OSError as error:
            raise _refused(path, f"the file cannot be read: {error.strerror}") from error
        tables = _parsed(data, path)
        resolving |= tables["resolve"] | tables["link"]
        collecting |= tables["gc"]
    return Configuration(**resolving, collecting=Collecting(**collecting))


def _parsed(data: bytes, path: str) -> dict[str, dict[str, Any]]:
    """Return what each table says, by the name of the attribute."""
    try:
        import tomllib  # noqa: PLC0415 - for those who have configured something

        document = tomllib.loads(data.decode())
    # Of a number with too many digits int() says a plain ValueError, whatever was parsing.
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"not TOML: {error}") from error
    unknown = sorted(document.keys() - _TABLES.keys())
    if unknown:
        raise _unknown(path, unknown, f"tables are: {', '.join(sorted(_TABLES))}")
    return {name: _table(name, document.get(name, {}), path) for name in _TABLES}


def _table(name: str, table: object, path: str) -> dict[str, Any]:
    keys = _TABLES[name]
    if not isinstance(table, dict):
        raise _refused(path, f"{name} is no table")
    unknown = sorted(table.keys() - keys.keys())
    if unknown:
        raise _unknown(path, [f"{name}.{key}" for key in unknown], f"keys are: {', '.join(sorted(keys))}")
    found = {}
    for key, value in table.items():
        try:
            found[key.replace("-", "_")] = keys[key](value)
        except (TypeError, ValueError, OverflowError) as error:
            raise _refused(path, f"{name}.{key}: {error}") from error
    return found


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is needed")
    return value


def _leave(value: object) -> bool:
    if value not in ("allow", "deny"):
        raise ValueError("it may be allow or deny")
    return value == "allow"


def _absolute(value: object) -> str:
    # Relative to what, nobody could tell.
    if not os.path.isabs(_text(value)):
        raise ValueError("an absolute path is needed")
    return os.path.abspath(_text(value))


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


def _age(value: object) -> float:
    """Return seconds; a bare number counts days."""
    return 86400.0 * _number(value) if isinstance(value, int) else parse_duration(_text(value))


def _room(value: object) -> Room:
    from vrfstore.gc.policy import Room  # noqa: PLC0415 - for gc only

    return Room(_number(value)) if isinstance(value, int) else Room(*parse_room(_text(value)))


_RESOLVE: Mapping[str, Callable[[object], object]] = {
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
_GC: Mapping[str, Callable[[object], object]] = {
    "max-age": _age,
    "grace": _age,
    "max-size": _size,
    "min-free": _room,
    "target-free": _room,
    "keep-last": _number,
    "max-freed": _size,
    "max-seconds": _duration,
    "host": _text,
    "prometheus": _text,
}
_LINK: Mapping[str, Callable[[object], object]] = {"install": _leave, "shared-store": _absolute}
_TABLES = {"resolve": _RESOLVE, "link": _LINK, "gc": _GC}


def _refused(path: str, message: str, hint: str | None = None) -> UsageError:
    return UsageError(message, kind="configuration", path=path, hint=hint)


def _unknown(path: str, names: list[str], hint: str) -> UsageError:
    return _refused(path, f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not known", hint)


def applied(policy: Policy, configured: Configuration) -> Policy:
    """Return a policy with what is configured in the place of what it does not say."""
    caps = policy.caps
    install = configured.install if policy.install is None else policy.install
    return replace(
        policy,
        install=install,
        offline=policy.offline or install is False,
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
