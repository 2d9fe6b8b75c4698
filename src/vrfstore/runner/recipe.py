"""The way of a link that needs nothing found out and nothing fetched: by the recipe of the last one.

::

    files ──digest──▶ recipe ─▶ leases ─▶ entries ─▶ environment
                                            see runner.making

A recipe says what an input came to: the wheels, whatever environment is made of them. So an environment that a gc has
taken, or that is to be linked in another way, costs no parsing of files and locks, and what does that is not even
loaded. It counts under the conditions of a hit (``runner.hit``): the bytes of the files and the stats of all that had
a say are as they were. And the memo of its request still says the same. Whatever is missing or looks odd is left to
the whole way.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from vrfstore import codec, fs
from vrfstore.linker.link import environment_key
from vrfstore.linker.plan import settled
from vrfstore.requirements.budget import Budget
from vrfstore.runner.keeping import Keeping
from vrfstore.runner.making import Making, Ready
from vrfstore.runner.result import LinkResult
from vrfstore.store import condemned, interpreters, leases, memos
from vrfstore.store.layout import Layout
from vrfstore.store.memos import Recipe, RequestMemo
from vrfstore.values import replace

__all__ = ["IDENTITY", "relink"]

IDENTITY = {"recipe": True}
"""What tells the digest of a recipe from that of an environment that is linked as usual."""


def relink(
    making: Making, digests: Sequence[tuple[str, str]], budget: Budget, keeping: Keeping
) -> LinkResult | None:
    """Make an environment of what an input came to before.

    Args:
        making: What makes it; what its memos are called is among the digests.
        digests: Names that the memo and the recipe of the input may have, together.
        budget: How much it may take.
        keeping: What keeps the environment from gc after that.

    Returns:
        None where there is no recipe that counts, or not all that it names is there.

    Raises:
        VrfstoreError, OSError: See ``link.link``.
    """
    for memo, digest in digests:
        recipe = memos.read_recipe(making.store.layout, digest)
        if recipe is not None and _counts(making.store.layout, recipe):
            budget.packages(len(recipe.wheels))
            # It stays as it is.
            return _follow(replace(making, input_digest=memo, recipe_digest=""), recipe, budget, keeping)
    return None


def _counts(layout: Layout, recipe: Recipe) -> bool:
    resolved = recipe.resolved
    if 0 < resolved.until <= time.time():
        return False
    if resolved.request:
        # It may have been resolved again for another file, for an environment elsewhere, or for a lock.
        known = memos.read_request(layout, resolved.request)
        if known != RequestMemo(lock=resolved.lock, resolved_at=resolved.resolved_at):
            return False
    return all(fs.stat_token(path) == token for path, token in recipe.stats.items())


def _follow(making: Making, recipe: Recipe, budget: Budget, keeping: Keeping) -> LinkResult | None:
    store, layout, lock = making.store, making.store.layout, recipe.resolved.lock
    digests = [digest for digest, _, _ in recipe.wheels]
    options = settled(making.options, [name for _, name, _ in recipe.wheels])
    with store.session() as session:
        with making.clock.step("probe"):
            base, probed = interpreters.known(layout, session, making.executable)
        # What has changed since we looked whether the recipe counts must not get into a memo as if it had led here.
        if probed is None or not probed.items() <= recipe.stats.items():
            return None
        key = environment_key(digests, base, options)
        with leases.take(layout, environment=key, digests=digests, lock=lock) as working:
            # The lease has been taken; whatever is there after this stays as long as the lease.
            condemned.wait_until_clear(layout, {f"locks/{lock}"})
            if not _is_whole(layout, lock):
                return None
            store.await_entries(recipe.wheels)
            plans = [plan for wheel in recipe.wheels if (plan := store.entry(*wheel)) is not None]
            if len(plans) != len(recipe.wheels):
                return None
            budget.check()
            ready = Ready(resolved=recipe.resolved, options=options, key=key, working=working, plans=plans)
            return making.finish(ready, base, recipe.stats, keeping)


def _is_whole(layout: Layout, lock: str) -> bool:
    """Whether a lock is there, as its name says: after a power cut it may be empty, and healing needs it."""
    with contextlib.suppress(OSError):
        return codec.hexdigest(fs.read_file(layout.lock(lock))) == lock
    return False
