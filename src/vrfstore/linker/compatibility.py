"""Whether wheels fit an interpreter: their tags (PEP 425) and their Requires-Python.

Decided from the description of the interpreter alone, and so for one that is not on this machine too; what fits is
``vrfstore.tags``'s to say. Wheels that are ``py3-none-any`` are let through before that, because computing tags takes
several times as long as linking.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from vrfstore.errors import WheelError
from vrfstore.model import EntryPlan, Interpreter
from vrfstore.tags import allows_python, supported_tags

__all__ = ["check_compatible"]

_ANYWHERE = "py3-none-any"

_SHOWN = 200
"""Characters of a Requires-Python in a message; it may be as long as whoever wrote it liked."""


def check_compatible(plans: Sequence[EntryPlan], interpreter: Interpreter) -> None:
    """Make sure that every wheel can be used by an interpreter.

    Args:
        plans: Entries of wheels, in any order; composites are not looked at.
        interpreter: Whom for; need not be on this machine.

    Raises:
        WheelError: Some cannot, all of which are named: for none of their tags (``wheel-incompatible``), else
            because of Requires-Python (``requires-python``).
    """
    plans = [plan for plan in plans if not plan.members]
    bound = [plan for plan in plans if _ANYWHERE not in plan.tags]
    supported = supported_tags(interpreter) if bound else frozenset()
    foreign = [plan for plan in bound if supported.isdisjoint(plan.tags)]
    barred = [
        plan
        for plan in plans
        if plan.requires_python and not allows_python(plan.requires_python, interpreter.version)
    ]
    if not foreign and not barred:
        return
    reasons = [f"{_name(plan)} is for {_compressed(plan.tags)}" for plan in _ordered(foreign)]
    reasons += [
        f"{_name(plan)} requires Python {_clipped(plan.requires_python)}" for plan in _ordered(barred)
    ]
    raise WheelError(
        f"not every wheel fits {_described(interpreter)}: {'; '.join(reasons)}",
        kind="wheel-incompatible" if foreign else "requires-python",
        hint="link for an interpreter that they are made for, or resolve again for this one",
    )


def _ordered(plans: Sequence[EntryPlan]) -> list[EntryPlan]:
    return sorted(plans, key=_name)


def _name(plan: EntryPlan) -> str:
    return f"{plan.reference.name} {plan.reference.version}"


def _described(interpreter: Interpreter) -> str:
    libc = f" with {interpreter.libc}" if interpreter.libc else ""
    python = f"{interpreter.version}{' free-threaded' if 't' in interpreter.abi_flags else ''}"
    return f"Python {python} on {interpreter.platform}{libc}"


def _clipped(requires: str | None) -> str:
    shown = "".join(filter(str.isprintable, requires or ""))
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


def _compressed(tags: Sequence[str]) -> str:
    """Return tags as the name of a wheel has them (PEP 425, compressed), else one after another."""
    columns = [sorted(set(column)) for column in zip(*(tag.split("-") for tag in tags), strict=False)]
    if {"-".join(row) for row in itertools.product(*columns)} == set(tags):
        return "-".join(".".join(column) for column in columns)
    return ", ".join(sorted(tags)) or "nothing"
