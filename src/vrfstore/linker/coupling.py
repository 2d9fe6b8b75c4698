"""Deciding which entries of an environment have to be merged, because their shared libraries find each other by path.

Pure, and asked on every warm link, where nearly always nobody looks for anything beyond its own wheel. What a wheel
looks for, and what it has, was decided once: `store.libraries`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from vrfstore.model import EntryPlan
from vrfstore.values import dataclass

__all__ = ["Coupling", "couple"]


@dataclass(frozen=True, slots=True)
class Coupling:
    """What folding alone would break, and what is done instead.

    Attributes:
        groups: The entries of each composite, two or more, by name.
        unfolded: The names of the distributions whose directories have to be real in the environment: from there
            ``..`` leads to its other parts. A composite would not help them, or cannot be made.
    """

    groups: tuple[tuple[EntryPlan, ...], ...]
    unfolded: frozenset[str]


_NOTHING = Coupling((), frozenset())


def couple(plans: Sequence[EntryPlan], *, apart: frozenset[str] = frozenset()) -> Coupling:
    """Decide what is merged and what is unfolded.

    Two entries are coupled if one has a library in the very directory where the other needs it, or has any in a
    directory that the other escapes to. What is coupled, over however many steps, is one group. Where a library is
    in another scheme than site-packages (its directory begins with ``..``), an entry has it elsewhere than an
    environment, so that merging is of no use: whoever looks for it is unfolded, and all of its group.

    Args:
        plans: The entries of the environment, in any order, of different distributions.
        apart: The names of distributions that are copied into the environment and so cannot be merged: the others of
            their group are unfolded.
    """
    seekers = [number for number, plan in enumerate(plans) if plan.libraries.needs or plan.libraries.escapes]
    if not seekers:
        return _NOTHING
    providers: dict[str, list[int]] = {}
    for number, plan in enumerate(plans):
        for directory in plan.libraries.shipped:
            providers.setdefault(directory, []).append(number)
    parents = list(range(len(plans)))
    coupled: set[int] = set()
    outside: set[int] = set()
    for number in seekers:
        for provider, directory in _met(number, plans, providers):
            coupled.add(number)
            if directory.startswith(".."):
                outside.add(number)
            else:
                coupled.add(provider)
                parents[_leader(parents, number)] = _leader(parents, provider)
    groups: dict[int, list[int]] = {}
    for number in coupled:
        groups.setdefault(_leader(parents, number), []).append(number)
    return _coupling(plans, groups.values(), outside, apart)


def _met(
    number: int, plans: Sequence[EntryPlan], providers: dict[str, list[int]]
) -> Iterator[tuple[int, str]]:
    """Yield who has what an entry looks for, and where; itself only outside site-packages."""
    libraries = plans[number].libraries
    for directory in libraries.escapes:
        for provider in providers.get(directory, ()):
            if provider != number:
                yield provider, directory
    wanted: dict[str, set[str]] = {}
    for directory, name in libraries.needs:
        if directory in providers:
            wanted.setdefault(directory, set()).add(name)
    for directory, names in wanted.items():
        for provider in providers[directory]:
            merging = not directory.startswith("..")
            if (provider != number or not merging) and not names.isdisjoint(
                plans[provider].libraries.shipped[directory]
            ):
                yield provider, directory


def _leader(parents: list[int], number: int) -> int:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = parents[number]
    return number


def _coupling(
    plans: Sequence[EntryPlan], groups: Iterable[list[int]], outside: set[int], apart: frozenset[str]
) -> Coupling:
    merged: list[tuple[EntryPlan, ...]] = []
    unfolded: set[str] = set()
    for numbers in groups:
        members = sorted((plans[number] for number in numbers), key=_order)
        names = {member.reference.name for member in members}
        if not outside.isdisjoint(numbers) or (len(members) > 1 and not apart.isdisjoint(names)):
            unfolded |= names
        elif len(members) > 1:
            merged.append(tuple(members))
    return Coupling(
        tuple(sorted(merged, key=lambda members: _order(members[0]))), frozenset(unfolded - apart)
    )


def _order(plan: EntryPlan) -> tuple[str, str]:
    return plan.reference.name, plan.identity
