"""From a request to its lock: what is known of it, or else what a resolver finds, which is known from then on.

::

    request ─digest─▶ memo ─▶ lock           known, not stale, and not asked anew
                  └─ hold ─▶ resolve ─▶ lock, memo
                                 └ failed, with an older lock, and that is fine with the caller ─▶ older lock
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from vrfstore.errors import PackageIndexError, ResolutionError
from vrfstore.model import Event, Interpreter, Lock, Requirements, Watcher
from vrfstore.requirements import base as of_base
from vrfstore.requirements import inputs
from vrfstore.requirements import lock as locks
from vrfstore.requirements.budget import Budget
from vrfstore.requirements.policy import Policy
from vrfstore.requirements.request import Request, is_pinned
from vrfstore.runner.clock import Clock
from vrfstore.runner.waiting import Waiting
from vrfstore.store import leases, memos
from vrfstore.store.building import Building
from vrfstore.store.leases import Lease
from vrfstore.store.memos import RequestMemo, Resolved
from vrfstore.store.store import Store
from vrfstore.values import dataclass, replace

__all__ = ["Locked", "Locker"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Locked:
    """What a request resolves to.

    Attributes:
        lock: The wheels.
        resolved: What is known beside them.
    """

    lock: Lock
    resolved: Resolved


@dataclass(frozen=True, kw_only=True, slots=True)
class Locker:
    """Finds the lock of one request.

    Attributes:
        store: Where locks and memos are.
        session: Names files in tmp/.
        request: What is asked.
        policy: When that is resolved again, and how.
        budget: How much it may take.
        clock: Measures resolving.
        watch: Is told.
        building: Tells others what is resolved here.
        now: The time, seconds since the epoch.
    """

    store: Store
    session: Lease
    request: Request
    policy: Policy
    budget: Budget
    clock: Clock
    watch: Watcher
    building: Building | None = None
    now: Callable[[], float] = time.time

    @classmethod
    def of(  # noqa: PLR0913 - all by keyword
        cls,
        *,
        store: Store,
        session: Lease,
        requirements: Requirements,
        interpreter: Interpreter,
        isolated: bool,
        policy: Policy,
        budget: Budget,
        clock: Clock,
        watch: Watcher,
        building: Building | None = None,
    ) -> Locker:
        """Return what finds the lock of requirements for an interpreter under a policy."""
        request = Request(
            requirements=requirements,
            interpreter=interpreter,
            isolated=isolated,
            index_url=policy.index_url,
            allow_builds=policy.allow_builds,
            protect=policy.protect,
        )
        return cls(
            store=store,
            session=session,
            request=request,
            policy=policy,
            budget=budget,
            clock=clock,
            watch=watch,
            building=building,
        )

    @property
    def waiting(self) -> Waiting:
        """What is done while somebody else is at it."""
        return Waiting(
            layout=self.store.layout,
            budget=self.budget,
            watch=self.watch,
            patient=self.policy.wait,
            path=self.request.requirements.path,
            own=self.session.id,
        )

    @property
    def may_ask_pip(self) -> bool:
        """Whether another resolver than pip was asked, and pip may be asked instead."""
        from vrfstore.requirements import by_pip, resolve  # noqa: PLC0415 - 6 ms, for those who resolve

        chosen = resolve.choose(self.policy.resolver, self.request)
        return self.policy.resolver is None and not self.policy.offline and chosen is not by_pip.solve

    def asking_pip(self) -> Locker:
        """Return the same with pip."""
        return replace(self, policy=replace(self.policy, resolver="pip"))

    def lock(self, preferred: Mapping[str, str] | None = None, *, again: bool = False) -> Locked:
        """Return the lock.

        Args:
            preferred: Versions to keep where they still fit; with them it is resolved, whatever is known. By default
                what is known counts, and its versions are kept if it is resolved again.
            again: Resolve, and do not fall back on what is known: something of that is gone that nobody can fetch.

        Raises:
            NotPermittedError: It would have to be resolved, and the network may not be used (``offline``).
            VrfstoreError: See ``resolve.resolve``.
        """
        asked = self.request.requirements
        # What is known of a request says nothing of the Pythons that its files are for.
        inputs.check_python(asked, self.request.interpreter)
        if not asked.items and not asked.locks:
            base = self.request.interpreter
            warning = f"{asked.path} names no packages; the environment has only what {base.real} has"
            return self._kept(Lock(wheels=(), python=base.short_version), (warning,))
        digest = self.request.digest(os.environ)
        began = self.now()
        known = self._known(digest)
        anew = again or preferred is not None
        if known is not None and not anew and self._counts(known):
            return known
        if self.policy.offline:
            return self._offline(known)
        waiting = Event(kind="waiting", subject="another vrfstore that resolves the same request")
        attend = self.waiting.attending(digest)
        with self.store.hold_request(digest, on_wait=lambda: self.watch(waiting), attend=attend):
            found = self._known(digest)
            # What somebody else has found while we waited is as good as what we would find.
            if found is not None and not anew and (self._counts(found) or found.resolved.resolved_at > began):
                return found
            if self.building is not None:
                self.building.begin(digest)
            try:
                # What a resolver remembers of its pages may be as old as what is known.
                fresh = self.policy.again or anew or found is not None
                return self._resolved(digest, self._preferred(found, preferred), fresh=fresh)
            except (ResolutionError, PackageIndexError) as error:
                if found is None or not self.policy.stale_ok or again:
                    raise
                warning = f"resolving again failed, and what it resolved to before is used: {error}"
                return self._said(found, (warning,))

    def _preferred(self, known: Locked | None, given: Mapping[str, str] | None) -> Mapping[str, str]:
        if self.policy.upgrade:
            return {}
        if given is not None:
            return given
        return {} if known is None else {wheel.name: wheel.version for wheel in known.lock.wheels}

    def _counts(self, known: Locked) -> bool:
        """Whether what is known is what is wanted."""
        until = known.resolved.until
        return not self.policy.again and (until == 0 or self.now() < until)

    def _offline(self, known: Locked | None) -> Locked:
        if known is not None:
            return known
        asked = self.request.requirements
        if asked.items:
            raise self.policy.refusal(
                "it is not known what this resolves to",
                asked.path,
                "link it once without --offline, or give a pylock.toml whose wheels are in the store",
            )
        # Only what is in locks, and nothing is built: a build may want the network for what it needs itself.
        from vrfstore.requirements import resolve  # noqa: PLC0415 - as above

        request = replace(self.request, allow_builds=False)
        return self._kept(resolve.resolve(self.store, self.session, request, log="", budget=self.budget))

    def _known(self, digest: str) -> Locked | None:
        memo = memos.read_request(self.store.layout, digest)
        lock = None if memo is None else locks.read(self.store.layout, memo.lock)
        if lock is None or memo is None:
            return None
        self.budget.packages(len(lock.wheels))
        known = Resolved(
            lock=memo.lock,
            resolved_at=memo.resolved_at,
            until=self._until(memo.resolved_at),
            request=digest,
        )
        return self._said(Locked(lock=lock, resolved=known))

    def _resolved(self, digest: str, preferred: Mapping[str, str], *, fresh: bool) -> Locked:
        from vrfstore.requirements import resolve  # noqa: PLC0415 - as above

        self.watch(Event(kind="resolving", subject=self.request.requirements.path))
        with self.clock.step("resolve"):
            lock = resolve.resolve(
                self.store,
                self.session,
                self.request,
                log=resolve.log_path(self.store, digest),
                resolver=resolve.choose(self.policy.resolver, self.request),
                preferred=preferred,
                fresh=fresh,
                budget=self.budget,
                watch=self.watch,
            )
        found = self._kept(lock, resolved_at=int(self.now()), request=digest)
        memo = RequestMemo(lock=found.resolved.lock, resolved_at=found.resolved.resolved_at)
        with leases.take(self.store.layout, lock=memo.lock) as keeping:
            locks.write(self.store.layout, keeping, lock)
            memos.write_request(self.store.layout, keeping, digest, memo)
        self.watch(Event(kind="resolved", total=len(lock.wheels)))
        return found

    def _kept(
        self, lock: Lock, warnings: tuple[str, ...] = (), *, resolved_at: int = 0, request: str = ""
    ) -> Locked:
        resolved = Resolved(
            lock=locks.lock_digest(locks.dumps(lock)),
            warnings=warnings,
            resolved_at=resolved_at,
            until=self._until(resolved_at),
            request=request,
        )
        return self._said(Locked(lock=lock, resolved=resolved))

    def _said(self, found: Locked, warnings: tuple[str, ...] = ()) -> Locked:
        """Return what was found with all that is to be said of it."""
        said = (*found.resolved.warnings, *warnings, *of_base.shadowed(self.request, found.lock))
        return replace(found, resolved=replace(found.resolved, warnings=tuple(dict.fromkeys(said))))

    def _until(self, resolved_at: int) -> int:
        after = self.policy.stale_after
        if after is None or not resolved_at or is_pinned(self.request.requirements):
            return 0
        return int(resolved_at + after) or 1
