"""Having the composites of an environment there, and keeping them while it is linked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from vrfstore.linker.plan import Merge, merge
from vrfstore.model import EntryPlan, LinkOptions
from vrfstore.store import intrusions, leases
from vrfstore.store.store import Store

__all__ = ["composed"]


@contextmanager
def composed(store: Store, plans: Sequence[EntryPlan], options: LinkOptions) -> Iterator[Merge]:
    """Make the composites that some entries need, unless they are there, and lease them.

    Before anybody links them, entries and composites are looked at for what was written into them through links.

    Args:
        store: The store.
        plans: All entries of an environment, which the caller has leased.
        options: As ``plan.settled`` returns them.

    Raises:
        StoreDamagedError: An entry or a composite is damaged.
        OSError: The disk is full.
    """
    merged = merge(plans, options)
    for plan in plans:
        intrusions.look_at_entry(store, plan)
    with ExitStack() as stack:
        if merged.composites:
            from vrfstore.store import composites  # noqa: PLC0415 - hardly any environment has one

            digests = [composite.reference.digest for composite in merged.composites]
            lease = stack.enter_context(leases.take(store.layout, digests=digests))
            for composite in merged.composites:
                composites.ensure(store, lease, composite.reference, composite.members)
                intrusions.look_at_members(store, composite.reference.directory, composite.members)
        yield merged
