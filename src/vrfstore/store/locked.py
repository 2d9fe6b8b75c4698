"""Which wheels a lock in the store names: all that gc has to know of it.

What ``requirements.lock`` writes is a ``pylock.toml`` (PEP 751) with one wheel for each package, or, where that was
built here, a source distribution and the wheel in a table of our own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vrfstore import fs
from vrfstore.errors import StoreDamagedError, UsageError
from vrfstore.model import Digest, parse_digest
from vrfstore.store.layout import Layout

__all__ = ["locked_digests"]


def locked_digests(layout: Layout, lock: str) -> frozenset[Digest]:
    """Return the digests of the wheels that a lock of the store names; none where there is no such lock.

    Args:
        layout: The store's.
        lock: The lock's digest.

    Raises:
        StoreDamagedError: It cannot be read; it may name any wheel.
    """
    import tomllib  # noqa: PLC0415 - only who has pinned a lock pays

    path = layout.of("locks", f"{lock}.toml")
    try:
        return frozenset(map(parse_digest, _wheels(tomllib.loads(fs.read_file(path).decode()))))
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        raise StoreDamagedError(
            f"the lock cannot be read: {error}",
            kind="lock-unreadable",
            path=path,
            hint="remove it, and link again what it was made for",
        ) from error


def _wheels(value: Mapping[str, Any]) -> Iterator[str]:
    for package in value["packages"]:
        yield from (wheel["hashes"]["sha256"] for wheel in package.get("wheels", ()))
        built = package.get("tool", {}).get("vrfstore", {}).get("built")
        if built is not None:
            yield built["sha256"]
