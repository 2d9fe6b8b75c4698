"""What a trusted requirements file may say beyond names: other files, and wheels by URL or path.

Pure: each line is judged by itself, and what it leads to is returned, not opened; ``gathering`` and ``texts`` do that.
Whatever is not a wheel stays refused, because nothing is built here, and so does a wheel that comes over the network
without its SHA-256, because nobody could tell whether it is still the same. No message repeats a URL, which may have a
password in it.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from urllib.parse import SplitResult, quote, unquote, unquote_to_bytes, urlsplit, urlunsplit

from packaging.requirements import Requirement as ParsedRequirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from vrfstore.errors import RequirementsError
from vrfstore.model import Requirement
from vrfstore.requirements.parse import (
    canonical,
    check_hashes,
    find_option,
    forbidden,
    holds_variable,
    is_location,
    parse_requirement,
    shown,
    split_hashes,
)
from vrfstore.values import dataclass

__all__ = [
    "Include",
    "LocalWheel",
    "beside",
    "check_urls",
    "file_url",
    "trusted",
    "trusted_line",
    "wheel_name",
]

_INCLUDE = re.compile(r"(?:(-r|-c)\s*|(--requirement|--constraint)(?:\s*=\s*|\s+|$))(.*)")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_WHEEL_PATH = re.compile(r"(?P<place>.+?\.whl)\s*(?P<extras>\[[^\]]*\])?\s*(?:;\s*(?P<marker>.+))?")
_WHEEL_URL = re.compile(r"(?P<place>\S+)(?P<extras>)(?:\s+;\s*(?P<marker>.+))?")
_WHEEL_NAME = re.compile(r"[A-Za-z0-9._+!-]+\.whl")
_SOURCES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar", ".zip")
_UNSAFE = re.compile(r"[^!-~]|;")
"""Of a URL: white space, what is not ASCII, and what pip takes for the beginning of a marker."""
_VERSION_CONTROL = re.compile(r"\b(git|hg|svn|bzr)\+[a-z]+:", re.IGNORECASE)
_CREDENTIALS = re.compile(r"://[^/\s]*@")
_DIGEST = re.compile(r"sha256[:=]([0-9a-f]{64})")

_BUILD_HINT = "build a wheel of it, and write the path of that, or its URL with its hash"
_INDEX_HINT = "give it on the command line, or in pip's configuration"
_WHEELS_HINT = "leave it out: only wheels are ever installed"
_HINTS = {
    **dict.fromkeys(
        ("-i", "--index-url", "--extra-index-url", "--no-index", "-f", "--find-links", "--trusted-host"),
        _INDEX_HINT,
    ),
    **dict.fromkeys(("-e", "--editable"), _BUILD_HINT),
    **dict.fromkeys(("--no-binary", "--only-binary", "--prefer-binary"), _WHEELS_HINT),
    "--pre": "ask for a pre-release by its version, as in: pandas>=3.0rc1",
    "--require-hashes": "leave it out: where one requirement has a hash, all need one anyway",
}
_OTHER_HINT = "leave it out; it means nothing here"


@dataclass(frozen=True, kw_only=True, slots=True)
class Include:
    """Another file that a line leads to.

    Attributes:
        path: The file, absolute.
        words: The option and the name as they are written.
        constraint: Whether what it has limits versions only.
        line: The 1-based line.
    """

    path: str
    words: str
    constraint: bool
    line: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalWheel:
    """A wheel on this machine; what it is called in requests depends on its content, which nobody has read yet.

    Attributes:
        path: The wheel, absolute.
        parsed: The requirement, with name, extras and marker.
        digest: The SHA-256 that it is said to have; empty where nothing is said.
        line: The 1-based line, where there is one.
    """

    path: str
    parsed: ParsedRequirement
    digest: str
    line: int | None


def trusted_line(content: str, path: str, line: int) -> Requirement | Include | LocalWheel:
    """Judge one logical line of a trusted file.

    Args:
        content: The line, without comments.
        path: The file that has it; what it names is relative to the directory of that.
        line: Where in that file.

    Raises:
        RequirementsError: It is no requirement, or asks for what no file may ask for.
    """
    include = _INCLUDE.fullmatch(content)
    if include is not None:
        return _include(include[1] or include[2], include[3], path, line)
    bare, hashes = split_hashes(content)
    option = find_option(bare)
    if option is not None:
        raise forbidden(
            f"the option {option} may not be used in a file", path, line, _HINTS.get(option, _OTHER_HINT)
        )
    check_urls(bare, path, line)
    named = _named(bare, path, line) if is_location(bare) else bare
    return trusted(parse_requirement(named, path, line), hashes, path, line)


def trusted(
    parsed: ParsedRequirement, hashes: Sequence[str], path: str, line: int | None
) -> Requirement | LocalWheel:
    """Judge a requirement that may have a URL.

    Args:
        parsed: The requirement.
        hashes: The values of its ``--hash`` options.
        path: The file that has it.
        line: Where in that file.

    Raises:
        RequirementsError: The URL does not lead to a wheel, has credentials, or lacks a hash; or a hash is none.
    """
    check_hashes(hashes, path, line)
    name = canonicalize_name(parsed.name)
    if parsed.url is None:
        return Requirement(name=name, text=canonical(parsed, hashes), line=line)
    parts = _split(parsed.url, path, line)
    digest = _digest(name, parts.fragment, hashes, path, line)
    filename = unquote(parts.path.rpartition("/")[2])
    if _wheel_name(filename, path, line) != name:
        raise forbidden(
            f"{name} is asked for, and {shown(filename)} is a wheel of another package",
            path,
            line,
            "write the name that the wheel's file name begins with",
        )
    if parts.scheme == "file":
        place = os.fsdecode(unquote_to_bytes(parts.path))
        return LocalWheel(path=place, parsed=parsed, digest=digest, line=line)
    if not digest:
        raise RequirementsError(
            f"{name} is asked for by URL without its SHA-256; nobody could tell whether it is still the same file",
            kind="requirement-hash",
            path=path,
            line=line,
            hint="add --hash=sha256: and the 64 hexadecimal digits that sha256sum prints of it",
        )
    url = urlunsplit(parts._replace(fragment=f"sha256={digest}"))
    return Requirement(name=name, text=canonical(parsed, (), url), line=line)


def check_urls(text: str, path: str, line: int | None) -> None:
    """Refuse what must not be in a requirement and no error may repeat.

    Args:
        text: A requirement, which may be none.
        path: The file that has it.
        line: Where in that file.

    Raises:
        RequirementsError: A URL in it has credentials, or leads to version control; or it has a variable.
    """
    if holds_variable(text):
        raise _variable(path, line)
    system = _VERSION_CONTROL.search(text)
    if system is not None:
        raise _no_wheel(f"what {system[1].lower()} has", path, line)
    if _CREDENTIALS.search(text):
        raise forbidden(
            "the URL has credentials in it, which would be written into locks",
            path,
            line,
            "leave them out, and give them in ~/.netrc or in pip's configuration",
        )


def beside(path: str, target: str) -> str:
    """Return the absolute path of what a file calls ``target``, relative to where the file is.

    ``..`` stays in it: what that leads to depends on links, which may come to lead elsewhere.
    """
    found = os.path.join(os.getcwd(), os.path.dirname(path), target)
    return found if os.pardir in found.split(os.sep) else os.path.normpath(found)


def file_url(path: str) -> str:
    """Return the URL of an absolute path."""
    return f"file://{quote(os.fsencode(path))}"


def wheel_name(filename: str) -> str | None:
    """Return the normalised name of the package in the file name of a wheel (PEP 427); None if it is not one."""
    try:
        return str(parse_wheel_filename(filename)[0]) if _WHEEL_NAME.fullmatch(filename) else None
    except InvalidWheelFilename:
        return None


def _variable(path: str, line: int | None) -> RequirementsError:
    return RequirementsError(
        "an environment variable would be put in here, which is not done",
        kind="requirement-syntax",
        path=path,
        line=line,
        hint="write its value",
    )


def _include(option: str, rest: str, path: str, line: int) -> Include:
    try:
        words = shlex.split(rest)
    except ValueError:
        words = []
    if len(words) != 1 or not words[0] or "\0" in rest:
        raise RequirementsError(
            f"{option} wants the name of one file",
            kind="requirement-syntax",
            path=path,
            line=line,
            hint=f"write one file a line, as in: {option} more.txt; quote a name with spaces",
        )
    (target,) = words
    if holds_variable(target):
        raise _variable(path, line)
    if _SCHEME.match(target):
        raise forbidden(
            f"{option} leads to a URL; only files of this machine are read",
            path,
            line,
            "fetch the file, and write its path",
        )
    return Include(
        path=beside(path, target),
        words=f"{option} {target}",
        constraint=option in {"-c", "--constraint"},
        line=line,
    )


def _named(bare: str, path: str, line: int) -> str:
    """Return the requirement, with a name, that a bare URL or path stands for."""
    scheme = _SCHEME.match(bare)
    if scheme is not None and scheme[1].lower() not in {"http", "https", "file"}:
        raise _no_wheel(f"what a URL of {scheme[1]} leads to", path, line)
    found = (_WHEEL_PATH if scheme is None else _WHEEL_URL).fullmatch(bare)
    if scheme is None and bare.startswith("~"):
        raise forbidden("nobody's home directory is looked up here", path, line, "write the whole path")
    if found is None:
        raise _no_wheel(shown(bare) if scheme is None else "a URL with something behind it", path, line)
    if scheme is None:
        place = beside(path, found["place"])
        name = _wheel_name(os.path.basename(place), path, line)
        url = file_url(place)
    else:
        parts = _split(found["place"], path, line)
        name = _wheel_name(unquote(parts.path.rpartition("/")[2]), path, line)
        url = found["place"]
    marker = f" ; {found['marker']}" if found["marker"] else ""
    return f"{name}{found['extras'] or ''} @ {url}{marker}"


def _split(url: str, path: str, line: int | None) -> SplitResult:
    """Take a URL apart, and refuse those that do not lead to a file, or have more to them."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port  # raises where it is not a number
    except ValueError:
        raise forbidden("the URL is none", path, line, "check how it is written") from None
    if not parts.scheme:
        raise forbidden(
            f"{shown(url)} is no URL", path, line, "write file:/// and the absolute path, or the path alone"
        )
    if parts.scheme not in {"http", "https", "file"}:
        raise _no_wheel(f"what a URL of {parts.scheme} leads to", path, line)
    if parts.query:
        raise forbidden(
            "the URL has a query, which may be what gives access, and is kept nowhere",
            path,
            line,
            "write a URL that works without one",
        )
    if _UNSAFE.search(url):
        raise forbidden("the URL has characters that do not belong in one", path, line, "write them as %XX")
    local = parts.scheme == "file"
    if local and (host not in {"", "localhost"} or not parts.path.startswith("/")):
        raise forbidden(
            "the URL does not say which file of this machine",
            path,
            line,
            "write file:/// and the absolute path",
        )
    if not local and not host:
        raise forbidden("the URL names no host", path, line, "check how it is written")
    if local and "%00" in parts.path:
        raise forbidden("the URL names no file", path, line, "check how it is written")
    return parts


def _wheel_name(filename: str, path: str, line: int | None) -> str:
    """Return the normalised name of the package that the file name of a wheel (PEP 427) says."""
    if not filename.endswith(".whl"):
        raise _no_wheel(shown(filename) if filename else "what the URL leads to", path, line)
    name = wheel_name(filename)
    if name is None:
        raise forbidden(
            f"{shown(filename)} is not a file name that wheels have",
            path,
            line,
            "give the file the name that it was built with, which says what is in it",
        )
    return name


def _no_wheel(what: str, path: str, line: int | None) -> RequirementsError:
    if what.strip("'\"").lower().endswith(_SOURCES):
        what = f"{what}, a source distribution,"
    return forbidden(
        f"{what} is neither a package of the index nor a wheel, and nothing is built here",
        path,
        line,
        _BUILD_HINT,
    )


def _digest(name: str, fragment: str, hashes: Sequence[str], path: str, line: int | None) -> str:
    """Return the one SHA-256 that a wheel at a place is said to have, or nothing."""
    said = {*hashes, *([fragment] if fragment else [])}
    found = {match[1] for value in said if (match := _DIGEST.fullmatch(value))}
    if len(found) > 1 or any(not _DIGEST.fullmatch(value) for value in said):
        raise RequirementsError(
            f"{name} is one file, and may have one hash, its SHA-256",
            kind="requirement-hash",
            path=path,
            line=line,
            hint="write --hash=sha256: and 64 hexadecimal digits, or #sha256= and these behind the URL",
        )
    return next(iter(found), "")
