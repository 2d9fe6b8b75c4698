"""Memos: what was found out once, so that it need not be found out again. Losing one costs only time.

``inputs/<digest>.json`` leads from a file's bytes, the options and the environment variables to an environment,
as long as the stats that are written beside it still hold. ``requests/<digest>.json`` leads from a canonical
request to its lock, or is a recipe: it leads from a file's bytes, and what else decides on the wheels, to these. A
memo that cannot be read is one that is not there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from vrfstore import codec, fs
from vrfstore.model import Digest
from vrfstore.store.layout import MEMO_SCHEMA, Layout
from vrfstore.store.leases import Lease
from vrfstore.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "Recipe",
    "RequestMemo",
    "Resolved",
    "read_recipe",
    "read_request",
    "replace",
    "write_input",
    "write_recipe",
    "write_request",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestMemo:
    """A memo from a request to a lock. ``resolved_at`` is seconds since the epoch."""

    lock: str
    resolved_at: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """What is known of what a request resolves to, beside the wheels.

    Attributes:
        lock: The digest of the lock.
        warnings: What whoever asks should know, every time.
        resolved_at: When that was found out, seconds since the epoch; 0 where nothing had to be.
        until: When it is stale, in the same way; 0 for never.
        request: The digest of the request whose memo says so: what others have resolved again since has to count.
            Empty where there is none.
    """

    lock: str
    warnings: tuple[str, ...] = ()
    resolved_at: int = 0
    until: int = 0
    request: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What an input comes to, however it is to be linked.

    Attributes:
        resolved: What is known of that.
        wheels: (digest, normalised name, version) of each wheel of the lock.
        stats: For each path that had a say its ``fs.stat_token``.
    """

    resolved: Resolved
    wheels: tuple[tuple[Digest, str, str], ...]
    stats: Mapping[str, str]


def read_recipe(layout: Layout, digest: str) -> Recipe | None:
    """Return the recipe of an input, if there is one that can be read; whether it still counts is for the caller."""
    value = _read(layout.of("requests", f"{digest}.json"))
    with contextlib.suppress(KeyError, TypeError, ValueError):
        wheels = tuple((Digest(wheel), name, version) for wheel, name, version in value["wheels"])
        stats, warnings = dict(value["stats"]), tuple(value["warnings"])
        lock, request = value["lock"], value["request"]
        resolved_at, until = value["resolved_at"], value["until"]
        words = (
            lock,
            request,
            *stats,
            *stats.values(),
            *warnings,
            *(word for wheel in wheels for word in wheel),
        )
        if all(map(_is_word, words)) and isinstance(resolved_at, int) and isinstance(until, int):
            resolved = Resolved(
                lock=lock, warnings=warnings, resolved_at=resolved_at, until=until, request=request
            )
            return Recipe(resolved=resolved, wheels=wheels, stats=stats)
    return None


def write_recipe(layout: Layout, lease: Lease, digest: str, recipe: Recipe) -> None:
    """Put the recipe of an input in place of any older one."""
    resolved = recipe.resolved
    value = {
        "schema": MEMO_SCHEMA,
        "lock": resolved.lock,
        "wheels": [list(wheel) for wheel in recipe.wheels],
        "stats": dict(recipe.stats),
        "warnings": list(resolved.warnings),
        "resolved_at": resolved.resolved_at,
        "until": resolved.until,
        "request": resolved.request,
    }
    replace(layout, lease, layout.of("requests", f"{digest}.json"), codec.dumps(value))


def read_request(layout: Layout, digest: str) -> RequestMemo | None:
    """Return the memo of a request, if there is one that can be read."""
    value = _read(layout.of("requests", f"{digest}.json"))
    lock, resolved_at = value.get("lock"), value.get("resolved_at")
    if isinstance(lock, str) and _is_word(lock) and isinstance(resolved_at, int):
        return RequestMemo(lock=lock, resolved_at=resolved_at)
    return None


def write_input(  # noqa: PLR0913 - all but three by keyword
    layout: Layout,
    lease: Lease,
    digest: str,
    *,
    environment: str,
    lock: str,
    own: dict[str, str],
    stats: dict[str, str],
    until: int = 0,
    size: int = 0,
    resolved_at: int = 0,
) -> None:
    """Put the memo of an input in place of any older one; ``runner.hit`` reads it.

    Args:
        layout: The store's.
        lease: Names the file on its way.
        digest: The input digest.
        environment: The environment's directory name.
        lock: The digest of its lock.
        own: For each path below the environment that tells of changes by hand, its ``fs.stat_token``.
        stats: For each path that had a say (interpreter, site directories, configuration) its ``fs.stat_token``.
        until: When what it resolved to is stale, seconds since the epoch; 0 for never.
        size: Bytes of the entries that it links to; to be told, like the next, and not needed for a hit.
        resolved_at: When that was found out, seconds since the epoch; 0 where nothing had to be.
    """
    value = {
        "schema": MEMO_SCHEMA,
        "environment": environment,
        "lock": lock,
        "own": own,
        "stats": stats,
        "until": until,
        "size": size,
        "resolved_at": resolved_at,
    }
    replace(layout, lease, layout.of("inputs", f"{digest}.json"), codec.dumps(value))


def write_request(layout: Layout, lease: Lease, digest: str, memo: RequestMemo) -> None:
    """Put the memo of a request in place of any older one."""
    value = {"schema": MEMO_SCHEMA, "lock": memo.lock, "resolved_at": memo.resolved_at}
    replace(layout, lease, layout.of("requests", f"{digest}.json"), codec.dumps(value))


def replace(layout: Layout, lease: Lease, path: str, data: bytes) -> None:
    """Put a file in place of any older one, in one step; what a kill leaves in tmp/ carries the lease's id."""
    temporary = layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
    fs.write_file(temporary, data)
    fs.rename(temporary, path)


def _read(path: str) -> Mapping[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        value = codec.loads(fs.read_file(path))
        if isinstance(value, dict) and value.get("schema") == MEMO_SCHEMA:
            return value
    return {}


def _is_word(value: object) -> bool:
    """Whether something that was read is a text that may be part of a path."""
    with contextlib.suppress(UnicodeEncodeError):
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    return False
