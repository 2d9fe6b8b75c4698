"""The whole way of a link: from what is asked to an environment that stands, where no memo leads there at once.

::

    request ─▶ lock ─fetch what is missing─▶ entries ─▶ composites ─▶ environment ─▶ memo
       see runner.locking
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal

from vrfstore import fs
from vrfstore import interpreter as probing
from vrfstore.errors import NotPermittedError, WheelError
from vrfstore.linker.compatibility import check_compatible
from vrfstore.linker.composing import composed
from vrfstore.linker.link import environment_key
from vrfstore.linker.link import link as link_environment
from vrfstore.linker.plan import Merge, settled
from vrfstore.model import (
    Borrowed,
    Digest,
    EntryPlan,
    EntryReference,
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
from vrfstore.runner.locking import Locked, Locker
from vrfstore.runner.result import LinkedPackage, LinkResult
from vrfstore.store import interpreters, leases, memos
from vrfstore.store.building import Building
from vrfstore.store.bytecode import is_compiled
from vrfstore.store.leases import Lease
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.store import Store
from vrfstore.values import dataclass, replace

if TYPE_CHECKING:
    from vrfstore.linker.into import Linked

__all__ = ["CompileMode", "Linking"]

CompileMode = Literal["eager", "background", "off"]

_SHOWN = 5
"""Names of wheels that an error repeats."""

_DEBIAN = "/lib/python3/dist-packages"
"""Where Debian puts packages of its own, and of all its Pythons."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Made:
    """An environment that stands.

    Attributes:
        place: Its absolute path.
        wheels: What it links to, sorted by name.
        lock: The digest of its lock.
        new: Whether anything had to be done.
        compiled: Whether all bytecode is there.
        record: Of a managed one.
        by_hand: See ``LinkResult``.
        warnings: What the caller should know.
    """

    place: str
    wheels: tuple[EntryReference, ...]
    lock: str
    new: bool
    compiled: bool = True
    record: EnvironmentRecord | None = None
    by_hand: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ready:
    """All that linking needs.

    Attributes:
        locked: The lock, and what is to be said of it.
        options: How it is linked, with the names that are meant.
        key: That of the environment.
        working: A lease on all of it.
        plans: The entries.
        fetched: What had to be fetched for it.
        borrowed: What a shared store has lent for it.
    """

    locked: Locked
    options: LinkOptions
    key: EnvironmentKey
    working: Lease
    plans: Sequence[EntryPlan]
    fetched: Sequence[fetch.Fetched]
    borrowed: Borrowed


@dataclass(frozen=True, kw_only=True, slots=True)
class Linking:
    """The whole way, for one call.

    Attributes:
        store: Where.
        asked: What is asked for.
        python: The interpreter in the words of whoever asked.
        executable: What that means.
        options: How the environment is linked.
        policy: Where packages come from, and when they are looked for again.
        place: The directory of the caller's where it goes; None for the store.
        force: Replace what is in the way there.
        input_digest: What the memo is called.
        stats: Of the files that had a say so far, as they were before they were read.
        clock: Measures the steps.
        budget: How much it may take.
        compile_mode: When bytecode is compiled.
        watch: Is told what long steps do.
        lenient: What is to be materialized need not be there.
        target: The interpreter, if it is not here.
        shared: The shared store, as ``sharing.asked`` gives it.
    """

    store: Store
    asked: Requirements
    python: str
    executable: str
    options: LinkOptions
    policy: Policy
    place: str | None
    force: bool
    input_digest: str
    stats: Mapping[str, str]
    clock: Clock
    budget: Budget
    compile_mode: CompileMode
    watch: Watcher
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
            telling = replace(self, watch=both(self.watch, building))
            return telling._linked(keeping, session, building)  # noqa: SLF001 - itself

    def _linked(self, keeping: Keeping, session: Lease, building: Building) -> LinkResult:
        """Do as ``run``, and tell others."""
        layout = self.store.layout
        with self.clock.step("probe"):
            base, probed = (
                (self.target, None)
                if self.target is not None
                else interpreters.known(layout, session, self.executable)
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
            made = self._make(ready, base)
            # Warnings have to be said every time.
            if made.record is not None and not ready.locked.warnings and not ready.borrowed.warnings:
                self._remember(ready, made.record, stats)
            # Under the lease on all of it, which has been there since before it was looked for.
            directory = ready.key if made.record is None else made.record.directory
            kept = keeping.keep(self.store, directory)
        return self._result(made, ready, kept)

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

    def _make(self, ready: _Ready, base: Interpreter) -> _Made:
        """Link, with bytecode compiled when that is wanted."""
        working, plans, lock = ready.working, ready.plans, ready.locked.digest
        with composed(self.store, plans, ready.options) as merged:
            directories = merged.directories(plans)
            compiled = self.target is not None or all(
                is_compiled(self.store.layout, directory, base) for directory in directories
            )
            missing = self.compile_mode != "off" and not compiled
            if missing and self.compile_mode == "eager":
                from vrfstore.store.compiling import compile_entries  # noqa: PLC0415 - once per wheel

                with self.clock.step("compile"):
                    compile_entries(self.store, base, directories, lease=working, watch=self.watch)
                compiled = True
            self.watch(Event(kind="linking", total=len(plans)))
            with self.clock.step("link"):
                made = (
                    self._managed(working, plans, base, merged, ready.key, lock)
                    if self.place is None
                    else self._external(working, plans, base, merged.options, self.place, lock)
                )
        if made.new and self.target is None:
            with self.clock.step("start"):
                # Without site: nothing of a wheel is run while it is linked.
                probing.start(f"{made.place}/bin/python", "", site=False)
        if missing and self.compile_mode == "background":
            from vrfstore.store.compiling import start_worker  # noqa: PLC0415 - once per wheel

            start_worker(self.store, base, directories, lease=working)
        return replace(made, compiled=compiled)

    def _managed(
        self,
        working: Lease,
        plans: Sequence[EntryPlan],
        base: Interpreter,
        merged: Merge,
        key: EnvironmentKey,
        lock: str,
    ) -> _Made:
        record, new = link_environment(
            self.store, working, plans, base, key=key, lock=lock, merged=merged, asked=self.python
        )
        return _Made(
            place=self.store.layout.of("environments", record.directory),
            wheels=record.wheels,
            lock=record.lock,
            new=new,
            record=record,
        )

    def _external(
        self,
        working: Lease,
        plans: Sequence[EntryPlan],
        base: Interpreter,
        options: LinkOptions,
        place: str,
        lock: str,
    ) -> _Made:
        from vrfstore.linker.into import Asked, link_into  # noqa: PLC0415 - 20 ms that most links do not pay

        asked = Asked(
            requirements=self._recorded(plans),
            path=os.path.abspath(self.asked.path),
            python=self.python,
            lock=lock,
            options=options,
        )
        linked = link_into(self.store, working, plans, base, place, asked, force=self.force)
        return _Made(
            place=place,
            wheels=linked.record.wheels,
            lock=lock,
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

    def _fitting(self, stack: ExitStack, locker: Locker) -> _Ready:
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

    def _ready(self, stack: ExitStack, locker: Locker, *, again: bool = False) -> _Ready:
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
                leases.take(self.store.layout, environment=key, digests=digests, lock=locked.digest)
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
        return _Ready(
            locked=locked,
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

    def _remember(self, ready: _Ready, record: EnvironmentRecord, stats: dict[str, str] | None) -> None:
        """Write the input memo, unless what decided has changed meanwhile: then the next call finds out anew."""
        layout = self.store.layout
        if stats is None or any(fs.stat_token(path) != token for path, token in stats.items()):
            return
        root = layout.of("environments", record.directory)
        memos.write_input(
            layout,
            ready.working,
            self.input_digest,
            environment=record.directory,
            lock=record.lock,
            # The store's own marker too, relative to the environment: a hit must not miss a change of format.
            own={path: fs.stat_token(f"{root}/{path}") for path in (*record.own, "../../store.json")},
            # A wheel that is not there any more, or not as it was, is no hit.
            stats={**stats, **ready.borrowed.tokens},
            until=ready.locked.until,
            size=sum(plan.unpacked for plan in ready.plans),
            resolved_at=ready.locked.resolved_at,
        )

    def _result(self, made: _Made, ready: _Ready, kept: Lease | None) -> LinkResult:
        fetched = ready.fetched
        new = frozenset(item.plan.reference.digest for item in fetched if item.size)
        # Said once, when they are unpacked: unlike those of the request they say nothing of the environment.
        odd = (
            f"{item.plan.reference.name} {item.plan.reference.version}: {warning}"
            for item in fetched
            for warning in item.warnings
        )
        lent = frozenset(ready.borrowed.plans)
        sizes = {plan.reference.digest: plan.unpacked for plan in ready.plans}
        unpacked = sum(size for digest, size in sizes.items() if digest in new)
        return LinkResult(
            status="built" if new else "linked" if made.new else "hit",
            python=f"{made.place}/bin/python",
            environment=made.place,
            lock=locks.lock_path(self.store.layout, made.lock),
            packages=tuple(_package(wheel, new, lent) for wheel in made.wheels),
            downloaded=sum(item.size for item in fetched),
            unpacked=unpacked,
            shared=sum(sizes.values()) - unpacked,
            resolved_at=ready.locked.resolved_at or None,
            user_site=self.options.user_site,
            compiled=made.compiled,
            warnings=(*ready.locked.warnings, *ready.borrowed.warnings, *odd, *made.warnings),
            timings=self.clock.finish(),
            lease=kept,
            by_hand=made.by_hand,
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


def _package(wheel: EntryReference, new: frozenset[Digest], lent: frozenset[Digest]) -> LinkedPackage:
    return LinkedPackage(
        wheel.name, wheel.version, wheel.digest, reused=wheel.digest not in new, shared=wheel.digest in lent
    )
