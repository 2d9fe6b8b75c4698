"""Linking: from the wheels of a lock, all of which are entries, to a managed environment that stands."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

from vrfstore import codec, fs
from vrfstore.linker.plan import ENVIRONMENT_RECORD, EnvironmentPlan, plan_environment
from vrfstore.linker.realise import realise
from vrfstore.model import EntryPlan, EnvironmentKey, Interpreter
from vrfstore.store import interpreters, records
from vrfstore.store.bytecode import is_compiled
from vrfstore.store.layout import FORMAT, SITE_PACKAGES, STAGING_PREFIX, environment_directory
from vrfstore.store.leases import Lease
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.store import Store

__all__ = ["environment_key", "link"]


def environment_key(identities: Sequence[str], interpreter: Interpreter) -> EnvironmentKey:
    """Return what names the environment of these wheels: equal sets give equal keys, whoever asked how.

    Args:
        identities: ``EntryPlan.identity`` of each, in any order; for a wheel that is no mere claim, its digest.
        interpreter: The base.
    """
    value = {"digests": sorted(identities), "format": FORMAT, "interpreter": interpreter.identity}
    return EnvironmentKey(codec.digest_of(value)[:32])


def link(
    store: Store,
    lease: Lease,
    plans: Sequence[EntryPlan],
    interpreter: Interpreter,
    *,
    key: EnvironmentKey,
    lock: str,
) -> tuple[EnvironmentRecord, bool]:
    """Make the managed environment of some entries, unless one stands that may be handed out.

    Args:
        store: Where.
        lease: Of the caller, on the entries and on the key.
        plans: The entries, in any order.
        interpreter: The base.
        key: As ``environment_key`` gives it.
        lock: The digest of the lock, for the record.

    Returns:
        Its record, and whether it was made now.

    Raises:
        CollisionError: Two wheels have different files at one place.
        StoreDamagedError: A manifest that is needed cannot be read.
        OSError: The disk is full.
    """
    with store.hold_environment(key):
        present, generation = store.usable_environment(key)
        if present is not None:
            return present, False
        layout = store.layout
        places = _places(store, plans)
        hashes = functools.cache(store.manifest_hashes)
        ready = interpreters.ready_links(layout, lease, interpreter)
        plan = plan_environment(
            plans,
            interpreter,
            interpreter_links=ready[len(layout.root) + 1 :],
            hashes_of=lambda entry: hashes(entry.reference.directory),
            compiled=frozenset(
                plan.reference.directory
                for plan in plans
                if is_compiled(layout, plan.reference.directory, interpreter)
            ),
        )
        staging = layout.of("environments", f"{STAGING_PREFIX}{lease.id}.{fs.unique_name()}")
        directory = environment_directory(key, generation)
        try:
            realise(plan, layout.root, staging)
            record = _record(staging, plan, plans, interpreter, key=key, lock=lock, directory=directory)
            fs.write_file(f"{staging}/{ENVIRONMENT_RECORD}", records.record_to_json(record))
            fs.rename(staging, layout.of("environments", directory))
        except BaseException:
            fs.remove_tree(staging)
            raise
        if _places(store, plans) != places:
            # An entry was repaired meanwhile, by somebody who may not have seen this environment yet.
            from vrfstore.linker import check  # noqa: PLC0415 - hardly ever

            check.relink(store, lease, record, trusted=True, wanted=lambda _: True)
            record = store.record(directory)
        return record, True


def _places(store: Store, plans: Sequence[EntryPlan]) -> list[int]:
    """Return the inodes of the entries' directories."""
    return [os.stat(store.layout.of("entries", plan.reference.directory)).st_ino for plan in plans]


def _record(
    staging: str,
    plan: EnvironmentPlan,
    plans: Sequence[EntryPlan],
    interpreter: Interpreter,
    *,
    key: EnvironmentKey,
    lock: str,
    directory: str,
) -> EnvironmentRecord:
    site = f"lib/{plan.library}/{SITE_PACKAGES}"
    # What tools and people write into, and every fresh file, which a power cut may leave empty. Below
    # site-packages, importing makes __pycache__ directories; and installing changes site-packages itself.
    directories = (path for path in plan.directories if not path.startswith(f"{site}/"))
    fresh = (
        *(path for path, _ in plan.files), *(path for _, path in plan.copies), *(new.path for new in plan.records)
    )  # fmt: skip
    own = (*directories, *fresh)
    return EnvironmentRecord(
        directory=directory,
        key=key,
        executable=interpreter.executable,
        interpreter=interpreter.identity,
        library=plan.library,
        wheels=tuple(sorted((entry.reference for entry in plans), key=lambda reference: reference.name)),
        lock=lock,
        own={path: records.own_token(f"{staging}/{path}") for path in own},
    )
