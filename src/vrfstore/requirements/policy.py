"""What a caller decides about resolving and fetching, beside what is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vrfstore.requirements.budget import Caps

if TYPE_CHECKING:  # what resolves takes 60 ms to import, which a hit does not pay
    from vrfstore.requirements.solution import ResolverName

__all__ = ["Policy"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Where packages may come from, when they are looked for again, and how much that may take.

    Attributes:
        resolver: Which one; by default uv where it is installed, else pip.
        index_url: The one index that is asked, and nothing else of pip's configuration; by default what pip is
            configured with.
        allow_builds: Build source distributions of what has no wheel, which runs their code.
        protect: Normalised names of packages of the base that no other version may come before.
        refresh: Resolve again what is known, keeping versions that still fit.
        upgrade: Resolve again what is known, and keep no version.
        stale_after: Seconds after which what is not pinned is resolved again; None for never.
        stale_ok: Where resolving again fails, use what it resolved to before.
        offline: Use what is there: no network, no resolver.
        caps: How much it may take.
    """

    resolver: ResolverName | None = None
    index_url: str = ""
    allow_builds: bool = False
    protect: tuple[str, ...] = ()
    refresh: bool = False
    upgrade: bool = False
    stale_after: float | None = None
    stale_ok: bool = False
    offline: bool = False
    caps: Caps = field(default_factory=Caps)

    @property
    def again(self) -> bool:
        """Whether what is known does not count."""
        return self.refresh or self.upgrade

    @property
    def identity(self) -> dict[str, object]:
        """What names a memo of an input beside the input: whatever is not as usual and may change the answer."""
        values = {
            "allow_builds": self.allow_builds,
            "index_url": self.index_url,
            "protect": sorted(self.protect),
            # Of these, 0 is not what is usual.
            "max_packages": [] if self.caps.packages is None else [self.caps.packages],
            "stale_after": [] if self.stale_after is None else [self.stale_after],
        }
        return {name: value for name, value in values.items() if value}
