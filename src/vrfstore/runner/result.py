"""What ``link`` returns."""

from __future__ import annotations

from collections.abc import Mapping

from vrfstore.model import Digest
from vrfstore.store.leases import Lease
from vrfstore.values import dataclass

__all__ = ["LinkResult", "LinkedPackage"]


@dataclass(frozen=True, slots=True)
class LinkedPackage:
    """One distribution of an environment.

    ``reused`` says that nothing had to be fetched for it, ``shared`` that its files are those of the shared store.
    """

    name: str
    version: str
    digest: Digest
    reused: bool
    shared: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkResult:
    """What ``link`` found or made.

    Attributes:
        status: ``hit`` (nothing had to be done), ``linked`` (all wheels were in the store) or ``built``.
        python: The absolute path of the environment's python.
        environment: The absolute path of the environment.
        lock: The absolute path of its ``pylock.toml``.
        packages: What is in it, sorted by name; not what the base has.
        downloaded: Bytes that were fetched.
        unpacked: Bytes that the entries have which are new.
        shared: Bytes that those have which were there.
        warnings: What the caller should know.
        timings: Seconds by step: ``probe``, ``resolve``, ``fetch``, ``link``, ``total``.
        lease: What keeps the environment, if a lease was asked for; the caller's to release.
        resolved_at: When it was found out what the request resolves to, seconds since the epoch; None where nothing
            had to be resolved.
        user_site: Whether it sees the user's own packages.
        compiled: Whether all its bytecode is there; as of now, it may come meanwhile.
        by_hand: (name, version) of what the user has installed into an environment of his own.
    """

    status: str
    python: str
    environment: str
    lock: str
    packages: tuple[LinkedPackage, ...]
    downloaded: int
    warnings: tuple[str, ...]
    timings: Mapping[str, float]
    lease: Lease | None = None
    by_hand: tuple[tuple[str, str], ...] = ()
    unpacked: int = 0
    shared: int = 0
    resolved_at: float | None = None
    user_site: bool = False
    compiled: bool = True
