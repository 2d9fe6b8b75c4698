"""What a caller decides about resolving and fetching, beside what is asked for."""

from __future__ import annotations

from vrfstore.errors import NotPermittedError
from vrfstore.requirements.budget import Caps
from vrfstore.values import dataclass, field

TYPE_CHECKING = False
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
        install: Whether anything may be installed that is not there; None for what is configured. Without leave it is
            as with ``offline``, but for the words of a refusal (``runner.gate``).
        wait: Whether to wait for others who are building the same; for as long as that takes.
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
    install: bool | None = None
    wait: bool = True
    caps: Caps = field(default_factory=Caps)

    @property
    def closed(self) -> bool:
        """Whether there is no leave to install."""
        return self.install is False

    def refusal(self, message: str, path: str, hint: str) -> NotPermittedError:
        """Return the error for what is not there, and may not be had.

        Args:
            message: What is missing.
            path: The file that asks for it.
            hint: What to do where it is the network that may not be used.
        """
        if self.closed:
            return NotPermittedError(
                f"{message}, and installing is not permitted here",
                path=path,
                hint="ask for what is there, or ask whoever may give leave to link it once with --install",
            )
        return NotPermittedError(
            f"{message}, and the network may not be used", kind="offline", path=path, hint=hint
        )

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
