"""Reading a requirements file: names, extras, specifiers, markers and hashes; every fault with its line.

The syntax is pip's requirements file format as far as it names packages from an index. Options (``--index-url``
and the like), nested files, editable installs, URLs and paths decide where code comes from, which is not for a
file of requirements to say; each is refused by name. Requirements themselves are parsed by ``packaging``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from packaging.requirements import InvalidRequirement
from packaging.requirements import Requirement as ParsedRequirement
from packaging.utils import canonicalize_name, is_normalized_name

from vrfstore.errors import RequirementsError
from vrfstore.model import Requirement, Requirements

__all__ = ["parse", "read"]

_COMMENT = re.compile(r"(^|\s)#.*$")
_HASH = re.compile(r"\s--hash[=\s]\s*(\S+)")
_OPTION = re.compile(r"(?:^|\s)(--?[A-Za-z][\w-]*)")
_HASH_VALUE = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_VARIABLE = re.compile(r"\$\{[A-Z0-9_]+\}")
"""pip would put the value of an environment variable there."""
_SHOWN = 200
"""Characters of a line that an error repeats."""

_LARGEST = 1 << 20
"""Bytes. A requirements file is read by people; more than this is something else."""


def read(path: str) -> bytes:
    """Return the bytes of a requirements file.

    Raises:
        RequirementsError: It is missing, is not a file, cannot be read, or is larger than 1 MiB.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise RequirementsError(
            "there is no such file", kind="requirements-missing", path=path, hint="check the path"
        ) from error
    except OSError as error:
        raise RequirementsError(
            f"the file cannot be read: {error.strerror}", kind="requirements-unreadable", path=path
        ) from error
    if len(data) > _LARGEST:
        raise RequirementsError(
            "the file has more than 1 MiB; that is no requirements file",
            kind="requirements-too-large",
            path=path,
        )
    return data


def parse(data: bytes, path: str) -> Requirements:
    """Parse the bytes of a requirements file.

    Args:
        data: The file's content: UTF-8, with or without a byte order mark.
        path: What to call it in errors.

    Raises:
        RequirementsError: All faults of the file, the first with its line as ``line``.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise RequirementsError(
            "not UTF-8 text", kind="requirement-encoding", path=path, line=line
        ) from error
    items: dict[str, Requirement] = {}
    faults: list[RequirementsError] = []
    for line, content in _logical_lines(text):
        try:
            item = _parse_line(content, path, line)
        except RequirementsError as error:
            faults.append(error)
        else:
            items.setdefault(item.text, item)
    if faults:
        raise _together(faults)
    return Requirements(path=path, items=tuple(sorted(items.values(), key=lambda item: item.text)))


def _together(faults: list[RequirementsError]) -> RequirementsError:
    """Return one error for all faults, so that a file is mended in one go."""
    first = faults[0]
    if len(faults) == 1:
        return first
    rest = "".join(f"\n{fault.where}: {fault.message}" for fault in faults[1:])
    return RequirementsError(
        first.message + rest, kind=first.kind, path=first.path, line=first.line, hint=first.hint
    )


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
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


def _parse_line(content: str, path: str, line: int) -> Requirement:
    hashes = _HASH.findall(content)
    bare = _HASH.sub("", content).strip()
    option = _OPTION.search(bare)
    if option is not None:
        raise RequirementsError(
            f"the option {option[1]} may not be used here",
            kind="requirement-forbidden",
            path=path,
            line=line,
            hint="name packages only; an index is chosen where vrfstore is called or configured",
        )
    if _is_location(bare):
        raise RequirementsError(
            f"{bare!r} is a URL or a path; only packages of the index may be named",
            kind="requirement-forbidden",
            path=path,
            line=line,
            hint="write the name of the package, as in: pandas>=2",
        )
    parsed = _parse_requirement(bare, path, line)
    if parsed.url is not None:
        raise RequirementsError(
            f"{parsed.name} is asked for by URL; only packages of the index may be named",
            kind="requirement-forbidden",
            path=path,
            line=line,
            hint=f"write: {parsed.name}",
        )
    for value in hashes:
        if not _HASH_VALUE.fullmatch(value):
            raise RequirementsError(
                f"{value!r} is not a hash",
                kind="requirement-hash",
                path=path,
                line=line,
                hint="write --hash=sha256: and 64 hexadecimal digits",
            )
    return Requirement(name=canonicalize_name(parsed.name), text=_canonical(parsed, hashes), line=line)


def _parse_requirement(bare: str, path: str, line: int) -> ParsedRequirement:
    try:
        return _checked(bare)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
    except RecursionError:
        reason = "it is nested too deeply"
    shown = bare if len(bare) <= _SHOWN else f"{bare[:_SHOWN]}…"
    raise RequirementsError(
        f"{shown!r} is not a requirement: {reason}",
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
    if len(bare.splitlines()) != 1 or _VARIABLE.search(bare):
        raise InvalidRequirement("it holds a character or a variable that means something else to pip")
    parsed = ParsedRequirement(bare)
    for name in (parsed.name, *parsed.extras):
        if not is_normalized_name(canonicalize_name(name)):
            raise InvalidRequirement("a name begins and ends with a letter or a digit")
    return parsed


def _is_location(bare: str) -> bool:
    word = bare.split(None, 1)[0]
    return (
        re.match(r"[A-Za-z][A-Za-z0-9+.-]*:(//|[^\s=])", word) is not None
        or word.startswith((".", "/", "~"))
        or word.endswith((".whl", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip"))
        or os.sep in word.split("[")[0].split(";")[0].split("@")[0]
    )


def _canonical(parsed: ParsedRequirement, hashes: list[str]) -> str:
    """Return the one text for all spellings of a requirement."""
    extras = (
        f"[{','.join(sorted(canonicalize_name(extra) for extra in parsed.extras))}]" if parsed.extras else ""
    )
    marker = f" ; {parsed.marker}" if parsed.marker is not None else ""
    options = "".join(f" --hash={value}" for value in sorted(set(hashes)))
    return f"{canonicalize_name(parsed.name)}{extras}{parsed.specifier}{marker}{options}"
