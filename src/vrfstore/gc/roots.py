"""Pins: records in ``roots/`` that keep an environment or an entry until somebody removes them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vrfstore import codec, fs
from vrfstore.errors import StoreDamagedError, UsageError
from vrfstore.store import condemned
from vrfstore.store.memos import replace
from vrfstore.store.store import Store

__all__ = ["Root", "add", "read", "remove"]

_SCHEMA = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Root:
    """A pin. Exactly one of ``environment`` and ``entry`` is a directory name, the other is None."""

    name: str
    environment: str | None = None
    entry: str | None = None

    def kept(self, keep_last: int) -> tuple[str, ...]:
        """Return what it keeps."""
        return (f"environments/{self.environment}" if self.environment else f"entries/{self.entry}",)


def add(store: Store, name: str, target: str) -> Root:
    """Pin an environment or an entry under a name, in place of what that name pinned before.

    Args:
        store: The store.
        name: 1 to 100 letters, digits, dots, dashes and underscores.
        target: An environment or entry: its path, its directory name, or the beginning of one.

    Raises:
        UsageError: The name is no name, or the target is nothing or several things.
    """
    _check_name(name)
    part, directory = store.find(target)
    root = Root(
        name=name,
        environment=directory if part == "environments" else None,
        entry=directory if part == "entries" else None,
    )
    with store.session() as lease:
        value = {"schema": _SCHEMA, "environment": root.environment, "entry": root.entry}
        path = store.layout.of("roots", f"{name}.json")
        replace(store.layout, lease, path, codec.dumps(value))
        # Who uses writes first, and looks afterwards: see store.condemned.
        condemned.wait_until_clear(store.layout, {f"{part}/{directory}"})
        if not os.path.lexists(store.layout.of(part, directory)):
            fs.remove_file(path)
            raise UsageError(
                f"{target!r} has just been collected", kind="target-unknown", hint="link it again"
            )
    return root


def remove(store: Store, name: str) -> None:
    """Remove a pin.

    Raises:
        UsageError: There is none of this name.
    """
    _check_name(name)
    if not fs.remove_file(store.layout.of("roots", f"{name}.json")):
        raise UsageError(f"there is no root {name!r}", kind="root-missing", hint="see: vrfstore roots list")


def read(store: Store) -> Iterator[Root | StoreDamagedError]:
    """Yield every pin, and an error for each record that cannot be read."""
    for name in sorted(os.listdir(store.layout.of("roots"))):
        path = store.layout.of("roots", name)
        try:
            value = codec.loads(fs.read_file(path))
            if value["schema"] != _SCHEMA:
                yield StoreDamagedError("the root is of another version", kind="root-unknown", path=path)
                continue
            yield _root(name.removesuffix(".json"), value)
        except (OSError, ValueError, KeyError, TypeError) as error:
            # Removed since we looked; a link that leads nowhere is still there, and may lead somewhere tomorrow.
            if not isinstance(error, FileNotFoundError) or os.path.lexists(path):
                yield StoreDamagedError(
                    f"the root cannot be read: {error}", kind="root-unreadable", path=path
                )


def _root(name: str, value: Mapping[str, object]) -> Root:
    """Return the pin that a record holds.

    Raises:
        ValueError: It pins nothing, or two things.
    """
    targets = value["environment"], value["entry"]
    environment, entry = (target if isinstance(target, str) else None for target in targets)
    if (environment is None) is (entry is None):
        raise ValueError("it pins neither one environment nor one entry")
    return Root(name=name, environment=environment, entry=entry)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a name for a root",
            kind="root-name",
            hint="use up to 100 letters, digits, dots, dashes and underscores",
        )
