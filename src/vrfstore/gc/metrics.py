"""What the last collection did, as metrics in a file, for the text file collector of Prometheus' node exporter.

Every run writes the whole file anew, by a rename, so that a reader never sees half of one. All metrics are gauges with
the label ``store``; times and sizes are in seconds and bytes.

``prometheus-client`` writes the format. It comes with the extra ``vrfstore[prometheus]`` and is only loaded here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from vrfstore.errors import UsageError
from vrfstore.values import dataclass

__all__ = ["Figures", "check", "write"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What there is to say of a collection.

    Attributes:
        store: The store's path.
        ended: When the collection ended, seconds since the epoch.
        seconds: How long it took.
        freed: Bytes that came back.
        removed: How many things went, by kind: ``environments``, ``entries``, and so on.
        kept: How many things stay, by kind.
        problems: How many things could not be read or removed.
        missing: Bytes beyond the budget that are in use.
        exit_code: How the command ends.
        used: Bytes that the store occupies; None where nobody asked.
    """

    store: str
    ended: float
    seconds: float
    freed: int
    removed: Mapping[str, int]
    kept: Mapping[str, int]
    problems: int
    missing: int
    exit_code: int
    used: int | None = None


def check(path: str) -> None:
    """Find out before a collection whether its metrics can be written after it.

    Args:
        path: The file.

    Raises:
        UsageError: ``prometheus-client`` is not installed, or there is no directory for the file.
    """
    try:
        import prometheus_client  # noqa: F401, PLC0415
    except ImportError as error:
        raise UsageError(
            "writing metrics takes the package prometheus-client, which is not installed",
            kind="prometheus-missing",
            hint="pip install 'vrfstore[prometheus]'",
        ) from error
    if os.path.isdir(path) or not os.path.isdir(os.path.dirname(path) or "."):
        raise UsageError(
            "metrics cannot be written there: it is a directory, or in none",
            kind="prometheus-file",
            path=path,
            hint="name a file in the directory that the node exporter was given with --collector.textfile.directory",
        )


def write(path: str, figures: Figures) -> None:
    """Write the metrics of a collection, in the place of those of the one before.

    Args:
        path: The file; its name has to end in ``.prom`` for the node exporter to read it.
        figures: What there is to say.

    Raises:
        UsageError: ``prometheus-client`` is not installed.
        OSError: The file cannot be written; the one before is as it was.
    """
    check(path)
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile  # noqa: PLC0415

    registry = CollectorRegistry()
    # A path may have bytes that are no UTF-8, which the format does not allow.
    label = os.fsencode(figures.store).decode(errors="replace")

    def gauge(name: str, says: str, value: float) -> None:
        Gauge(f"vrfstore_{name}", says, ["store"], registry=registry).labels(label).set(value)

    def gauges(name: str, says: str, values: Mapping[str, int]) -> None:
        metric = Gauge(f"vrfstore_{name}", says, ["store", "kind"], registry=registry)
        for kind, value in values.items():
            metric.labels(label, kind).set(value)

    gauge(
        "gc_last_run_timestamp_seconds", "When the last gc ended, in seconds since the epoch.", figures.ended
    )
    gauge("gc_duration_seconds", "How long the last gc took, in seconds.", figures.seconds)
    gauge("gc_freed_bytes", "What the last gc freed, in bytes.", figures.freed)
    gauges("gc_removed", "How many things the last gc removed, by kind.", figures.removed)
    gauges("gc_kept", "How many things were there after the last gc, by kind.", figures.kept)
    gauge("gc_problems", "How many things the last gc could not read or remove.", figures.problems)
    gauge("gc_over_budget_bytes", "What is beyond the budget and in use, in bytes.", figures.missing)
    gauge("gc_exit_code", "How the last gc ended: 0 done, 20 over budget.", figures.exit_code)
    if figures.used is not None:
        gauge("store_bytes", "What the store occupied after the last gc, in bytes.", figures.used)
    write_to_textfile(path, registry)
