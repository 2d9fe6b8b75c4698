"""Scripts whose bytes are the same in every environment, so that one inode serves all of them.

A script begins with a ``/bin/sh`` trampoline that finds ``python`` beside itself. That needs no path of the
environment, works where a path has spaces or more than 127 bytes (execve(2) limits a ``#!`` line), and still
works when the store is moved. Python sees the trampoline as a string.
"""

from __future__ import annotations

import contextlib
import io
import tokenize

__all__ = ["entry_point_script", "is_python_script", "trampolined"]

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
