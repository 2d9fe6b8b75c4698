"""The whole way of a link: from what is asked to an environment that stands, where no memo leads there at once.

::

    request ─▶ lock ─fetch what is missing─▶ entries ─▶ environment
       see runner.locking                      see runner.making
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from vrfstore import fs
from vrfstore.errors import NotPermittedError, WheelError
from vrfstore.linker.compatibility import check_compatible
from vrfstore.linker.link import environment_key
from vrfstore.linker.plan import Merge, settled
from vrfstore.model import (
    Borrowed,
    EntryPlan,
    EnvironmentKey,
    Event,
    Interpreter,
    LinkOptions,
    LockedWheel,
    Requirements,
    Watcher,
    both,
)
from vrfstore.requirements import fetch, pip, targets
from vrfstore.requirements import lock as locks
from vrfstore.requirements.budget import Budget
from vrfstore.requirements.policy import Policy
from vrfstore.runner import sharing
from vrfstore.runner.clock import Clock
from vrfstore.runner.keeping import Keeping
from vrfstore.runner.locking import Locker
from vrfstore.runner.making import Made, Making, Ready
from vrfstore.runner.result import LinkResult
from vrfstore.store import interpreters, leases
from vrfstore.store.building import Building
from vrfstore.store.leases import Lease
from vrfstore.store.store import Store
from vrfstore.values import dataclass, replace

if TYPE_CHECKING:
    from vrfstore.linker.into import Linked

__all__ = ["Linking"]

_SHOWN = 5
"""Names of wheels that an error repeats."""

_DEBIAN = "/lib/python3/dist-packages"
"""Where Debian puts packages of its own, and of all its Pythons."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Linking:
    """The whole way, for one call.

    Attributes:
        making: What makes the environment in the end.
        asked: What is asked for.
        policy: Where packages come from, and when they are looked for again.
        place: The directory of the caller's where it goes; None for the store.
        force: Replace what is in the way there.
        stats: Of the files that had a say so far, as they were before they were read.
        budget: How much it may take.
        lenient: What is to be materialized need not be there.
        target: The interpreter, if it is not here.
        shared: The shared store, as ``sharing.asked`` gives it.
    """

    making: Making
    asked: Requirements
    policy: Policy
    place: str | None
    force: bool
    stats: Mapping[str, str]
    budget: Budget
    lenient: bool = False
    target: targets.Target | None = None
    shared: str | None = None

    def run(self, keeping: Keeping) -> LinkResult:
        """Make the environment exist.

        Args:
            keeping: What keeps it from gc after that.

        Raises:
            VrfstoreError, OSError: See ``link.link``.
        """
        with self.store.session() as session, Building(self.store.layout, session) as building:
            making = replace(self.making, watch=both(self.making.watch, building))
            return replace(self, making=making)._linked(keeping, session, building)  # noqa: SLF001 - itself

    @property
    def store(self) -> Store:
        """Where."""
        return self.making.store

    @property
    def clock(self) -> Clock:
        """Measures the steps."""
        return self.making.clock

    @property
    def watch(self) -> Watcher:
        """Is told what long steps do."""
        return self.making.watch

    @property
    def options(self) -> LinkOptions:
        """How the environment is linked."""
        return self.making.options

    def _linked(self, keeping: Keeping, session: Lease, building: Building) -> LinkResult:
        """Do as ``run``, and tell others."""
        layout = self.store.layout
        with self.clock.step("probe"):
            base, probed = (
                (self.target, None)
                if self.target is not None
                else interpreters.known(layout, session, self.making.executable)
            )
        stats = None
        if probed is not None:
            # Before any of it is read.
            configured = pip.configuration_files(base, index_url=self.policy.index_url)
            stats = {**self.stats, **probed, **{path: fs.stat_token(path) for path in configured}}
        locker = self._locker(session, base, building)
        with ExitStack() as stack:
            ready = self._fitting(stack, locker)
            self.budget.check()
            return self.making.finish(ready, base, stats, keeping, self._into(base))

    def _locker(self, session: Lease, base: Interpreter, building: Building) -> Locker:
        return Locker.of(
            store=self.store,
            session=session,
            requirements=self.asked,
            interpreter=base,
            isolated=self.options.isolated,
            policy=self.policy,
            budget=self.budget,
            clock=self.clock,
            watch=self.watch,
            building=building,
        )

    def _present(self, names: Collection[str]) -> LinkOptions:
        """Return the options without the names of what is not there."""
        wanted = tuple(name for name in self.options.materialize if name in names)
        return replace(self.options, materialize=wanted)

    def _into(self, base: Interpreter) -> Callable[[Ready, Merge], Made] | None:
        """Return what links where the caller wants it, if that is not in the store."""
        place = self.place
        return None if place is None else lambda ready, merged: self._external(ready, merged, base, place)

    def _external(self, ready: Ready, merged: Merge, base: Interpreter, place: str) -> Made:
        from vrfstore.linker.into import Asked, link_into  # noqa: PLC0415 - 20 ms that most links do not pay

        plans, options = ready.plans, merged.options
        asked = Asked(
            requirements=self._recorded(plans),
            path=os.path.abspath(self.asked.path),
            python=self.making.python,
            lock=ready.resolved.lock,
            options=options,
        )
        linked = link_into(self.store, ready.working, plans, base, place, asked, force=self.force)
        return Made(
            place=place,
            wheels=linked.record.wheels,
            lock=ready.resolved.lock,
            new=not linked.changes.nothing,
            by_hand=tuple((found.name, found.version) for found in linked.by_hand),
            warnings=(
                *linked.warnings,
                *_left(linked, plans),
                *(() if linked.changes.nothing else _pip_that_follows_links(base, options, plans)),
            ),
        )

    def _recorded(self, plans: Sequence[EntryPlan]) -> str:
        """Return what is asked for as another interpreter will have to be asked for it: a lock is for this one only."""
        named = {item.name for item in self.asked.items}
        pins = sorted(
            f"{plan.reference.name}=={plan.reference.version}\n"
            for plan in (plans if self.asked.locks else ())
            if plan.reference.name not in named
        )
        return f"{self.asked.canonical}{''.join(pins)}"

    def _fitting(self, stack: ExitStack, locker: Locker) -> Ready:
        """Have the wheels there, and make sure that the interpreter can use them; see ``_ready``.

        uv does not look at upper bounds of Requires-Python. Where nobody insists on it, pip is asked then, which does.

        Raises:
            WheelError: See ``compatibility.check_compatible``.
        """
        base = locker.request.interpreter
        ready = self._ready(stack, locker)
        try:
            check_compatible(ready.plans, base)
        except WheelError as error:
            if error.kind != "requires-python" or not locker.may_ask_pip:
                raise
            ready = self._ready(stack, locker.asking_pip(), again=True)
            check_compatible(ready.plans, base)
        return ready

    def _ready(self, stack: ExitStack, locker: Locker, *, again: bool = False) -> Ready:
        """Have the wheels of the lock there, and leased for as long as ``stack`` is open."""
        base = locker.request.interpreter
        while True:
            locked = locker.lock(again=again)
            wheels = locked.lock.wheels
            digests, names = [wheel.digest for wheel in wheels], [wheel.name for wheel in wheels]
            options = settled(self._present(names) if self.lenient else self.options, names)
            borrowed = self._borrowed(stack, wheels)
            lent = {digest: plan.identity for digest, plan in borrowed.plans.items()}
            key = environment_key([lent.get(digest, digest) for digest in digests], base, options)
            wheels = tuple(wheel for wheel in wheels if wheel.digest not in lent)
            working = stack.enter_context(
                leases.take(self.store.layout, environment=key, digests=digests, lock=locked.resolved.lock)
            )
            locks.write(self.store.layout, working, locked.lock)
            present, missing = fetch.present(self.store, wheels)
            if missing and self.policy.offline:
                raise self._not_there(missing)
            # What was built here can be had nowhere else, and is not the same if it is built once more.
            again = any(wheel.built_from for wheel in missing)
            if not again:
                break
        fetched: Sequence[fetch.Fetched] = ()
        if missing:
            with self.clock.step("fetch"):
                present, fetched = self._fetched(locker, working, key, wheels)
        plans = [*borrowed.plans.values(), *present, *(item.plan for item in fetched)]
        return Ready(
            resolved=locked.resolved,
            options=options,
            key=key,
            working=working,
            plans=plans,
            fetched=tuple(fetched),
            borrowed=borrowed,
        )

    def _borrowed(self, stack: ExitStack, wheels: Sequence[LockedWheel]) -> Borrowed:
        """Have what the shared store lends, leased for as long as ``stack`` is open."""
        shared, warnings = sharing.opened(self.shared)
        if shared is None or not wheels:
            return Borrowed(warnings=warnings)
        # Before it is known what the environment is called, which depends on what is lent.
        lease = stack.enter_context(
            leases.take(self.store.layout, digests=[wheel.digest for wheel in wheels])
        )
        with self.clock.step("borrow"):
            return shared.borrow(self.store, lease, wheels)

    def _fetched(
        self, locker: Locker, working: Lease, key: EnvironmentKey, wheels: Sequence[LockedWheel]
    ) -> tuple[list[EntryPlan], list[fetch.Fetched]]:
        """Return the entries of wheels that are there, and of those that are fetched now.

        Of many who want the same environment one fetches, and the others wait for all of it, which is less work for
        everybody. Who wants some of the wheels for another environment waits for each of those.
        """
        waiting = Event(kind="waiting", subject="another vrfstore that builds the same environment")
        attend = locker.waiting.attending(key)
        with self.store.hold_building(key, on_wait=lambda: self.watch(waiting), attend=attend):
            present, missing = fetch.present(self.store, wheels)
            if not missing:
                return present, []
            if locker.building is not None:
                locker.building.begin(key, *(wheel.digest for wheel in missing))
            settings = pip.settings(self.store, locker.request.interpreter, index_url=self.policy.index_url)
            return present, fetch.fetch(
                self.store,
                working,
                missing,
                settings,
                self.watch,
                self.budget,
                attending=locker.waiting.attending,
            )

    def _not_there(self, missing: Sequence[LockedWheel]) -> NotPermittedError:
        names = ", ".join(f"{wheel.name} {wheel.version}" for wheel in missing[:_SHOWN])
        more = f", and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        return self.policy.refusal(
            f"not in the store: {names}{more}",
            self.asked.path,
            "link it once without --offline, or add the wheels with: vrfstore add",
        )


def _left(linked: Linked, plans: Sequence[EntryPlan]) -> Iterator[str]:
    """Yield what was not linked because of what the user has put there."""
    there = {found.name: found.version for found in linked.by_hand}
    for plan in plans:
        wheel = plan.reference
        if wheel.name in there:
            yield f"{wheel.name} {there[wheel.name]} was installed by hand and stays; {wheel.version} is not linked"
    for path in linked.changes.kept:
        yield f"{path} was changed by hand and stays as it is"


def _pip_that_follows_links(
    base: Interpreter, options: LinkOptions, plans: Sequence[EntryPlan]
) -> Iterator[str]:
    """Yield a warning where ``python -m pip`` in an environment of one's own would be the pip that Debian patches.

    It asks where a link leads before it removes it, and takes what lies elsewhere for somebody else's.
    """
    names = {plan.reference.name for plan in plans}
    if options.isolated or "pip" in names or names <= set(options.materialize):
        return
    places = (place for place in base.site_directories if os.path.isdir(f"{place}/pip"))
    if next(places, "").endswith(_DEBIAN):
        yield (
            f"the pip of {base.real} is Debian's, which leaves links behind when it uninstalls or upgrades: use uv, "
            "install a pip there first, or link with --materialize all"
        )
