"""Asking a base Python what it is: one short run of that interpreter, without its user site.

May start a process; never writes. The answer is cached by ``store.interpreters``. The path of a hit comes through
``find``, so that what only a probe needs is imported there.
"""

from __future__ import annotations

import os
import sys

from vrfstore.errors import InterpreterError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vrfstore.model import Interpreter

__all__ = ["default_executable", "find", "probe"]

MINIMUM = (3, 9)
"""The oldest CPython that environments are linked for."""

_TIMEOUT = 60.0
"""Seconds. A cold start from a slow disk takes a few; more means that something hangs."""

# Runs inside the base, from Python 3.4 up, so that an unsuitable one can still say what it is. Everything that
# `site` added to sys.path counts as a site directory; the standard library's own directories do not.
_PROBE = r"""
import importlib.util, json, os, platform, site, sys, sysconfig
standard = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
directories = [
    entry for entry in sys.path
    if os.path.isdir(entry) and os.path.realpath(entry) not in standard
    and os.path.basename(entry) != "lib-dynload"
]
for entry in site.getsitepackages() if hasattr(site, "getsitepackages") else []:
    if entry not in directories:
        directories.append(entry)
base = set()
if sys.version_info >= (3, 8):
    import importlib.metadata, re
    for found in importlib.metadata.distributions(path=directories):
        name, version = found.metadata["Name"], found.version
        if name and version:
            base.add((re.sub(r"[-_.]+", "-", name).lower(), version))
root = getattr(sys, "_base_executable", None) or sys.executable
print(json.dumps({
    "executable": sys.executable,
    "real": os.path.realpath(root),
    "version": platform.python_version(),
    "implementation": sys.implementation.name,
    "cache_tag": sys.implementation.cache_tag or "",
    "abi_flags": getattr(sys, "abiflags", ""),
    "magic": "".join("%02x" % byte for byte in importlib.util.MAGIC_NUMBER),
    "platform": sysconfig.get_platform(),
    "prefix": sys.base_prefix,
    "virtual": sys.prefix != sys.base_prefix,
    "site_directories": directories,
    "base": sorted(base),
}))
"""


def default_executable() -> str:
    """Return the interpreter that is used when nothing is said: the root base of the one running vrfstore.

    Not that one itself: where vrfstore lives in a venv, its own dependencies are nobody else's.
    """
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def find(asked: str | None) -> str:
    """Return the absolute path of the interpreter that ``asked`` means.

    Args:
        asked: A path (with a slash), a version such as ``3.12`` or a command such as ``python3.12``, both
            looked up on PATH; ``None`` for the default.

    Raises:
        InterpreterError: There is none.
    """
    if not asked:
        return default_executable()
    if "/" in asked:
        path = os.path.abspath(asked)
        if os.path.isdir(path):  # a venv, by its directory
            path = os.path.join(path, "bin", "python")
        if not os.path.exists(path):
            raise InterpreterError(
                f"there is no interpreter at {asked}",
                kind="interpreter-missing",
                hint="give the path of a python, a version such as 3.12, or leave --python out",
            )
        return path
    name = f"python{asked}" if asked[:1].isdecimal() else asked
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.abspath(os.path.join(directory, name))
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    raise InterpreterError(
        f"no {name} on PATH", kind="interpreter-missing", hint="give the path of a python with --python"
    )


def probe(executable: str) -> Interpreter:
    """Start ``executable`` once and return what it is.

    Raises:
        InterpreterError: It does not start, is not CPython, or is older than 3.9.
    """
    import json  # noqa: PLC0415
    import subprocess  # noqa: PLC0415

    from vrfstore.model import Interpreter  # noqa: PLC0415

    try:
        # -I: neither the user's site nor PYTHON* variables nor the current directory have a say.
        done = subprocess.run(
            [executable, "-I", "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InterpreterError(f"{executable} does not start: {error}", kind="interpreter-broken") from error
    if done.returncode != 0:
        raise InterpreterError(
            f"{executable} does not start a Python of version 3: {_complaint(done.stderr, done.returncode)}",
            kind="interpreter-broken",
        )
    try:
        # A .pth file of the base may print; the answer is the last line.
        answer = json.loads(done.stdout.splitlines()[-1])
        answer["site_directories"] = tuple(answer["site_directories"])
        answer["base"] = tuple((name, version) for name, version in answer["base"])
        started = answer.pop("executable")
        # What a launcher started, or the path that was asked for, as long as that is the same thing.
        same = os.path.realpath(started) == os.path.realpath(executable)
        found = Interpreter(executable=executable if same else started, **answer)
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise InterpreterError(
            f"{executable} does not answer like a Python", kind="interpreter-broken"
        ) from error
    _check(found)
    return found


def _complaint(stderr: bytes, code: int) -> str:
    """Return the first line that a program complained with, or how it ended."""
    lines = (line.strip() for line in stderr.decode(errors="replace").splitlines())
    return next((line[:200] for line in lines if line), f"exit {code}")


def _check(found: Interpreter) -> None:
    version = tuple(int(part) for part in found.short_version.split("."))
    if found.implementation != "cpython":
        raise InterpreterError(
            f"{found.executable} is {found.implementation}; only CPython can be linked for"
        )
    if version < MINIMUM:
        raise InterpreterError(
            f"{found.executable} is Python {found.version}; {MINIMUM[0]}.{MINIMUM[1]} or newer is needed"
        )
