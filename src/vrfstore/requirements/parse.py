"""Reading a requirements file: names, extras, specifiers, markers and hashes; every fault with its line.

The syntax is pip's requirements file format as far as it names packages from an index. Options (``--index-url``
and the like), nested files, editable installs, URLs and paths decide where code comes from, which is not for a
file of requirements to say; each is refused by name. What a trusted file may say beyond that is in ``places``.
Requirements themselves are parsed by ``packaging``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence

from packaging.requirements import InvalidRequirement
from packaging.requirements import Requirement as ParsedRequirement
from packaging.utils import canonicalize_name, is_normalized_name

from vrfstore.errors import RequirementsError
from vrfstore.model import Requirement, Requirements

__all__ = [
    "canonical",
    "check_hashes",
    "decode",
    "find_option",
    "forbidden",
    "holds_variable",
    "is_location",
    "logical_lines",
    "parse",
    "parse_line",
    "parse_requirement",
    "shown",
    "split_hashes",
    "together",
    "unique",
    "untrusted",
]

_COMMENT = re.compile(r"(^|\s)#.*$")
_HASH = re.compile(r"\s--hash[=\s]\s*(\S+)")
_OPTION = re.compile(r"(?:^|\s)(--?[A-Za-z][\w-]*)")
_HASH_VALUE = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_VARIABLE = re.compile(r"\$\{[A-Z0-9_]+\}")
_SHOWN = 200
"""Characters of a line that an error repeats."""
_FAULTS_SHOWN = 100
"""Faults that one error names; whoever has more has given another kind of file."""


def parse(data: bytes, path: str) -> Requirements:
    """Parse the bytes of a requirements file that may only name packages.

    Args:
        data: The file's content: UTF-8, with or without a byte order mark.
        path: What to call it in errors.

    Raises:
        RequirementsError: All faults of the file, the first with its line as ``line``.
    """
    items: list[Requirement] = []
    faults: list[RequirementsError] = []
    for line, content in logical_lines(decode(data, path)):
        try:
            items.append(parse_line(content, path, line))
        except RequirementsError as error:
            faults.append(error)
    if faults:
        raise together(faults)
    return Requirements(path=path, items=unique(items))


def decode(data: bytes, path: str) -> str:
    """Return the text of a file.

    Raises:
        RequirementsError: It is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise RequirementsError(
            "not UTF-8 text", kind="requirement-encoding", path=path, line=line
        ) from error


def unique(items: Iterable[Requirement]) -> tuple[Requirement, ...]:
    """Return requirements sorted by text; of equal ones the first."""
    found: dict[str, Requirement] = {}
    for item in items:
        found.setdefault(item.text, item)
    return tuple(sorted(found.values(), key=lambda item: item.text))


def together(faults: Sequence[RequirementsError]) -> RequirementsError:
    """Return one error for all faults, so that a file is mended in one go."""
    first = faults[0]
    if len(faults) == 1:
        return first
    rest = "".join(f"\n{fault.where}: {fault.message}" for fault in faults[1:_FAULTS_SHOWN])
    more = f"\nand {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
    return RequirementsError(
        first.message + rest + more, kind=first.kind, path=first.path, line=first.line, hint=first.hint
    )


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, content): continuations joined, comments and blank lines dropped, as pip does."""
    parts: list[str] = []
    begin = 1
    # Not str.splitlines, which pip uses: a form feed or U+2028 ends no line that a person sees. One that is inside
    # a requirement is refused for that reason.
    for number, physical in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if not parts:
            begin = number
        is_comment = physical.lstrip().startswith("#")
        if physical.endswith("\\") and not is_comment:
            parts.append(physical[:-1])
            continue
        parts.append(f" {physical}" if is_comment and parts else physical)
        content = _COMMENT.sub("", "".join(parts)).strip()
        parts = []
        if content:
            yield begin, content
    content = _COMMENT.sub("", "".join(parts)).strip()
    if content:
        yield begin, content


def parse_line(content: str, path: str, line: int) -> Requirement:
    """Parse one logical line of a file that may only name packages.

    Raises:
        RequirementsError: It is no requirement, or asks for more.
    """
    bare, hashes = split_hashes(content)
    option = find_option(bare)
    if option is not None:
        raise forbidden(
            f"the option {option} may not be used here",
            path,
            line,
            "name packages only; an index is chosen where vrfstore is called or configured",
        )
    if is_location(bare):
        raise forbidden(
            f"{shown(bare)} is a URL or a path; only packages of the index may be named",
            path,
            line,
            "write the name of the package, as in: pandas>=2",
        )
    return untrusted(parse_requirement(bare, path, line), hashes, path, line)


def untrusted(parsed: ParsedRequirement, hashes: Sequence[str], path: str, line: int | None) -> Requirement:
    """Return a requirement that may only name a package of the index.

    Raises:
        RequirementsError: It names a URL, or a hash is none.
    """
    if parsed.url is not None:
        raise forbidden(
            f"{parsed.name} is asked for by URL; only packages of the index may be named",
            path,
            line,
            f"write: {parsed.name}",
        )
    check_hashes(hashes, path, line)
    return Requirement(name=canonicalize_name(parsed.name), text=canonical(parsed, hashes), line=line)


def forbidden(message: str, path: str, line: int | None, hint: str) -> RequirementsError:
    """Return the error for what a file may not ask for."""
    return RequirementsError(message, kind="requirement-forbidden", path=path, line=line, hint=hint)


def split_hashes(content: str) -> tuple[str, list[str]]:
    """Return a line without its ``--hash`` options, and their values."""
    return _HASH.sub("", content).strip(), _HASH.findall(content)


def find_option(bare: str) -> str | None:
    """Return the first option on a line without hashes, such as ``--pre``."""
    option = _OPTION.search(bare)
    return None if option is None else option[1][:_SHOWN]


def holds_variable(text: str) -> bool:
    """Whether pip would put the value of an environment variable somewhere into a text."""
    return _VARIABLE.search(text) is not None


def check_hashes(hashes: Sequence[str], path: str, line: int | None) -> None:
    """Make sure that all hashes are ones that pip takes too.

    Raises:
        RequirementsError: One is not.
    """
    for value in hashes:
        if not _HASH_VALUE.fullmatch(value):
            raise RequirementsError(
                f"{shown(value)} is not a hash",
                kind="requirement-hash",
                path=path,
                line=line,
                hint="write --hash=sha256: and 64 hexadecimal digits",
            )


def shown(text: str) -> str:
    """Return a text as errors repeat it: quoted, without what cannot be printed, and not for ever."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def parse_requirement(bare: str, path: str, line: int | None, place: str = "") -> ParsedRequirement:
    """Parse a requirement (PEP 508).

    Args:
        bare: Its text, without options.
        path: The file that has it.
        line: Where in that file.
        place: What to begin an error with where that says more than a line, as ``project.dependencies``.

    Raises:
        RequirementsError: It is none.
    """
    try:
        return _checked(bare)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
    except RecursionError:
        reason = "it is nested too deeply"
    raise RequirementsError(
        f"{f'{place}: ' if place else ''}{shown(bare)} is not a requirement: {reason}",
        kind="requirement-syntax",
        path=path,
        line=line,
        hint="write one package a line, as in: pandas>=2,<3",
    )


def _checked(bare: str) -> ParsedRequirement:
    """Parse a requirement, and refuse what packaging takes but pip would take for something else.

    Raises:
        InvalidRequirement: It is none.
    """
    # pip ends a line at some characters that we do not, and fills in variables: not behind our back.
    if len(bare.splitlines()) != 1 or holds_variable(bare):
        raise InvalidRequirement("it holds a character or a variable that means something else to pip")
    parsed = ParsedRequirement(bare)
    for name in (parsed.name, *parsed.extras):
        if not is_normalized_name(canonicalize_name(name)):
            raise InvalidRequirement("a name begins and ends with a letter or a digit")
    return parsed


def is_location(bare: str) -> bool:
    """Whether a line names a place, rather than a package with or without one."""
    word = bare.split(None, 1)[0]
    return (
        re.match(r"[A-Za-z][A-Za-z0-9+.-]*:(//|[^\s=])", word) is not None
        or word.startswith((".", "/", "~"))
        or word.endswith((".whl", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip"))
        or os.sep in word.split("[")[0].split(";")[0].split("@")[0]
    )


def canonical(parsed: ParsedRequirement, hashes: Sequence[str], url: str = "") -> str:
    """Return the one text for all spellings of a requirement.

    Args:
        parsed: The requirement.
        hashes: The values of its ``--hash`` options.
        url: The one place where it is to come from, with its hash, instead of versions of an index.
    """
    extras = (
        f"[{','.join(sorted(canonicalize_name(extra) for extra in parsed.extras))}]" if parsed.extras else ""
    )
    wanted = f" @ {url}" if url else str(parsed.specifier)
    marker = f" ; {parsed.marker}" if parsed.marker is not None else ""
    options = "".join(f" --hash={value}" for value in sorted(set(hashes)))
    return f"{canonicalize_name(parsed.name)}{extras}{wanted}{marker}{options}"
