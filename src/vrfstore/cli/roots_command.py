"""``vrfstore roots``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import click

from vrfstore.cli import render
from vrfstore.cli.options import json_option, store_option
from vrfstore.errors import StoreDamagedError
from vrfstore.gc import roots
from vrfstore.gc.roots import Root
from vrfstore.store import externals, leases
from vrfstore.store.leases import LeaseRecord
from vrfstore.store.store import Store, check_whole

__all__ = ["command"]

_Found = TypeVar("_Found")

_HEADINGS = ("KIND", "NAME", "KEEPS", "UNTIL")
_REMOVED = "it is removed"
_STATES = {
    "there": "it is gone",
    "absent": "gc sees that it is gone",
    "unknown": "env forget (it cannot be seen from here)",
}


@click.group(
    "roots",
    epilog="""\b
Examples:
  vrfstore roots add nightly "$(dirname "$(dirname "$(vrfstore link requirements.vrf)")")"
  vrfstore roots add release 5f0c2b            a lock: it can be linked again without network
  vrfstore link requirements.vrf --root report
  vrfstore roots list
  vrfstore roots remove nightly
""",
)
def command() -> None:
    """Pin environments, entries and locks; show all that keeps something from gc."""


@command.command("add")
@click.argument("name")
@click.argument("target", metavar="ENVIRONMENT|ENTRY|LOCK")
@store_option
@click.pass_obj
def _add(default_store: str | None, name: str, target: str, store: str | None) -> None:
    """Pin an environment, an entry or a lock as NAME, in place of what NAME pinned before.

    An environment or entry is a path, a name as `vrfstore list` shows it, or the beginning of one; a lock of the store
    its path, its digest, or the beginning of one. With a lock stay the entries that it names, so that a copy of it,
    called pylock.toml, can be linked again without network.
    """
    root = roots.add(Store.open(store or default_store), name, target)
    render.plain(f"{root.name} pins {root.environment or root.entry or root.lock}")


@command.command("list")
@store_option
@json_option
@click.pass_obj
def _list(default_store: str | None, store: str | None, *, as_json: bool) -> None:
    """Show pins, the environments of projects, environments elsewhere, and leases that have not ended."""
    opened = Store.open(store or default_store, to_look=True)
    check_whole(opened.layout)
    warnings: list[str] = []
    # In the order in which gc looks at them: what a lease protects may be pinned before it ends.
    alive = [lease for lease in leases.read(opened.layout) if lease.alive]
    pinned = list(_readable(roots.read(opened), warnings))
    elsewhere = list(_readable(externals.registrations(opened.layout), warnings))
    states = {known.token: externals.state_of(known) for known in elsewhere}
    for warning in warnings:
        render.warn(warning)
    if as_json:
        listed: dict[str, object] = {
            "roots": [_root_json(root) for root in pinned],
            "external": [
                {"token": known.token, "path": known.path, "state": states[known.token]}
                for known in elsewhere
            ],
            "leases": [_lease_json(lease) for lease in alive],
        }
        render.print_json({"status": "done", **listed, "warnings": warnings})
        return
    rows = [
        *((root.kind, root.name, _kept(root), _REMOVED) for root in sorted(pinned, key=_order)),
        *(("external", known.token, known.path, _STATES[states[known.token]]) for known in elsewhere),
        *(("lease", lease.id or lease.name, _leased(lease), _end(lease)) for lease in alive),
    ]
    if rows:
        render.plain(render.table(_HEADINGS, (tuple(map(render.visible, row)) for row in rows)))


def _readable(found: Iterable[_Found | StoreDamagedError], warnings: list[str]) -> Iterator[_Found]:
    for each in found:
        if isinstance(each, StoreDamagedError):
            warnings.append(str(each))
        else:
            yield each


def _order(root: Root) -> tuple[str, str]:
    return root.kind, root.name


def _kept(root: Root) -> str:
    if not root.project:
        return root.names[0]
    several = render.count(len(root.names), "environment", "environments")
    return f"{several}, the newest {root.environment}"


def _leased(lease: LeaseRecord) -> str:
    if lease.digests is None:
        return "everything, because it cannot be read"
    parts = [f"environments/{lease.environment}"] if lease.environment else []
    parts += [render.count(len(lease.digests), "entry", "entries")] if lease.digests else []
    return ", ".join(parts) or "what is being made"


def _end(lease: LeaseRecord) -> str:
    if lease.kind == "process":
        return f"process {lease.process} ends"
    if lease.kind == "until" and lease.expires is not None:
        return render.moment(lease.expires)
    return "its owner ends" if lease.kind == "held" else _REMOVED


def _root_json(root: Root) -> Mapping[str, object]:
    return {
        "name": root.name,
        "kind": root.kind,
        "names": list(root.names),
        "environment": root.environment,
        "entry": root.entry,
        "lock": root.lock,
    }


def _lease_json(lease: LeaseRecord) -> Mapping[str, object]:
    return {
        "id": lease.id,
        "name": lease.name,
        "kind": lease.kind,
        "environment": lease.environment,
        "digests": None if lease.digests is None else sorted(lease.digests),
        "lock": lease.lock,
        "process": lease.process,
        "expires": None if lease.expires is None else render.moment(lease.expires),
    }


@command.command("remove")
@click.argument("name")
@store_option
@click.pass_obj
def _remove(default_store: str | None, name: str, store: str | None) -> None:
    """Remove the pin or the project NAME; what only it kept goes with the next gc."""
    roots.remove(Store.open(store or default_store), name)
