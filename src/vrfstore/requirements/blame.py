"""Whom a demand comes from: the requirement that is to blame for it, and how its author would name it."""

from __future__ import annotations

import re

from vrfstore.model import Interpreter, Requirement, Requirements
from vrfstore.requirements.failures import Demand, same_specifier
from vrfstore.values import dataclass

__all__ = ["Asked", "brought"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What was asked for, for whom, and of whom.

    Attributes:
        requirements: What the author wrote. A constraint without path and line keeps a version of the base.
        interpreter: For whom.
        resolver: Who was to resolve it: ``pip`` or ``uv``.
    """

    requirements: Requirements
    interpreter: Interpreter
    resolver: str

    def item(self, demand: Demand) -> Requirement | None:
        """Return the requirement that a demand comes from."""
        root = demand.chain[0] if demand.chain else demand.project
        lists = [self.requirements.items, self.requirements.constraints]
        if demand.constraint:
            lists.reverse()
        items = [item for listed in lists for item in listed if item.name == root]
        if not demand.chain:
            for item in items:
                if same_specifier(specifier(item), demand.specifier):
                    return item
        return items[0] if items else None

    def place(self, item: Requirement | None) -> tuple[str, int | None]:
        """Return path and line of a requirement; of none, the path of all."""
        if item is None:
            return self.requirements.path, None
        return item.path or self.requirements.path, item.line

    def order(self, demand: Demand) -> tuple[bool, str, int, str]:
        """Return what sorts demands as the author reads them: the file that was given first, then by line."""
        item = self.item(demand)
        path, line = self.place(item)
        return path != self.requirements.path, path, line or 0, demand.specifier

    def wanted(self, demand: Demand) -> str:
        """Return what is wanted; as the author of the file wrote it, where they want it."""
        item = self.item(demand)
        if not demand.chain and item is not None:
            return f"{demand.project}{specifier(item)}"
        return f"{demand.project}{demand.specifier}"

    def side(self, demand: Demand) -> str:
        """Say who wants what, and by which line."""
        wanted, line = self.wanted(demand), self._line(self.item(demand))
        if not demand.chain:
            who = "a constraint" if self._limits_only(demand) else "the file"
            return f"{who} asks for {wanted}{line}"
        needer = f"{demand.chain[-1]} {demand.version}".strip()
        if len(demand.chain) == 1:
            return f"{needer}, which the file asks for{line}, needs {wanted}"
        through = f" through {' and '.join(demand.chain[1:-1])}" if demand.chain[1:-1] else ""
        return f"{needer}, which {demand.chain[0]}{line} brings{through}, needs {wanted}"

    def of_base(self, demand: Demand) -> bool:
        """Tell whether a demand only keeps what the base has."""
        return any(
            item.name == demand.project
            and item.line is None
            and not item.path
            and same_specifier(specifier(item), demand.specifier)
            for item in self.requirements.constraints
        )

    def _limits_only(self, demand: Demand) -> bool:
        return demand.constraint or self.item(demand) in self.requirements.constraints

    def _line(self, item: Requirement | None) -> str:
        """Return `` (line 3)``, with the file where it is not the one that was given."""
        if item is None or (item.line is None and not item.path):
            return ""
        line = "" if item.line is None else f"line {item.line}"
        return f" ({' of '.join(part for part in (line, item.path) if part)})"


def specifier(item: Requirement) -> str:
    """Return which versions a requirement asks for, as it is written."""
    text = re.split(r" ;| --hash=| @ ", item.text, maxsplit=1)[0]
    return re.sub(r"^[\w.-]+(\[[^\]]*\])?", "", text).strip()


def brought(demand: Demand) -> str:
    """Return ``, which NAME needs,`` for what the file does not itself ask for."""
    if not demand.chain:
        return ""
    root = f" (for {demand.chain[0]})" if len(demand.chain) > 1 else ""
    return f", which {demand.chain[-1]} needs{root},"
