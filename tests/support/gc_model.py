"""What a collection has to leave, and what it has to take: the model that the real store is held against.

Time is whole days, so that nothing is ever just at a limit: a thing of ``n`` days is always a moment older than that.
Names are those of the store: ``environments/<directory>``, ``entries/<directory>``, ``locks/<digest>``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Environment", "Model", "Rules"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """A policy, in days; with a budget, what was not used within the grace may go for it."""

    max_age: int
    grace: int
    budget: bool = False

    @property
    def unused(self) -> int:
        """How long an environment has to be unused to be in danger."""
        return min(self.max_age, self.grace) if self.budget else self.max_age


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A managed environment: its key, the entries and the lock that it needs, and the day of its last use."""

    key: str
    needs: frozenset[str]
    used: int


@dataclass
class Model:
    """All that counts. Entries and locks are as old as the store, whatever the clock says: made on day 0."""

    today: int = 0
    published: frozenset[str] = frozenset()
    environments: dict[str, Environment] = field(default_factory=dict)
    externals: dict[str, frozenset[str]] = field(default_factory=dict)
    """What each environment of a user's needs that is there."""
    registered: frozenset[str] = frozenset()
    """What is registered for others, gone or half made: nobody needs it, but absence is not deletion."""
    pins: dict[str, str] = field(default_factory=dict)
    leases: dict[str, str] = field(default_factory=dict)
    """The key of the environment that each protects, in all its generations."""
    processes: dict[int, str] = field(default_factory=dict)
    unread: frozenset[str] | None = None
    """What was published when a root was written that nobody can read: it may refer to any of it."""

    def live(self, rules: Rules) -> frozenset[str]:
        """What a collection has to leave."""
        held = {*self.pins.values(), *self.processes.values(), *(self.unread or ())}
        held |= {name for name, found in self.environments.items() if self._in_use(found, rules)}
        needed = {name: found.needs for name, found in self.environments.items()}
        for name in list(held):
            held |= needed.get(name, frozenset())
        held = held.union(*self.externals.values())
        young = {name for name in self.published - needed.keys() if self.today < rules.grace}
        return frozenset((held | young) & self.published)

    def _in_use(self, found: Environment, rules: Rules) -> bool:
        if self.unread is not None or found.key in self.leases.values():
            return True
        return self.today - found.used < rules.unused

    def dead(self, rules: Rules) -> frozenset[str]:
        """What a collection that nothing stops has to take."""
        memos_stay = self.today < rules.max_age
        remembered = {name for name in self.published if memos_stay and name.startswith("locks/")}
        return self.published - self.live(rules) - self.registered - remembered
