"""Applying the plan of an environment: a loop over a few kinds of effects, in a directory that nobody knows yet."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from vrfstore import fs
from vrfstore.linker.plan import EnvironmentPlan, NewRecord

__all__ = ["new_record", "realise"]


def realise(
    plan: EnvironmentPlan,
    store_root: str,
    staging: str,
    when_it_has_a_python: Callable[[], object] | None = None,
) -> None:
    """Make the environment at ``staging``, a path that is not there and whose parent is.

    Args:
        plan: The environment.
        store_root: The store's absolute path.
        staging: Where.
        when_it_has_a_python: Called when its python can be started; there is much to do still.

    Raises:
        OSError: The disk is full, or an entry is gone.
    """
    fs.make_directory(staging)
    for path in plan.directories:
        fs.make_directory(f"{staging}/{path}")
    for path, content in plan.files:
        fs.write_file(f"{staging}/{path}", content)
    for source, path in plan.links[: plan.own_links]:
        fs.hard_link(f"{store_root}/{source}", f"{staging}/{path}")
    if when_it_has_a_python is not None:
        when_it_has_a_python()
    for source, path in plan.links[plan.own_links :]:
        fs.hard_link(f"{store_root}/{source}", f"{staging}/{path}")
    for source, path in plan.bytecode:
        with contextlib.suppress(FileNotFoundError):
            fs.hard_link(f"{store_root}/{source}", f"{staging}/{path}")
    for source, path in plan.copies:
        fs.copy_file(f"{store_root}/{source}", f"{staging}/{path}", follow=True)
    for record in plan.records:
        fs.write_file(f"{staging}/{record.path}", new_record(record, store_root, plan.headers))


def new_record(record: NewRecord, store_root: str, headers: str) -> bytes:
    """Return the bytes of a RECORD whose first rows name the directory links of this environment."""
    import csv  # noqa: PLC0415 - most environments need no RECORD but those that are prepared

    from vrfstore.store.record_file import record_bytes  # noqa: PLC0415 - as above

    with open(f"{store_root}/{record.source}", encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))[record.skip :]
    # Headers lie below a directory that is named after the interpreter.
    rows = [[path.replace("/pythonX.Y/", f"/{headers}/"), *rest] for path, *rest in rows]
    return record_bytes([[path, "", ""] for path in record.folded] + rows)
