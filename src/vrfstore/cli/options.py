"""Options that several commands share, and values on the command line."""

from __future__ import annotations

import errno
import functools
import os
import re
import stat
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vrfstore.errors import UsageError
from vrfstore.linker.plan import ALL
from vrfstore.model import LinkOptions
from vrfstore.units import parse_duration, parse_room, parse_size

if TYPE_CHECKING:
    from vrfstore.gc.policy import Room

__all__ = [
    "DURATION",
    "PATH",
    "ROOM",
    "SIZE",
    "check_into",
    "farm_options",
    "json_option",
    "limit_options",
    "link_options",
    "names",
    "python_option",
    "root_option",
    "shared_store_option",
    "store_option",
    "sync_option",
    "target_option",
]

_Function = TypeVar("_Function", bound=Callable[..., object])

_HINTS = {"--materialize": "give names of packages, or all"}

if TYPE_CHECKING:
    _Seconds = click.ParamType[float]
else:
    _Seconds = click.ParamType  # generic only since click 8.4


class _Duration(_Seconds):
    """A length of time: a number and one of s, m, h, d, w; a bare number is days."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


DURATION = _Duration()

if TYPE_CHECKING:
    _Text = click.ParamType[str]
else:
    _Text = click.ParamType


class _Path(_Text):
    """A path, or what else is no path if it is empty: that would mean the current directory."""

    name = "path"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it as it is."""
        if not value:
            self.fail("it is empty.", param, ctx)
        return str(value)


PATH = _Path()

if TYPE_CHECKING:
    _Number = click.ParamType[int]
else:
    _Number = click.ParamType


class _Size(_Number):
    """A number of bytes, maybe with one of k, M, G, T (powers of 1000), or KiB, MiB, GiB, TiB."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


SIZE = _Size()

if TYPE_CHECKING:
    _Part = click.ParamType[Room]
else:
    _Part = click.ParamType


class _Room(_Part):
    """A part of a file system: a size, or percent of it."""

    name = "room"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Room:
        """Return it, with its unit."""
        from vrfstore.gc.policy import Room  # noqa: PLC0415 - for gc only

        if isinstance(value, Room):
            return value
        try:
            return Room(*parse_room(str(value)))
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


ROOM = _Room()


def store_option(function: _Function) -> _Function:
    """Take ``--store`` after the command's name too."""
    return click.option("--store", metavar="DIRECTORY", help="Where the store is; see vrfstore --help.")(
        function
    )


def shared_store_option(function: Callable[..., None]) -> Callable[..., None]:
    """Take ``--shared-store`` and ``--no-shared-store``, and pass them on as ``shared_store``."""

    @functools.wraps(function)
    def collected(*arguments: Any, shared_store: str | None, no_shared_store: bool, **rest: Any) -> None:
        if no_shared_store and shared_store is not None:
            raise UsageError(
                "a shared store is given, and none is wanted",
                kind="options-conflict",
                hint="give one of --shared-store and --no-shared-store",
            )
        function(*arguments, shared_store="" if no_shared_store else shared_store, **rest)

    for decorate in (
        click.option(
            "--no-shared-store",
            is_flag=True,
            help="Link nothing from another store, whatever is configured.",
        ),
        click.option(
            "--shared-store",
            type=PATH,
            metavar="DIRECTORY",
            help="Link what this other store has from there, and have only the rest in one's own; it is only read. "
            "[default: $VRFSTORE_SHARED_STORE, else what vrfstore.toml says]",
        ),
    ):
        collected = decorate(collected)
    return collected


def json_option(function: _Function) -> _Function:
    """Take ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")(
        function
    )


def sync_option(function: _Function) -> _Function:
    """Take ``--no-sync``."""
    return click.option(
        "--no-sync",
        "durable",
        is_flag=True,
        flag_value=False,
        default=True,
        help="Do not wait until entries are on the disk: for stores that nobody would miss after a power cut.",
    )(function)


def python_option(function: _Function) -> _Function:
    """Take ``--python``."""
    return click.option(
        "--python",
        envvar="VRFSTORE_PYTHON",
        metavar="PYTHON",
        help="The base interpreter: a path, a version or a command on PATH. "
        "[default: the Python that vrfstore stands on]",
    )(function)


def root_option(function: _Function) -> _Function:
    """Take ``--root``."""
    return click.option(
        "--root",
        metavar="NAME",
        help="Keep the environment from gc as the newest of a project of this name; see vrfstore roots list.",
    )(function)


def target_option(function: _Function) -> _Function:
    """Take ``--target``."""
    return click.option(
        "--target",
        type=PATH,
        metavar="FILE.json",
        help="Link for an interpreter that is not here, which this file describes, instead of --python. Nothing of "
        "it is started; its packages are seen only if the file lists them.",
    )(function)


def limit_options(function: _Function) -> _Function:
    """Take what is too much for one wheel."""
    for decorate in (
        click.option(
            "--max-depth", type=click.IntRange(1), metavar="N", help="Refuse a wheel with deeper directories."
        ),
        click.option(
            "--max-ratio",
            type=click.IntRange(1),
            metavar="N",
            help="Refuse a large wheel that unpacks to more than so many times its size.",
        ),
        click.option(
            "--max-files", type=click.IntRange(1), metavar="N", help="Refuse a wheel with more files."
        ),
        click.option(
            "--max-unpacked", type=SIZE, metavar="SIZE", help="Refuse a wheel that unpacks to more bytes."
        ),
    ):
        function = decorate(function)
    return function


def check_into(path: str | None) -> None:
    """Look whether an environment could be made at the path of ``--into``, before anything is done for it.

    Raises:
        UsageError: Something on the way there is no directory.
        OSError: It cannot be reached, or nothing may be made there.
    """
    if path is None:
        return
    place = wanted = os.path.realpath(path)
    while True:
        try:
            mode = os.stat(place).st_mode
        except FileNotFoundError:
            place = os.path.dirname(place)
            continue
        break
    if not stat.S_ISDIR(mode):
        raise UsageError(f"{place} is no directory", kind="into-foreign", path=place)
    if place != wanted and not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), place)


_NAME = re.compile(r"[A-Z0-9]([A-Z0-9._-]*[A-Z0-9])?", re.IGNORECASE | re.ASCII)
"""The name of a distribution (PEP 508)."""


def names(asked: Sequence[str], option: str, *, what: str = "package") -> tuple[str, ...]:
    """Return the normalised names of an option that may be given several times and with commas.

    Args:
        asked: Its values.
        option: What it is called.
        what: What its names name.

    Raises:
        UsageError: There is none in a value, or one is no name.
    """
    kind, hint = f"{option.removeprefix('--')}-name", _HINTS.get(option, f"give names of {what}s")
    found: list[str] = []
    for word in asked:
        several = [name.strip() for name in word.split(",") if name.strip()]
        if not several:
            raise UsageError(f"{option} names no {what}", kind=kind, hint=hint)
        found += several
    for name in found:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{option}: {name!r} is not the name of a{_n(what)} {what}", kind=kind, hint=hint
            )
    return tuple(sorted({re.sub(r"[-_.]+", "-", name).lower() for name in found}))


def _n(word: str) -> str:
    return "n" if word[0] in "aeiou" else ""


def farm_options(function: Callable[..., None]) -> Callable[..., None]:
    """Take how an environment is linked, and pass it on as ``options``."""

    @functools.wraps(function)
    def collected(
        *arguments: Any,
        isolated: bool,
        user_site: bool,
        prompt: str | None,
        allow_collisions: bool,
        materialize: tuple[str, ...],
        **rest: Any,
    ) -> None:
        if prompt is not None and not prompt.isprintable():
            raise UsageError("a prompt may only have characters that can be printed", kind="prompt")
        chosen = names(materialize, "--materialize")
        options = LinkOptions(
            isolated=isolated,
            user_site=user_site,
            prompt=prompt or None,
            allow_collisions=allow_collisions,
            materialize=(ALL,) if "all" in chosen else chosen,
        )
        function(*arguments, options=options, **rest)

    for decorate in (
        click.option(
            "--materialize",
            multiple=True,
            metavar="NAME[,NAME]",
            help="Copy these packages instead of linking to them, or all: for what insists on its real path, or "
            "writes beside itself.",
        ),
        click.option(
            "--allow-collisions",
            is_flag=True,
            help="Where two wheels have different files at one place, let the last by name win.",
        ),
        click.option("--prompt", metavar="TEXT", help="What activation scripts show in the shell's prompt."),
        click.option("--user-site", is_flag=True, help="See the user's own packages (~/.local) too."),
        click.option("--isolated", is_flag=True, help="Do not see what the base interpreter has."),
    ):
        collected = decorate(collected)
    return collected


def link_options(function: Callable[..., None]) -> Callable[..., None]:
    """Take what decides about a link."""
    function = farm_options(function)
    for decorate in (
        sync_option,
        click.option(
            "--compile",
            "compile_mode",
            type=click.Choice(["eager", "background", "off"]),
            envvar="VRFSTORE_COMPILE",
            help="When to compile bytecode that is not there yet: before the answer, after it, or not at all. "
            "[default: $VRFSTORE_COMPILE, else background]",
        ),
        python_option,
        shared_store_option,
    ):
        function = decorate(function)
    return function
