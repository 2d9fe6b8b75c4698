"""Requirements that a TOML document has as texts in arrays: those of projects, dependency groups and scripts.

Each is one requirement (PEP 508) without options; a trusted file's may have the URL of a wheel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from packaging.markers import Marker
from packaging.requirements import Requirement as ParsedRequirement

from vrfstore.errors import RequirementsError
from vrfstore.requirements.gathering import Gathering
from vrfstore.requirements.parse import parse_requirement, shown, untrusted
from vrfstore.requirements.places import check_urls, trusted
from vrfstore.values import dataclass

__all__ = ["Declarations", "both"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Declarations:
    """One file whose requirements are read.

    Attributes:
        gathering: Where requirements and faults go.
        path: What to call the file in errors.
        trusted: Whether it may say where code comes from.
        lines: Where each text of the file stands, as far as that is known.
    """

    gathering: Gathering
    path: str
    trusted: bool
    lines: Mapping[str, int]

    def parse(self, texts: Sequence[str], place: str) -> list[tuple[ParsedRequirement, int | None]]:
        """Parse requirements, and return each with its line as far as that is known; what is none is a fault.

        Args:
            texts: The requirements.
            place: What to call the array in errors, as ``project.dependencies``.
        """
        found = []
        for text in texts:
            line = self.lines.get(text)
            try:
                if self.trusted:
                    check_urls(text, self.path, line)
                found.append((parse_requirement(text.strip(), self.path, line, place), line))
            except RequirementsError as error:
                self.gathering.faults.append(error)
        return found

    def add(self, parsed: ParsedRequirement, line: int | None, condition: Marker | None = None) -> None:
        """Take a requirement, or note why not.

        Args:
            parsed: The requirement.
            line: Where it is.
            condition: What else has to hold for it to be wanted.
        """
        if condition is not None:
            parsed.marker = both(condition, parsed.marker)
        try:
            item = (trusted if self.trusted else untrusted)(parsed, (), self.path, line)
            self.gathering.add(item, self.path)
        except RequirementsError as error:
            self.gathering.faults.append(error)

    def requires_python(self, value: object, place: str, kind: str) -> None:
        """Take the specifier that says which Pythons the file is for; None where it says nothing."""
        from packaging.specifiers import InvalidSpecifier, SpecifierSet  # noqa: PLC0415 - few files have one

        if value is None:
            return
        try:
            specifier = str(SpecifierSet(value if isinstance(value, str) else "not a text"))
        except InvalidSpecifier:
            self.gathering.faults.append(
                RequirementsError(
                    f"{place} is {shown(str(value))}, which says nothing of versions",
                    kind=kind,
                    path=self.path,
                    line=self.lines.get(str(value)),
                    hint="write it as in: >=3.11",
                )
            )
        else:
            if specifier:
                self.gathering.requires_python.add((self.path, specifier))


def both(one: Marker | None, other: Marker | None) -> Marker | None:
    """Return the marker that holds where both do."""
    if one is None or other is None:
        return one or other
    return Marker(f"({one}) and ({other})")
