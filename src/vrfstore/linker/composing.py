"""Having the composites of an environment there, and keeping them while it is linked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from vrfstore.linker.plan import Merge, merge
from vrfstore.model import EntryPlan, LinkOptions
from vrfstore.store import leases
from vrfstore.store.store import Store

__all__ = ["composed"]


@contextmanager
def composed(store: Store, plans: Sequence[EntryPlan], options: LinkOptions) -> Iterator[Merge]:
    """Make the composites that some entries need, unless they are there, and lease them.

    Args:
        store: The store.
        plans: All entries of an environment, which the caller has leased.
        options: As ``plan.settled`` returns them.

    Raises:
        StoreDamagedError: A member's manifest cannot be read, or a composite is damaged.
        OSError: The disk is full.
    """
    merged = merge(plans, options)
    with ExitStack() as stack:
        if merged.composites:
            from vrfstore.store import composites  # noqa: PLC0415 - hardly any environment has one

            digests = [composite.reference.digest for composite in merged.composites]
            lease = stack.enter_context(leases.take(store.layout, digests=digests))
            for composite in merged.composites:
                composites.ensure(store, lease, composite.reference, composite.members)
        yield merged
