"""Options that several commands share, and values on the command line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

__all__ = ["DURATION", "json_option", "link_options", "store_option"]

_Function = TypeVar("_Function", bound=Callable[..., object])

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


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
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a length of time such as 30d, 12h or 0.", param, ctx)
        return float(match[1]) * _UNITS[match[2] or "d"]


DURATION = _Duration()


def store_option(function: _Function) -> _Function:
    """Take ``--store`` after the command's name too."""
    return click.option("--store", metavar="DIRECTORY", help="Where the store is; see vrfstore --help.")(
        function
    )


def json_option(function: _Function) -> _Function:
    """Take ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")(
        function
    )


def link_options(function: _Function) -> _Function:
    """Take what decides about a link."""
    for decorate in (
        click.option(
            "--refresh", is_flag=True, help="Resolve again, even if it is known what the file resolved to."
        ),
        click.option(
            "--python",
            envvar="VRFSTORE_PYTHON",
            metavar="PYTHON",
            help="The base interpreter: a path, a version or a command on PATH. "
            "[default: the Python that vrfstore stands on]",
        ),
    ):
        function = decorate(function)
    return function
