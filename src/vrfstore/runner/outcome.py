"""What became of a link, as whoever asked for one is told: one object of JSON for everything that can happen.

::

    LinkResult ────────────────▶ hit, linked, built ─┐
    VrfstoreError ─────────────▶ error ──────────────┼─▶ Outcome ─▶ docs/link.schema.json
    VrfstoreError, a base ─────▶ fallback ───────────┘

Every outcome has every field; what there is nothing to say of is null or empty. Pure, but for what is asked of the
process (who we are).
"""

from __future__ import annotations

from collections.abc import Mapping

from vrfstore.errors import VrfstoreError
from vrfstore.runner.result import LinkedPackage, LinkResult
from vrfstore.store.leases import Lease
from vrfstore.units import moment_text
from vrfstore.values import dataclass, field

__all__ = ["SCHEMA_VERSION", "Outcome", "failed", "fallen_back", "of_result"]

SCHEMA_VERSION = 1
"""Of every object that a command prints. Additions do not change it; anything else does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a link.

    Attributes:
        status: ``hit``, ``linked``, ``built``, ``fallback`` or ``error``.
        python: The absolute path of the python to use; None where there is none.
        environment: The absolute path of the environment; None where there is none.
        lock: The absolute path of its lock.
        variables: What to set for a command that is to run there, beside what the caller has.
        lease: What keeps the environment, if that was asked for.
        packages: What is in the environment.
        downloaded: Bytes that were fetched.
        unpacked: Bytes that new entries have.
        shared: Bytes of entries that were there already.
        timings: Seconds by step.
        resolved_at: When it was found out what the request resolves to, seconds since the epoch; None where nothing
            had to be resolved.
        warnings: What the caller should know.
        by_hand: (name, version) of what the user has installed into an environment of his own.
        error: Why there is no environment.
    """

    status: str
    python: str | None = None
    environment: str | None = None
    lock: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    lease: Lease | None = None
    packages: tuple[LinkedPackage, ...] = ()
    downloaded: int = 0
    unpacked: int = 0
    shared: int = 0
    timings: Mapping[str, float] = field(default_factory=dict)
    resolved_at: float | None = None
    warnings: tuple[str, ...] = ()
    by_hand: tuple[tuple[str, str], ...] = ()
    error: VrfstoreError | None = None

    def to_json(self) -> dict[str, object]:
        """Return it as ``docs/link.schema.json`` says."""
        return {
            "schema_version": SCHEMA_VERSION,
            "status": self.status,
            "python": self.python,
            "environment": self.environment,
            "lock": self.lock,
            "env": dict(self.variables),
            "lease": None if self.lease is None else _lease(self.lease),
            "packages": [
                {
                    "name": package.name,
                    "version": package.version,
                    "digest": package.digest,
                    "reused": package.reused,
                    "store": "shared" if package.shared else "own",
                }
                for package in self.packages
            ],
            "by_hand": [{"name": name, "version": version} for name, version in self.by_hand],
            "bytes": {"downloaded": self.downloaded, "unpacked": self.unpacked, "shared": self.shared},
            "timings_ms": {name: round(seconds * 1000, 3) for name, seconds in self.timings.items()},
            "resolved_at": None if self.resolved_at is None else moment_text(self.resolved_at),
            "warnings": list(self.warnings),
            "error": None if self.error is None else self.error.fields(),
        }


def _lease(lease: Lease) -> dict[str, object]:
    return {"id": lease.id, "expires": None if lease.expires is None else moment_text(lease.expires)}


def of_result(result: LinkResult, variables: Mapping[str, str]) -> Outcome:
    """Return the outcome of a link that was made.

    Args:
        result: What it came to.
        variables: See ``Outcome``.
    """
    return Outcome(
        status=result.status,
        python=result.python,
        environment=result.environment,
        lock=result.lock,
        variables=variables,
        lease=result.lease,
        packages=result.packages,
        downloaded=result.downloaded,
        unpacked=result.unpacked,
        shared=result.shared,
        timings=result.timings,
        resolved_at=result.resolved_at,
        warnings=result.warnings,
        by_hand=result.by_hand,
    )


def failed(error: VrfstoreError, warnings: tuple[str, ...] = ()) -> Outcome:
    """Return the outcome of a link that could not be made."""
    return Outcome(status="error", error=error, warnings=warnings)


def fallen_back(
    error: VrfstoreError, python: str, variables: Mapping[str, str], warnings: tuple[str, ...]
) -> Outcome:
    """Return the outcome where the base serves in the place of an environment that cannot be had.

    Args:
        error: Why it cannot be had.
        python: The base's.
        variables: See ``Outcome``.
        warnings: What the base lacks.
    """
    return Outcome(status="fallback", python=python, variables=variables, warnings=warnings, error=error)
