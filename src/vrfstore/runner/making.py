"""The end of a link: from entries that are there to an environment that stands, and what is remembered and said of it.

::

    the whole way (runner.linking) ─┐
    a recipe (runner.recipe) ───────┴▶ Ready ─▶ composites ─▶ environment ─▶ memos, result

Whoever has a recipe comes here with next to nothing loaded, so nothing is imported that only resolving and fetching
need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from vrfstore import fs
from vrfstore.linker.composing import composed
from vrfstore.linker.link import link as link_environment
from vrfstore.linker.plan import Merge
from vrfstore.model import (
    Borrowed,
    Digest,
    EntryPlan,
    EntryReference,
    EnvironmentKey,
    Event,
    Interpreter,
    LinkOptions,
    Watcher,
)
from vrfstore.runner.clock import Clock
from vrfstore.runner.keeping import Keeping
from vrfstore.runner.result import LinkedPackage, LinkResult
from vrfstore.starting import starting
from vrfstore.store import memos
from vrfstore.store.bytecode import is_compiled
from vrfstore.store.leases import Lease
from vrfstore.store.memos import Resolved
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.store import Store
from vrfstore.values import dataclass, field, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    from vrfstore.requirements.fetch import Fetched

__all__ = ["CompileMode", "Made", "Making", "Ready"]

CompileMode: TypeAlias = "Literal['eager', 'background', 'off']"


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
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
class Ready:
    """All that linking needs.

    Attributes:
        resolved: What the request resolves to, and what is to be said of it.
        options: How it is linked, with the names that are meant.
        key: That of the environment.
        working: A lease on all of it.
        plans: The entries.
        fetched: What had to be fetched for it.
        borrowed: What a shared store has lent for it.
    """

    resolved: Resolved
    options: LinkOptions
    key: EnvironmentKey
    working: Lease
    plans: Sequence[EntryPlan]
    fetched: Sequence[Fetched] = ()
    borrowed: Borrowed = field(default_factory=Borrowed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Making:
    """How one call makes an environment of what is ready.

    Attributes:
        store: Where.
        python: The interpreter in the words of whoever asked.
        executable: What that means.
        options: How the environment is linked.
        input_digest: What the memo is called that leads to the environment.
        recipe_digest: What the recipe is called; empty for none.
        compile_mode: When bytecode is compiled.
        clock: Measures the steps.
        watch: Is told what long steps do.
        elsewhere: The interpreter is not here.
    """

    store: Store
    python: str
    executable: str
    options: LinkOptions
    input_digest: str
    recipe_digest: str
    compile_mode: CompileMode
    clock: Clock
    watch: Watcher
    elsewhere: bool = False

    def finish(
        self,
        ready: Ready,
        base: Interpreter,
        stats: Mapping[str, str] | None,
        keeping: Keeping,
        into: Callable[[Ready, Merge], Made] | None = None,
    ) -> LinkResult:
        """Link, with bytecode compiled when that is wanted; remember what led here, and keep the environment from gc.

        Args:
            ready: What to link.
            base: The interpreter.
            stats: Of what has a say, from before it was read; None where nothing may be remembered.
            keeping: What keeps it from gc after that.
            into: Links where the caller wants it, instead of in the store.

        Raises:
            VrfstoreError, OSError: See ``link.link``.
        """
        made = self._make(ready, base, into)
        if made.record is not None and stats is not None:
            self._remember(ready, made.record, stats)
        # Under the lease on all of it, which has been there since before it was looked for.
        directory = ready.key if made.record is None else made.record.directory
        return self._result(made, ready, keeping.keep(self.store, directory))

    def _make(self, ready: Ready, base: Interpreter, into: Callable[[Ready, Merge], Made] | None) -> Made:
        working, plans = ready.working, ready.plans
        with composed(self.store, plans, ready.options) as merged:
            directories = merged.directories(plans)
            compiled = self.elsewhere or all(
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
                made = self._managed(ready, base, merged) if into is None else into(ready, merged)
        if into is not None and made.new and not self.elsewhere:
            with self._starting(f"{made.place}/bin/python"):
                pass
        if missing and self.compile_mode == "background":
            from vrfstore.store.compile_worker import start_worker  # noqa: PLC0415 - once per wheel

            start_worker(self.store, base, directories, lease=working)
        return replace(made, compiled=compiled)

    @contextmanager
    def _starting(self, python: str, called: str = "") -> Iterator[None]:
        """Start the new python once, and measure for how long it has to be waited for after the block."""
        with ExitStack() as stack:
            # Without site: nothing of a wheel is run while it is linked.
            stack.enter_context(starting(python, "", site=False, called=called))
            yield
            with self.clock.step("start"):
                stack.close()

    def _managed(self, ready: Ready, base: Interpreter, merged: Merge) -> Made:
        record, new = link_environment(
            self.store,
            ready.working,
            ready.plans,
            base,
            key=ready.key,
            lock=ready.resolved.lock,
            merged=merged,
            asked=self.python,
            # Where it is started nothing is left if that fails.
            starting=None
            if self.elsewhere
            else partial(self._starting, called=f"{self.executable}, linked into an environment,"),
        )
        return Made(
            place=self.store.layout.of("environments", record.directory),
            wheels=record.wheels,
            lock=record.lock,
            new=new,
            record=record,
        )

    def _remember(self, ready: Ready, record: EnvironmentRecord, stats: Mapping[str, str]) -> None:
        """Write memos, unless what decided has changed meanwhile: then the next call finds out anew."""
        if any(fs.stat_token(path) != token for path, token in stats.items()):
            return
        layout, resolved = self.store.layout, ready.resolved
        if self.recipe_digest:
            wheels = tuple(
                (entry.reference.digest, entry.reference.name, entry.reference.version)
                for entry in ready.plans
            )
            recipe = memos.Recipe(resolved=resolved, wheels=wheels, stats=stats)
            memos.write_recipe(layout, ready.working, self.recipe_digest, recipe)
        # Warnings have to be said every time, which the shortest way does not. Nor may it lead on to what came of this
        # before it was resolved again.
        if resolved.warnings or ready.borrowed.warnings:
            fs.remove_file(layout.of("inputs", f"{self.input_digest}.json"))
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
            until=resolved.until,
            size=sum(plan.unpacked for plan in ready.plans),
            resolved_at=resolved.resolved_at,
        )

    def _result(self, made: Made, ready: Ready, kept: Lease | None) -> LinkResult:
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
            lock=self.store.layout.lock(made.lock),
            packages=tuple(_package(wheel, new, lent) for wheel in made.wheels),
            downloaded=sum(item.size for item in fetched),
            unpacked=unpacked,
            shared=sum(sizes.values()) - unpacked,
            resolved_at=ready.resolved.resolved_at or None,
            user_site=self.options.user_site,
            compiled=made.compiled,
            warnings=(*ready.resolved.warnings, *ready.borrowed.warnings, *odd, *made.warnings),
            timings=self.clock.finish(),
            lease=kept,
            by_hand=made.by_hand,
        )


def _package(wheel: EntryReference, new: frozenset[Digest], lent: frozenset[Digest]) -> LinkedPackage:
    return LinkedPackage(
        wheel.name, wheel.version, wheel.digest, reused=wheel.digest not in new, shared=wheel.digest in lent
    )
