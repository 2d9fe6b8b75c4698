"""``gc``: what the caller and ``vrfstore.toml`` want of a collection, and the collection."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vrfstore.errors import BudgetError, StoreError, UsageError
from vrfstore.gc import metrics
from vrfstore.gc.policy import Policy
from vrfstore.gc.sweep import Report, collect, preview
from vrfstore.runner.configuration import Collecting
from vrfstore.store.store import Store
from vrfstore.units import size_text

if TYPE_CHECKING:
    from vrfstore.gc.usage import Holder

__all__ = ["holders", "metrics_path", "over_budget", "policy", "run", "write_metrics"]

_DAY = 86400.0
_MAX_AGE = 30 * _DAY
"""Seconds that an environment stays unused when nobody says anything."""


def policy(configured: Collecting, **given: Any) -> Policy:
    """Return what is wanted: what is given, else what is configured, else 30 days and no size.

    Args:
        configured: What ``vrfstore.toml`` says.
        given: Fields of ``Policy``; None where nothing is given.

    Raises:
        UsageError: What is to be free in the end is of no use without what has to be free.
    """
    values: dict[str, Any] = {
        name: getattr(configured, name)
        for name in Policy.__dataclass_fields__
        if getattr(configured, name, None) is not None
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    values |= chosen
    values.setdefault("max_age", _MAX_AGE)
    # Whoever wants everything to go that is not in use means what is young too, unless a grace is asked for.
    if "grace" not in chosen:
        values["grace"] = min(values.get("grace", _DAY), values["max_age"])
    if values.get("target_free") is not None and values.get("min_free") is None:
        raise UsageError(
            "--target-free is of use with --min-free only",
            kind="options-conflict",
            hint="say how little may be free before environments go: --min-free",
        )
    return Policy(**values)


def run(
    store: Store,
    wanted: Policy,
    *,
    dry_run: bool = False,
    wait: bool = True,
    on_wait: Callable[[], None] | None = None,
    host: str | None = None,
) -> Report:
    """Remove what the policy lets go, or say what that would be.

    Args:
        store: The store.
        wanted: The policy.
        dry_run: Change nothing.
        wait: Wait while another collection is at work, for as long as ``wanted.max_seconds`` at most.
        on_wait: Called once, if there is one.
        host: The one host that collects; by default any, unless the store is on a network file system.

    Raises:
        BusyError: Another collection is at work.
        StoreError: The store is on a network file system, and nobody said that this host collects.
    """
    if dry_run:
        return preview(store, wanted)
    _check_host(store, host)
    return collect(store, wanted, timeout=wanted.max_seconds if wait else 0, on_wait=on_wait)


def _check_host(store: Store, host: str | None) -> None:
    from vrfstore.runner.doctor.facts import NETWORK  # noqa: PLC0415 - not before it is known that a gc is wanted
    from vrfstore.runner.doctor.look import mount_of, mount_table  # noqa: PLC0415

    here = socket.gethostname()
    if host is not None and host != here:
        raise StoreError(
            f"this is {here}, and only {host} is to collect this store",
            kind="gc-other-host",
            path=store.root,
            hint="run it there, or change gc.host in vrfstore.toml",
        )
    mount = mount_of(mount_table(), os.path.realpath(store.root))
    if host is None and mount is not None and mount.type in NETWORK:
        raise StoreError(
            f"the store is on a network file system ({mount.type}), where other hosts may use what looks unused here",
            kind="gc-network",
            path=store.root,
            hint=f'if only this host links and collects, say so in vrfstore.toml: [gc] host = "{here}"',
        )


def over_budget(report: Report) -> BudgetError | None:
    """Return the error of a collection that could not free enough, because what is left is in use or too young."""
    if not report.missing:
        return None
    return BudgetError(
        f"{size_text(report.missing)} more would have to go, and all that is left is in use or too young",
        hint="see what holds it: vrfstore du; raise the budget, shorten --grace, or end what is in use",
    )


def holders(store: Store, wanted: Policy, report: Report) -> tuple[Holder, ...]:
    """Return who holds how much of what a collection leaves of a store, the largest first."""
    from vrfstore.gc import keepers, usage  # noqa: PLC0415 - only where a budget cannot be kept

    view = keepers.look(store, wanted)
    # After a dry run it is still there.
    going = {f"environments/{name}" for name in report.environments}
    going |= {f"entries/{name}" for name in report.entries}
    graph = keepers.read(view, wanted, without=going if report.dry_run else ())
    return tuple(usage.holders(graph, usage.measure(store)))


def metrics_path(given: str | None, configured: Collecting, *, dry_run: bool) -> str | None:
    """Return the file that metrics go to, absolute; None for nowhere: a dry run has nothing to count.

    Raises:
        UsageError: Metrics cannot be written, or not there.
    """
    path = given or configured.prometheus
    if not path or dry_run:
        return None
    metrics.check(os.path.abspath(path))
    return os.path.abspath(path)


def write_metrics(path: str, store: Store, report: Report) -> None:
    """Write what a collection did for the text file collector of Prometheus' node exporter.

    Raises:
        OSError: The file cannot be written.
    """
    over = over_budget(report)
    figures = metrics.Figures(
        store=store.root,
        ended=time.time(),
        seconds=report.seconds,
        freed=report.freed,
        removed={
            "environments": len(report.environments),
            "entries": len(report.entries),
            "leftovers": report.leftovers,
            "records": report.records,
        },
        kept={"environments": len(report.kept), "entries": report.entries_kept},
        problems=len(report.problems),
        missing=report.missing,
        exit_code=0 if over is None else over.exit_code,
        used=report.used,
    )
    metrics.write(path, figures)
