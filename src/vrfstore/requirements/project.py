"""What a ``pyproject.toml`` asks for: dependencies and extras (PEP 621), and dependency groups (PEP 735).

Only what stands there is read; nothing is built to find out more. The project's own name among its extras means these
extras of it, as when it is installed. Groups are followed here rather than by ``packaging.dependency_groups``, which
repeats a group for every way that leads to it: thirty lines of TOML would be a thousand million requirements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from packaging.markers import Marker
from packaging.utils import canonicalize_name

from vrfstore.errors import RequirementsError
from vrfstore.requirements import toml
from vrfstore.requirements.declared import Declarations, both
from vrfstore.requirements.gathering import Gathering
from vrfstore.requirements.parse import decode, shown
from vrfstore.values import dataclass

__all__ = ["read_project"]

_KIND = "project-invalid"
_DEEPEST = 50
"""Groups that include one another."""
_MOST = 200
"""Ways in which extras of a project name its extras; each may have another marker."""


def read_project(
    gathering: Gathering,
    data: bytes,
    path: str,
    *,
    extras: Sequence[str],
    groups: Sequence[str],
    trusted: bool,
) -> None:
    """Read a ``pyproject.toml``.

    Args:
        gathering: Where requirements and faults go, and which extras and groups there are.
        data: The file's content.
        path: What to call it in errors.
        extras: Which extras are wanted, normalised; what the project does not have is left to others.
        groups: Which dependency groups, in the same way.
        trusted: Whether it may say where code comes from.

    Raises:
        RequirementsError: It cannot be read, asks for nothing, or only says what it asks for when it is built.
    """
    text = decode(data, path)
    document = toml.loads(text, path, _KIND)
    declarations = Declarations(gathering=gathering, path=path, trusted=trusted, lines=toml.lines_of(text))
    project = toml.table(document, "project", path, _KIND)
    tables = _normalised(toml.table(document, "dependency-groups", path, _KIND) or {}, "group", path)
    gathering.groups |= tables.keys()
    if project is None and not groups:
        raise RequirementsError(
            "there is no [project] table, so nothing is asked for",
            kind="project-missing",
            path=path,
            hint="write one with name, version and dependencies, or say which of its dependency groups is wanted",
        )
    if project is not None:
        _Project.of(declarations, project, extras).read(extras)
    _Groups(declarations, tables, set()).read(groups)


def _normalised(table: dict[str, Any], what: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        normalised = canonicalize_name(name)
        if normalised in found:
            raise RequirementsError(
                f"the {what} {shown(name)} is there twice, as {shown(normalised)}", kind=_KIND, path=path
            )
        found[normalised] = value
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Project:
    """The ``[project]`` table.

    Attributes:
        declarations: Where its requirements go.
        name: Its own name, normalised, or nothing.
        dependencies: What it needs.
        extras: What each extra needs besides, as it is written.
    """

    declarations: Declarations
    name: str
    dependencies: list[str]
    extras: dict[str, Any]

    @classmethod
    def of(cls, declarations: Declarations, table: dict[str, Any], wanted: Sequence[str]) -> _Project:
        """Take the table apart.

        Raises:
            RequirementsError: It is not as PEP 621 has it, or dynamic.
        """
        path = declarations.path
        dynamic = toml.texts(table.get("dynamic", []), "project.dynamic", path, _KIND)
        for key in ("dependencies", *(["optional-dependencies"] if wanted else [])):
            if key in dynamic:
                raise RequirementsError(
                    f"the {key} of this project are dynamic: they are known only once it is built",
                    kind="project-dynamic",
                    path=path,
                    hint="write them into the [project] table, or into a file of requirements",
                )
        name = table.get("name")
        optional = toml.table(table, "optional-dependencies", path, _KIND) or {}
        extras = _normalised(optional, "extra", path)
        declarations.gathering.extras |= extras.keys()
        declarations.requires_python(table.get("requires-python"), "project.requires-python", _KIND)
        return cls(
            declarations=declarations,
            name=canonicalize_name(name) if isinstance(name, str) else "",
            dependencies=toml.texts(table.get("dependencies", []), "project.dependencies", path, _KIND),
            extras=extras,
        )

    def read(self, wanted: Sequence[str]) -> None:
        """Take the dependencies, and those of the extras that are wanted.

        Raises:
            RequirementsError: An extra is not as PEP 621 has it, or extras lead to one another without end.
        """
        pending: list[tuple[str, Marker | None]] = [("", None), *((extra, None) for extra in wanted)]
        seen: set[tuple[str, str]] = set()
        while pending:
            extra, condition = pending.pop()
            known = (extra, str(condition or ""))
            if known in seen or (extra and extra not in self.extras):
                continue
            seen.add(known)
            if len(seen) > _MOST:
                raise RequirementsError(
                    f"extras lead to one another in more than {_MOST} ways",
                    kind=_KIND,
                    path=self.declarations.path,
                )
            pending += self._array(extra, condition)

    def _array(self, extra: str, condition: Marker | None) -> list[tuple[str, Marker | None]]:
        """Take the requirements of one array; return the extras of the project itself that are among them."""
        declarations = self.declarations
        place = f"project.optional-dependencies.{extra}" if extra else "project.dependencies"
        texts = (
            toml.texts(self.extras[extra], place, declarations.path, _KIND) if extra else self.dependencies
        )
        further: list[tuple[str, Marker | None]] = []
        for parsed, line in declarations.parse(texts, place):
            if parsed.url is None and canonicalize_name(parsed.name) == self.name:
                both_hold = both(condition, parsed.marker)
                further += [(canonicalize_name(each), both_hold) for each in sorted(parsed.extras)]
            else:
                declarations.add(parsed, line, condition)
        return further


@dataclass(frozen=True, slots=True)
class _Groups:
    """The ``[dependency-groups]`` table, and which of them have been read."""

    declarations: Declarations
    tables: dict[str, Any]
    seen: set[str]

    def read(self, wanted: Sequence[str]) -> None:
        """Take the requirements of groups, each once.

        Raises:
            RequirementsError: A group is not as PEP 735 has it.
        """
        for group in wanted:
            if group in self.tables:
                self._group(group, ())

    def _group(self, group: str, way: tuple[str, ...]) -> None:
        place = f"dependency-groups.{group}"
        if group in way or len(way) >= _DEEPEST:
            raise self._invalid(f"dependency groups include one another: {' > '.join((*way, group)[-4:])}")
        if group in self.seen:
            return
        self.seen.add(group)
        items = self.tables[group]
        if not isinstance(items, list):
            raise self._invalid(f"{place} is not an array")
        texts = [item for item in items if isinstance(item, str)]
        for parsed, line in self.declarations.parse(texts, place):
            self.declarations.add(parsed, line)
        for item in items:
            if not isinstance(item, str):
                self._group(self._included(item, place), (*way, group))

    def _included(self, item: object, place: str) -> str:
        name = item.get("include-group") if isinstance(item, dict) and len(item) == 1 else None
        if not isinstance(name, str):
            raise self._invalid(f"{place} has something that is neither a text nor include-group")
        group = canonicalize_name(name)
        if group not in self.tables:
            raise self._invalid(f"{place} includes the group {shown(group)}, which is not there")
        return group

    def _invalid(self, message: str) -> RequirementsError:
        return RequirementsError(message, kind=_KIND, path=self.declarations.path)
