"""Linking: from the wheels of a lock, all of which are entries, to a managed environment that stands."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack

from vrfstore import codec, fs
from vrfstore.linker.composing import composed
from vrfstore.linker.plan import ENVIRONMENT_RECORD, Composite, Merge, plan_environment
from vrfstore.linker.realise import realise
from vrfstore.model import EntryPlan, EnvironmentKey, Interpreter, LinkOptions
from vrfstore.store import interpreters, records
from vrfstore.store.bytecode import is_compiled
from vrfstore.store.layout import FORMAT, STAGING_PREFIX, environment_directory
from vrfstore.store.leases import Lease
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.store import Store

__all__ = ["environment_key", "link"]


def environment_key(
    identities: Sequence[str],
    interpreter: Interpreter,
    options: LinkOptions = LinkOptions(),  # noqa: B008 - frozen
) -> EnvironmentKey:
    """Return what names the environment of these wheels: equal sets give equal keys, whoever asked how.

    Args:
        identities: ``EntryPlan.identity`` of each, in any order; of a usual wheel, which is neither a mere claim nor
            borrowed, its digest.
        interpreter: The base.
        options: As ``plan.settled`` returns them.
    """
    value = {
        "digests": sorted(identities),
        "format": FORMAT,
        "interpreter": interpreter.identity,
        "options": options.identity,
    }
    return EnvironmentKey(codec.digest_of(value)[:32])


def link(  # noqa: PLR0913 - most by keyword
    store: Store,
    lease: Lease,
    plans: Sequence[EntryPlan],
    interpreter: Interpreter,
    *,
    key: EnvironmentKey,
    lock: str,
    merged: Merge | None = None,
    asked: str = "",
    starting: Callable[[str], AbstractContextManager[None]] | None = None,
) -> tuple[EnvironmentRecord, bool]:
    """Make the managed environment of some entries, unless one stands that may be handed out.

    Args:
        store: Where.
        lease: Of the caller, on the entries and on the key.
        plans: The entries, in any order.
        interpreter: The base.
        key: As ``environment_key`` gives it.
        lock: The digest of the lock, for the record.
        merged: As ``composing.composed`` gives it, for as long as this takes; by default that is asked here,
            for an environment as usual.
        asked: For the record: the interpreter in the words of whoever asked.
        starting: Starts the environment's python, while the rest is linked, and fails at the end if that fails: then
            there is no environment.

    Returns:
        Its record, and whether it was made now.

    Raises:
        CollisionError: Two wheels have different files at one place.
        StoreDamagedError: A manifest that is needed cannot be read.
        OSError: The disk is full.
    """
    with ExitStack() as stack:
        if merged is None:
            merged = stack.enter_context(composed(store, plans, LinkOptions()))
        stack.enter_context(store.hold_environment(key))
        present, generation = store.usable_environment(key)
        if present is not None:
            return present, False
        layout = store.layout
        places = _places(store, [*plans, *merged.composites])
        hashes = functools.cache(store.manifest_hashes)
        interpreters.ready_links(layout, lease, interpreter)
        directory = environment_directory(key, generation)
        plan = plan_environment(
            plans,
            interpreter,
            merged,
            place=layout.of("environments", directory),
            interpreter_links=interpreters.ready_links_name(interpreter),
            hashes_of=lambda entry: hashes(entry.reference.directory),
            compiled=frozenset(
                directory
                for directory in merged.directories(plans)
                if is_compiled(layout, directory, interpreter)
            ),
        )
        staging = layout.of("environments", f"{STAGING_PREFIX}{lease.id}.{fs.unique_name()}")
        try:
            with ExitStack() as starts:
                begin = None
                if starting is not None:
                    begin = functools.partial(_begin, starts, starting, f"{staging}/bin/python")
                realise(plan, layout.root, staging, begin)
                if merged.options.materialize and store.durable:
                    fs.sync_filesystem(staging)
                record = EnvironmentRecord(
                    directory=directory,
                    key=key,
                    asked=asked,
                    executable=interpreter.executable,
                    interpreter=interpreter.identity,
                    options=merged.options,
                    library=plan.library,
                    wheels=tuple(sorted((entry.reference for entry in plans), key=lambda found: found.name)),
                    composites=tuple(composite.reference for composite in merged.composites),
                    shared=frozenset(entry.reference.directory for entry in plans if entry.shared),
                    lock=lock,
                    own={path: records.own_token(f"{staging}/{path}") for path in plan.watched},
                )
                fs.write_file(f"{staging}/{ENVIRONMENT_RECORD}", records.record_to_json(record))
            fs.rename(staging, layout.of("environments", directory))
        except BaseException:
            fs.remove_tree(staging)
            raise
        if _places(store, [*plans, *merged.composites]) != places:
            # An entry was repaired meanwhile, by somebody who may not have seen this environment yet.
            from vrfstore.linker import check  # noqa: PLC0415 - hardly ever

            check.relink(store, lease, record, trusted=True, wanted=lambda _: True)
            record = store.record(directory)
        return record, True


def _begin(
    starts: ExitStack, starting: Callable[[str], AbstractContextManager[None]], executable: str
) -> None:
    starts.enter_context(starting(executable))


def _places(store: Store, plans: Sequence[EntryPlan | Composite]) -> list[int]:
    """Return the inodes of the directories of entries and composites."""
    return [os.stat(store.layout.of("entries", plan.reference.directory)).st_ino for plan in plans]
