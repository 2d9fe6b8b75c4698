"""Asking a base Python what it is: one short run, without its user site.

May start a process; never writes. The answer is cached by ``store.interpreters``. The path of a hit comes through
``find``, so that what only a probe needs is imported there.
"""

from __future__ import annotations

import os
import sys

from vrfstore.errors import InterpreterError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from vrfstore.model import Interpreter

__all__ = ["default_executable", "find", "probe"]

MINIMUM = (3, 9)
"""The oldest CPython that environments are linked for."""

_TIMEOUT = 60.0
"""Seconds. A cold start from a slow disk takes a few; more means that something hangs."""

_CANDIDATES = 1_000
"""``*-nspkg.pth`` files that are read of one base; far more than any base has."""

_LONGEST_PTH = 64 * 1024
"""Bytes that are read of each."""

_LOADER_TIMEOUT = 10.0
"""Seconds for a program that prints two lines."""

# Runs inside the base, from Python 3.4 up, so that an unsuitable one can still say what it is. Everything that
# `site` added to sys.path counts as a site directory; the standard library's own directories do not. Until 3.10,
# the python of a venv of copies takes itself for its base, so the way out of a venv is looked for here.
_PROBE = r"""
import sys
packages = sorted(name for name, module in list(sys.modules.items()) if hasattr(module, "__path__"))
import importlib.util, json, os, platform, site, sysconfig

def configured_home(path):
    for directory in (os.path.dirname(path), os.path.dirname(os.path.dirname(path))):
        try:
            with open(os.path.join(directory, "pyvenv.cfg"), "rb") as stream:
                lines = os.fsdecode(stream.read()).splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, value = line.partition("=")
            if key.strip().lower() == "home":
                return value.strip()

def root_executable(path):
    names = ["python%d.%d" % sys.version_info[:2], "python3", "python"]
    for _ in range(9):
        path = os.path.realpath(path)
        home = configured_home(path) if sys.prefix != sys.base_prefix else None
        found = [os.path.join(home, name) for name in [os.path.basename(path)] + names] if home else []
        found = [candidate for candidate in found if os.path.isfile(candidate)]
        if not found:
            break
        path = found[0]
    return path

try:
    libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
except (AttributeError, OSError, ValueError):
    libc = ""
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
    "real": root_executable(root),
    "version": platform.python_version(),
    "implementation": sys.implementation.name,
    "cache_tag": sys.implementation.cache_tag or "",
    "abi_flags": getattr(sys, "abiflags", ""),
    "magic": "".join("%02x" % byte for byte in importlib.util.MAGIC_NUMBER),
    "platform": sysconfig.get_platform(),
    "libc": libc,
    "prefix": sys.base_prefix,
    "virtual": sys.prefix != sys.base_prefix,
    "site_directories": directories,
    "base": sorted(base),
    "packages": packages,
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
            looked up on PATH, or a venv by its directory; ``None`` for the default. Where a name without a slash
            is both a venv here and a command on PATH, a version and what begins with ``python`` is the command.

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
    local = os.path.abspath(os.path.join(asked, "bin", "python"))
    if not name.startswith("python") and os.path.exists(local):
        return local
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.abspath(os.path.join(directory, name))
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    if os.path.exists(local):
        return local
    raise InterpreterError(
        f"no {name} on PATH", kind="interpreter-missing", hint="give the path of a python with --python"
    )


def probe(executable: str) -> Interpreter:
    """Start ``executable`` once and return what it is.

    Raises:
        InterpreterError: It does not start, is not CPython, or is older than 3.9.
    """
    import json  # noqa: PLC0415

    from vrfstore.model import Interpreter  # noqa: PLC0415

    # -I: neither the user's site nor PYTHON* variables nor the current directory have a say.
    from vrfstore.starting import run  # noqa: PLC0415

    done = run([executable, "-I", "-c", _PROBE], _TIMEOUT)
    if done.returncode != 0:
        raise InterpreterError(
            f"{executable} does not start a Python of version 3: {_complaint(done.stderr, done.returncode)}",
            kind="interpreter-broken",
            hint="give the path of a python itself, and not of something that selects one",
        )
    try:
        # A .pth file of the base may print; the answer is the last line.
        answer = json.loads(done.stdout.splitlines()[-1])
        answer["site_directories"] = tuple(answer["site_directories"])
        answer["base"] = tuple((name, version) for name, version in answer["base"])
        answer["namespaces"] = _namespaces(answer["site_directories"], frozenset(answer.pop("packages")))
        answer["libc"] = answer["libc"] or _musl(answer["real"])
        started = answer.pop("executable")
        # What a launcher started, or the path that was asked for, as long as that is the same thing.
        same = os.path.realpath(started) == os.path.realpath(executable)
        found = Interpreter(executable=executable if same else started, **answer)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise InterpreterError(
            f"{executable} does not answer like a Python", kind="interpreter-broken"
        ) from error
    _check(found)
    return found


def _namespaces(directories: Sequence[str], loaded: Collection[str]) -> tuple[str, ...]:
    """Return the packages that ``*-nspkg.pth`` files have made, dotted and sorted.

    setuptools writes such files for ``namespace_packages``: lines of Python that ``site`` runs. They are only read
    here. Some of them do nothing on a Python of today, so that only what was ``loaded`` when it had started counts.
    """
    import glob  # noqa: PLC0415
    import re  # noqa: PLC0415

    made = re.compile(r"""sys\.modules\.setdefault\(\s*u?(['"])([\w.]+)\1\s*,""")
    patterns = (os.path.join(glob.escape(directory), "*-nspkg.pth") for directory in directories)
    files = [path for pattern in patterns for path in sorted(glob.glob(pattern))]
    found: set[str] = set()
    for path in files[:_CANDIDATES]:
        try:
            with open(path, "rb") as stream:
                text = stream.read(_LONGEST_PTH).decode(errors="replace")
        except OSError:  # site leaves out what it may not read
            continue
        lines = (line for line in text.splitlines() if line.startswith(("import ", "import\t")))
        found.update(match[2] for line in lines for match in made.finditer(line))
    return tuple(sorted(found & frozenset(loaded)))


def _musl(program: str) -> str:
    """Return ``musl X.Y`` where a program is linked against musl, ``musl`` if it does not say its version, else "".

    What a program's dynamic loader is called is in its first bytes (elf(5), PT_INTERP); musl's, when it is run,
    complains with its version.
    """
    import re  # noqa: PLC0415
    import subprocess  # noqa: PLC0415

    try:
        with open(program, "rb") as stream:
            loader = re.search(rb"/[^\0\n]*/ld-musl-[^\0/\n]+", stream.read(16 * 1024))
    except OSError:
        loader = None
    if loader is None:
        return ""
    try:
        done = subprocess.run(
            [loader[0]], stdin=subprocess.DEVNULL, capture_output=True, timeout=_LOADER_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "musl"
    version = re.search(rb"^Version (\d+\.\d+)", done.stderr, re.MULTILINE)
    return f"musl {version[1].decode()}" if version else "musl"


def _complaint(stderr: bytes, code: int) -> str:
    """Return the first line that a program complained with, or how it ended."""
    lines = (line.strip() for line in stderr.decode(errors="replace").splitlines())
    return next((line[:200] for line in lines if line), f"exit {code}")


def _check(found: Interpreter) -> None:
    _check_paths(found)
    version = tuple(int(part) for part in found.short_version.split("."))
    if found.implementation != "cpython":
        raise InterpreterError(
            f"{found.executable} is {found.implementation}; only CPython can be linked for"
        )
    if version < MINIMUM:
        raise InterpreterError(
            f"{found.executable} is Python {found.version}; {MINIMUM[0]}.{MINIMUM[1]} or newer is needed"
        )


def _check_paths(found: Interpreter) -> None:
    """Refuse paths that cannot be written down where a Python reads them: in ``pyvenv.cfg`` and ``.pth`` files."""
    written = (os.path.dirname(found.real), *(found.site_directories if found.virtual else ()))
    for path in written:
        try:
            path.encode()
        except UnicodeEncodeError:
            reason = "is not UTF-8"
        else:
            if len(path.splitlines()) == 1 and path == path.strip():
                continue
            reason = "has a line break, or a space at its end"
        raise InterpreterError(f"{path!a} {reason}; no environment can refer to it")
