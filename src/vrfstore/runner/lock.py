"""``lock``: what some files resolve to, written down as a ``pylock.toml``; nothing is fetched or linked."""

from __future__ import annotations

import os
from collections.abc import Sequence

from vrfstore import fs
from vrfstore import interpreter as probing
from vrfstore.errors import RequirementsError, UsageError
from vrfstore.model import LinkOptions, Lock, LockFile, Watcher, nobody
from vrfstore.requirements import files, lockfile, targets
from vrfstore.requirements import lock as locks
from vrfstore.requirements.budget import Budget
from vrfstore.requirements.policy import Policy
from vrfstore.runner import configuration, given
from vrfstore.runner.clock import Clock
from vrfstore.runner.locking import Locker
from vrfstore.store import interpreters
from vrfstore.store.store import Store
from vrfstore.values import dataclass

__all__ = ["LockResult", "lock"]

_LARGEST = 16 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class LockResult:
    """What ``lock`` found.

    Attributes:
        lock: The wheels.
        text: The ``pylock.toml``.
        changed: Whether the file had something else, or was not there; True where none was asked for.
        warnings: What the caller should know.
    """

    lock: Lock
    text: str
    changed: bool
    warnings: tuple[str, ...]


def lock(  # noqa: PLR0913 - all but the first by keyword
    requirements: Sequence[str],
    *,
    output: str | None = None,
    python: str | None = None,
    target: str | None = None,
    store: Store,
    options: LinkOptions = LinkOptions(),  # noqa: B008 - frozen
    policy: Policy = Policy(),  # noqa: B008 - frozen
    trusted: bool | None = None,
    extras: Sequence[str] = (),
    groups: Sequence[str] = (),
    watch: Watcher = nobody,
) -> LockResult:
    """Resolve what some files ask for, and write the lock.

    Versions that an existing output names are kept where they still fit, unless the policy says to upgrade. What is
    found is remembered, so that linking the same files gives the same.

    Args:
        requirements: See ``link``.
        output: Where the lock goes; None for nowhere.
        python: See ``link``.
        target: See ``link``.
        store: Where the memo goes.
        options: Only whether it is isolated counts.
        policy: See ``link``.
        trusted: See ``link``.
        extras: See ``link``.
        groups: See ``link``.
        watch: Is told what long steps do.

    Raises:
        VrfstoreError: See ``link``.
        OSError: The output cannot be written.
    """
    if target is not None and python is not None:
        raise UsageError("a lock is for one interpreter: python or target", kind="options-conflict")
    configured = configuration.read(os.environ)
    policy = configuration.applied(policy, configured)
    asked = given.take(
        requirements, trusted=trusted, extras=extras, groups=groups, service=configured.lock_name
    ).read(lambda _: None)
    budget, clock = Budget(policy.caps), Clock()
    with store.session() as session:
        base = (
            targets.read(target)
            if target is not None
            else interpreters.known(store.layout, session, probing.find(python))[0]
        )
        isolated = options.isolated or (target is not None and not base.base)
        locker = Locker.of(
            store=store,
            session=session,
            requirements=asked,
            interpreter=base,
            isolated=isolated,
            policy=policy,
            budget=budget,
            clock=clock,
            watch=watch,
        )
        before = None if output is None else _existing(output)
        preferred = None if before is None else _versions(before, output or "")
        found = locker.lock(preferred)
    text = locks.dumps(found.lock)
    changed = text != before
    if output is not None and changed:
        _write(output, text.encode())
    return LockResult(lock=found.lock, text=text, changed=changed, warnings=found.resolved.warnings)


def _write(output: str, data: bytes) -> None:
    if os.path.lexists(output) and not os.path.isfile(output):
        with open(output, "wb") as stream:  # a terminal, a pipe
            stream.write(data)
    else:
        fs.replace_file(os.path.realpath(output), data)


def _existing(output: str) -> str | None:
    """Return the text of an output that is there, and a file.

    Raises:
        UsageError: It is no text at all, and so maybe somebody's work.
    """
    if not os.path.isfile(output):
        return None
    try:
        return files.read(output, _LARGEST).decode()
    except UnicodeDecodeError as error:
        raise _no_lock(output) from error


def _versions(text: str, output: str) -> dict[str, str]:
    """Return the versions that a lock names.

    Raises:
        UsageError: It is no lock.
    """
    if not text.strip():
        return {}
    try:
        return lockfile.versions(LockFile(output, text))
    except RequirementsError as error:
        raise _no_lock(output) from error


def _no_lock(output: str) -> UsageError:
    return UsageError(
        "the file is there, and is no lock",
        kind="output-foreign",
        path=output,
        hint="choose another name for the output, or remove the file",
    )
