"""Scripts whose bytes are the same in every environment, so that one inode serves all of them.

A script begins with a ``/bin/sh`` trampoline that finds ``python`` beside itself. That needs no path of the
environment, works where a path has spaces or more than 127 bytes (execve(2) limits a ``#!`` line), and still
works when the store is moved. Python sees the trampoline as a string.
"""

from __future__ import annotations

import contextlib
import io
import tokenize
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from installer.scripts import ScriptSection

__all__ = ["entry_point_script", "entry_points", "is_python_script", "trampolined"]

# For sh, the second line is the command `:` and everything up to `exec` runs; nothing after it is read.
# For Python, it opens a string that the last line closes.
# A link to the script, such as one in ~/bin, is followed; a script that is run as `sh name` has no slash in $0.
_TRAMPOLINE = b"""\
#!/bin/sh
''':'
self=$0
[ -L "$self" ] && self=$(readlink -f -- "$self")
case $self in */*) ;; *) self=./$self ;; esac
exec "${self%/*}/python" "$0" "$@"
# '''
"""

_ENTRY_POINT = """\
import sys

from {module} import {first}

if __name__ == "__main__":
    sys.exit({function}())
"""


_LONGEST_NAME = 255
"""Bytes of one name on the usual file systems (NAME_MAX)."""


def entry_points(text: str) -> list[tuple[str, str, str, ScriptSection]]:
    """Return the console and gui scripts that an ``entry_points.txt`` asks for: name, module, attribute, section.

    Raises:
        ValueError: It cannot be parsed, or a name is not that of a file.
    """
    import configparser  # noqa: PLC0415 - only what unpacks pays

    from installer.utils import parse_entrypoints  # noqa: PLC0415

    if "%" in text:
        # configparser would put other values in its place, and others into those: a few lines become gigabytes.
        raise ValueError("it has a per cent sign")
    try:
        found = list(parse_entrypoints(text))
    except configparser.Error as error:
        raise ValueError(str(error).splitlines()[0]) from error
    except AssertionError as error:  # of installer
        raise ValueError("a target is not MODULE:FUNCTION") from error
    for name, *_ in found:
        if "/" in name or name in {".", ".."} or not name.isprintable() or len(name.encode()) > _LONGEST_NAME:
            raise ValueError(f"{name!r} is not a file name")
    return found


def entry_point_script(module: str, function: str) -> bytes:
    """Return the script of a console or gui entry point (entry points specification).

    Args:
        module: The module to import.
        function: The attribute path to call, such as ``main`` or ``Application.launch``.
    """
    body = _ENTRY_POINT.format(module=module, first=function.split(".", maxsplit=1)[0], function=function)
    return _TRAMPOLINE + body.encode()


def is_python_script(data: bytes) -> bool:
    """Whether a script of a wheel asks for the environment's python (``#!python``, binary distribution format)."""
    return data.startswith(b"#!python")


def trampolined(data: bytes) -> bytes:
    """Return a ``#!python`` script with the trampoline in place of its first line.

    A script that declares an encoding is written anew in UTF-8: a declaration only counts in the first two lines
    (PEP 263), and those are the trampoline's.
    """
    with contextlib.suppress(SyntaxError, UnicodeDecodeError, LookupError):
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        data = data.decode(encoding).encode()
    _, _, rest = data.partition(b"\n")
    return _TRAMPOLINE + rest
