"""An interpreter that is not here: what it is, from a file that describes it. Nothing of it is started.

``describe`` reads one file; all else is computed from an ``Interpreter`` alone, and so serves those that are here too:
the platform tags of its wheels, pip's options to resolve for it, and the variables of environment markers.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from vrfstore import fs
from vrfstore.errors import InterpreterError
from vrfstore.interpreter import MINIMUM
from vrfstore.model import Interpreter
from vrfstore.values import dataclass

__all__ = ["abi_tags", "describe", "marker_environment", "platform_tags", "resolver_options"]

_LARGEST = 1 << 20
"""Bytes. A description has a few hundred."""

_ASSUMED_GLIBC = "glibc 2.17"
"""Of Linux where nothing is said: what manylinux2014 stands for, the oldest that wheels are still built for."""

_ASSUMED_MUSL = "1.2"
"""Where only ``musl`` is known: there has been no other since 2020, and no newer one."""

_OLDEST_GLIBC = {"i686": 5, "x86_64": 5}
"""The minor version of the oldest glibc 2 that wheels may be built for, by architecture (PEP 600)."""

_OLDEST_GLIBC_ELSEWHERE = 17

_MANYLINUX = frozenset(
    ("aarch64", "armv7l", "armv8l", "i686", "loongarch64", "ppc64", "ppc64le", "riscv64", "s390x", "x86_64")
)
"""The architectures that manylinux is defined for. An armv7l is taken to have hard floats, as all that have wheels."""

_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
"""Older names by the minor version of glibc (PEP 599, 571, 513)."""

_EARLIER = {"armv8l": ("armv8l", "armv7l")}
"""Where an architecture runs another's programs."""

_VERSION = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){2}((a|b|rc)[0-9]{1,3})?\+?")
_PLATFORM = re.compile(r"linux-[a-z0-9_]{1,32}")
_LIBC = re.compile(r"glibc 2\.[0-9]{1,3}|musl( 1\.[0-9]{1,3})?")
_FLAGS = re.compile(r"t?d?")
_CACHE_TAG = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,200}[A-Za-z0-9])?")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

_SHARED_KEYS = frozenset(("base", "libc", "site_directories"))
_OWN_KEYS = _SHARED_KEYS | {"abi_flags", "executable", "platform", "version"}

_RELEASE_LEVELS = {"alpha": "a", "beta": "b", "candidate": "rc", "final": ""}


def describe(path: str) -> Interpreter:
    """Return the interpreter that a file describes.

    Either in our own form (docs/targets.md), or a ``build-details.json`` (PEP 739) of CPython 3.14 and newer, known by
    its ``schema_version``, to which ``libc``, ``site_directories`` and ``base`` may have been added.

    Nothing is known of its bytecode: ``magic`` is empty. ``real`` is the executable as it is written.

    Args:
        path: The file, JSON of up to 1 MiB.

    Raises:
        InterpreterError: It cannot be read, or describes nothing that can be linked for; the key is named.
    """
    described = _Object(_load(path), "", path)
    if "schema_version" in described.values:
        return _from_build_details(described)
    return _from_own(described)


def _load(path: str) -> dict[str, Any]:
    try:
        data = fs.read_file(path, _LARGEST)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise _invalid(path, f"the description cannot be read: {reason}") from error
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _invalid(path, f"the description is not JSON: {reason}") from error
    if not isinstance(value, dict):
        raise _invalid(path, "the description is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's pairs as a dict; readers differ in which of two equal keys they take."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key[:100]!r} is there twice")
        found[key] = value
    return found


def _invalid(path: str, message: str, hint: str | None = None) -> InterpreterError:
    return InterpreterError(
        message,
        kind="target-invalid",
        path=path,
        hint=hint or "see docs/targets.md for what a description says",
    )


@dataclass(frozen=True, slots=True)
class _Object:
    """A JSON object, with where it is: ``place`` is empty or ends with a dot."""

    values: dict[str, Any]
    place: str
    path: str

    def refuse(self, key: str, reason: str, hint: str | None = None) -> NoReturn:
        raise _invalid(self.path, f"{self.place}{key} {reason}", hint)

    def text(self, key: str, *, default: str | None = None) -> str:
        """Return a text; without a default, it has to be there."""
        value = self.values.get(key, default)
        if value is None and key not in self.values:
            self.refuse(key, "is missing")
        if not isinstance(value, str):
            self.refuse(key, "is not a text")
        if _UNPRINTABLE.search(value):
            self.refuse(key, "has characters that cannot be printed")
        return value

    def matching(
        self, key: str, pattern: re.Pattern[str], example: str, *, default: str | None = None
    ) -> str:
        """Return a text that has to look like the example."""
        value = self.text(key, default=default)
        if not pattern.fullmatch(value):
            self.refuse(key, f"is {value[:100]!r}", f"write it like {example}")
        return value

    def absolute(self, key: str) -> str:
        """Return an absolute path."""
        value = self.text(key)
        if not value.startswith("/") or value.endswith("/"):
            self.refuse(key, f"is {value[:100]!r}, which is not the absolute path of a file")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return an array of texts; empty where there is none."""
        values = self.values.get(key, [])
        if not isinstance(values, list):
            self.refuse(key, "is not an array")
        items = _Object(
            {f"{key}[{number}]": item for number, item in enumerate(values)}, self.place, self.path
        )
        return tuple(items.text(name) for name in items.values)

    def directories(self, key: str) -> tuple[str, ...]:
        """Return an array of absolute paths; empty where there is none."""
        values = self.texts(key)
        for number, value in enumerate(values):
            if not value.startswith("/"):
                self.refuse(f"{key}[{number}]", f"is {value[:100]!r}, which is not an absolute path")
        return values

    def number(self, key: str) -> int:
        """Return a whole number of up to three digits."""
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1000:  # noqa: PLR2004
            self.refuse(key, "is not a whole number from 0 to 999")
        return value

    def object(self, key: str, *, optional: bool = False) -> _Object:
        """Return an object inside this one."""
        value = self.values.get(key, {} if optional else None)
        if not isinstance(value, dict):
            self.refuse(key, "is not an object" if key in self.values else "is missing")
        return _Object(value, f"{self.place}{key}.", self.path)


def _from_own(described: _Object) -> Interpreter:
    unknown = sorted(described.values.keys() - _OWN_KEYS)
    if unknown:
        described.refuse(
            ", ".join(key[:40].encode("unicode_escape").decode() for key in unknown[:10]),
            "means nothing in a description" if len(unknown) == 1 else "mean nothing in a description",
            f"the keys are {', '.join(sorted(_OWN_KEYS))}",
        )
    executable = described.absolute("executable")
    version = described.matching("version", _VERSION, "3.12.3, as platform.python_version() gives it")
    return _interpreter(
        described,
        version=version,
        abi_flags=described.matching("abi_flags", _FLAGS, "t, or leave it out", default=""),
        libc=_ASSUMED_GLIBC,
        executable=executable,
        prefix=os.path.dirname(os.path.dirname(executable)),
    )


def _from_build_details(described: _Object) -> Interpreter:
    schema = described.matching("schema_version", re.compile(r"[0-9]{1,3}\.[0-9]{1,3}"), "1.0")
    if schema.partition(".")[0] != "1":
        described.refuse(
            "schema_version", f"is {schema}; only 1.0 and what is compatible with it can be read"
        )
    implementation = described.object("implementation")
    name = implementation.text("name")
    if name != "cpython":
        implementation.refuse("name", f"is {name[:100]!r}; only CPython can be linked for")
    version = _version(implementation.object("version"))
    language = described.object("language")
    if language.text("version") != ".".join(version.split(".")[:2]):
        language.refuse(
            "version", f"is {language.text('version')[:100]!r}, and the implementation's is {version}"
        )
    # Relative to where the file is, as the standard has it, and the interpreter relative to that.
    prefix = os.path.normpath(
        os.path.join(os.path.dirname(os.path.abspath(described.path)), described.text("base_prefix"))
    )
    executable = described.text("base_interpreter")
    if executable.startswith("/"):
        executable = described.absolute("base_interpreter")
    else:
        executable = os.path.normpath(os.path.join(prefix, executable))
    abi = described.object("abi", optional=True)
    flags = "".join(sorted(abi.texts("flags"), reverse=True))
    if not _FLAGS.fullmatch(flags):
        abi.refuse("flags", f"are {flags[:100]!r}; only t and d are known")
    musl = "musl" in implementation.text("_multiarch", default="")
    return _interpreter(
        described,
        version=version,
        abi_flags=flags,
        libc=f"musl {_ASSUMED_MUSL}" if musl else _ASSUMED_GLIBC,
        executable=executable,
        prefix=prefix,
        cache_tag=implementation.matching("cache_tag", _CACHE_TAG, "cpython-314"),
    )


def _version(info: _Object) -> str:
    """Return an object like ``sys.version_info`` as ``platform.python_version()`` has it."""
    level = info.text("releaselevel")
    if level not in _RELEASE_LEVELS:
        info.refuse("releaselevel", f"is {level[:100]!r}; it may be {', '.join(_RELEASE_LEVELS)}")
    release = ".".join(str(info.number(key)) for key in ("major", "minor", "micro"))
    return release if level == "final" else f"{release}{_RELEASE_LEVELS[level]}{info.number('serial')}"


def _interpreter(
    described: _Object,
    *,
    version: str,
    abi_flags: str,
    libc: str,
    executable: str,
    prefix: str,
    cache_tag: str | None = None,
) -> Interpreter:
    """Put together what both forms say, and check what they say alike."""
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < MINIMUM:
        key = "implementation.version" if "implementation" in described.values else "version"
        described.refuse(key, f"is {version}; {MINIMUM[0]}.{MINIMUM[1]} or newer is needed")
    return Interpreter(
        executable=executable,
        real=executable,
        version=version,
        implementation="cpython",
        cache_tag=cache_tag or f"cpython-{major}{minor}",
        abi_flags=abi_flags,
        magic="",
        platform=described.matching(
            "platform", _PLATFORM, "linux-aarch64, as sysconfig.get_platform() gives it"
        ),
        libc=described.matching("libc", _LIBC, "glibc 2.31, or musl 1.2", default=libc),
        prefix=prefix,
        virtual=False,
        site_directories=described.directories("site_directories"),
        base=_base(described),
    )


def _base(described: _Object) -> tuple[tuple[str, str], ...]:
    """Return the distributions that are there already, normalised and sorted."""
    listed = described.object("base", optional=True)
    if not listed.values:
        return ()
    from packaging.utils import canonicalize_name  # noqa: PLC0415 - 20 ms that few descriptions need
    from packaging.version import InvalidVersion, Version  # noqa: PLC0415

    found: dict[str, str] = {}
    for name in listed.values:
        normalised = str(canonicalize_name(name))
        if not _NAME.fullmatch(name):
            described.refuse("base", f"has {name[:100]!r}, which is not the name of a distribution")
        if normalised in found:
            listed.refuse(name, f"is there twice, as {normalised}")
        found[normalised] = listed.text(name)
        try:
            Version(found[normalised])
        except InvalidVersion:
            listed.refuse(name, f"is {found[normalised][:100]!r}, which is not a version")
    return tuple(sorted(found.items()))


def platform_tags(platform: str, libc: str) -> tuple[str, ...]:
    """Return the platform tags of wheels that run on a platform, best first.

    In the order of packaging: ``linux_*``, made for one system only, then from the newest C library to the oldest.

    Args:
        platform: As ``sysconfig.get_platform()``, such as ``linux-x86_64``.
        libc: Such as ``glibc 2.36``, ``musl 1.2`` or ``musl``; with anything else, only ``linux_*`` is sure to run.
    """
    system, _, machine = platform.partition("-")
    if system != "linux":
        return (re.sub(r"[-. ]", "_", platform),)
    machine = re.sub(r"[-. ]", "_", machine)
    machines = _EARLIER.get(machine, (machine,))
    name, _, version = libc.partition(" ")
    native = tuple(f"linux_{each}" for each in machines)
    numbers = re.match(r"([0-9]{1,3})\.([0-9]{1,3})", version or (_ASSUMED_MUSL if name == "musl" else ""))
    if numbers is None:
        return native
    major, minor = int(numbers[1]), int(numbers[2])
    if name == "musl":
        built = [f"musllinux_{major}_{each}_{on}" for on in machines for each in range(minor, -1, -1)]
    elif (name, major) == ("glibc", 2):
        built = [tag for on in machines if on in _MANYLINUX for tag in _manylinux(on, minor)]
    else:
        built = []
    return (*native, *built)


def _manylinux(machine: str, newest: int) -> Iterator[str]:
    """Yield the manylinux tags (PEP 600) of an architecture from glibc 2.newest down."""
    for minor in range(newest, _OLDEST_GLIBC.get(machine, _OLDEST_GLIBC_ELSEWHERE) - 1, -1):
        yield f"manylinux_2_{minor}_{machine}"
        if minor in _LEGACY:
            yield f"{_LEGACY[minor]}_{machine}"


def abi_tags(interpreter: Interpreter) -> list[str]:
    """Return the ABI tags of extension modules for CPython X.Y, without ``abi3`` and ``none``; best first."""
    major, minor = interpreter.short_version.split(".")
    threaded = "t" if "t" in interpreter.abi_flags else ""
    release = f"cp{major}{minor}{threaded}"
    # A debug build can load what is built for the usual one (since 3.8).
    return [f"{release}d", release] if "d" in interpreter.abi_flags else [release]


def resolver_options(interpreter: Interpreter) -> list[str]:
    """Return pip's options to choose wheels for an interpreter whoever runs pip.

    They decide about files and Requires-Python only: environment markers remain those of the Python that runs pip,
    and so does what is installed there; see ``marker_environment``. pip knows no pre-releases of Python here.
    """
    release = re.sub(r"(a|b|rc)[0-9]+|\+", "", interpreter.version)
    return [
        *("--python-version", release),
        *("--implementation", "cp"),
        *(word for abi in abi_tags(interpreter) for word in ("--abi", abi)),
        *(
            word
            for platform in platform_tags(interpreter.platform, interpreter.libc)
            for word in ("--platform", platform)
        ),
        "--only-binary=:all:",
    ]


def marker_environment(interpreter: Interpreter) -> dict[str, str]:
    """Return the variables of environment markers (PEP 508) for a CPython on Linux, but for ``extra``.

    What the kernel says of itself, ``platform_release`` and ``platform_version``, is empty.
    """
    # A version of its own making: PEP 440 has no bare plus sign.
    version = interpreter.version.removesuffix("+")
    return {
        "implementation_name": interpreter.implementation,
        "implementation_version": version,
        "os_name": "posix",
        "platform_machine": interpreter.platform.partition("-")[2],
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": version,
        "python_version": interpreter.short_version,
        "sys_platform": "linux",
    }
