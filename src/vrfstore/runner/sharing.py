"""Which shared store is asked for, and what follows where it cannot be used (docs/sharing.md).

The command line says it, else ``$VRFSTORE_SHARED_STORE``, else ``vrfstore.toml``. A shared store is a convenience: one
that is not there, cannot be read or is of another format lends nothing. That is said each time, and nothing else
changes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from vrfstore.errors import StoreError, UsageError
from vrfstore.store.layout import Layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vrfstore.store.shared import SharedStore

__all__ = ["asked", "identity", "opened"]

_VARIABLE = "VRFSTORE_SHARED_STORE"


def asked(
    given: str | os.PathLike[str] | None, variables: Mapping[str, str], configured: str | None, own: Layout
) -> str | None:
    """Return the absolute path of the shared store; empty if none is wanted, None if nobody has said anything.

    Args:
        given: What the caller says; empty for none.
        variables: The environment variables.
        configured: What ``vrfstore.toml`` says.
        own: The store of one's own.

    Raises:
        UsageError: It is that one.
    """
    if given is None:
        given = variables.get(_VARIABLE) or configured
    if given is None:
        return None
    root = os.path.abspath(given) if os.fspath(given) else ""
    if root and os.path.realpath(root) == os.path.realpath(own.root):
        raise UsageError(
            f"{root} is the store itself, and cannot be shared with it",
            kind="shared-store-same",
            hint="give the directory of another store with --store or --shared-store",
        )
    return root


def identity(root: str | None) -> dict[str, object]:
    """Return what names memos of inputs beside the rest. That none is wanted counts as well: one may be configured."""
    return {} if root is None else {"shared_store": root}


def opened(root: str | None) -> tuple[SharedStore | None, tuple[str, ...]]:
    """Return the shared store at a path from ``asked``, if there is one to use, and else why not, in words."""
    if not root:
        return None, ()
    from vrfstore.store.shared import SharedStore  # noqa: PLC0415 - most links share nothing

    try:
        return SharedStore.open(root), ()
    except (StoreError, OSError) as error:
        why = error.message if isinstance(error, StoreError) else error.strerror
        return None, (f"the shared store {root} is not used: {why}",)
