"""What a command can run in, for type checkers: at run time nobody loads this."""

from __future__ import annotations

from typing import Protocol

from vrfstore.store.leases import Lease

__all__ = ["Runnable"]


class Runnable(Protocol):
    """An environment that a command can run in: its directory, its python, and what keeps it."""

    @property
    def environment(self) -> str: ...  # noqa: D102 - see the class

    @property
    def python(self) -> str: ...  # noqa: D102

    @property
    def lease(self) -> Lease | None: ...  # noqa: D102

    @property
    def user_site(self) -> bool: ...  # noqa: D102

    @property
    def compiled(self) -> bool: ...  # noqa: D102
