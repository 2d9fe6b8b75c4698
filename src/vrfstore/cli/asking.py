"""Options about what is asked for, where it may come from, and how much that may take; shared by several commands."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from vrfstore.cli.options import DURATION, PATH, SIZE, names
from vrfstore.errors import UsageError
from vrfstore.requirements.budget import Caps
from vrfstore.requirements.policy import Policy

__all__ = ["TIME", "input_options", "policy_options"]

if TYPE_CHECKING:
    _Seconds = click.ParamType[float]
else:
    _Seconds = click.ParamType  # generic only since click 8.4


class _Time(_Seconds):
    """A length of time of which a bare number is seconds, as other programs take their time limits."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        text = str(value).strip()
        seconds = f"{text}s" if re.fullmatch(r"[\d.]+", text) else text
        return DURATION.convert(value if isinstance(value, float) else seconds, param, ctx)


TIME = _Time()


def input_options(function: Callable[..., None]) -> Callable[..., None]:
    """Take how files are to be understood: ``trusted``, ``extras`` and ``groups``."""

    @functools.wraps(function)
    def collected(*arguments: Any, extras: Sequence[str], groups: Sequence[str], **rest: Any) -> None:
        function(
            *arguments,
            extras=names(extras, "--extra", what="extra"),
            groups=names(groups, "--group", what="group"),
            **rest,
        )

    for decorate in (
        click.option(
            "--group",
            "groups",
            multiple=True,
            metavar="NAME[,NAME]",
            help="Of a pyproject.toml or a lock: this dependency group.",
        ),
        click.option(
            "--extra",
            "extras",
            multiple=True,
            metavar="NAME[,NAME]",
            help="Of a pyproject.toml or a lock: what this extra brings.",
        ),
        click.option(
            "--trusted/--untrusted",
            "trusted",
            default=None,
            help="Whether the files may say where code comes from: nested files, wheels by URL or path. "
            "[default: *.txt, *.in, pyproject.toml and pylock.toml may; *.vrf and scripts may not]",
        ),
    ):
        collected = decorate(collected)
    return collected


def policy_options(function: Callable[..., None]) -> Callable[..., None]:
    """Take what the caller decides about resolving and fetching, and pass it on as ``policy``."""

    @functools.wraps(function)
    def collected(  # noqa: PLR0913 - one for each option
        *arguments: Any,
        resolver: Any,
        index_url: str | None,
        allow_builds: bool,
        protect: Sequence[str],
        refresh: bool,
        upgrade: bool,
        stale_after: float | None,
        stale_ok: bool,
        offline: bool,
        install: bool | None,
        timeout: float | None,
        max_packages: int | None,
        max_bytes: int | None,
        max_unpacked: int | None,
        **rest: Any,
    ) -> None:
        if offline and (refresh or upgrade):
            raise UsageError(
                "--offline cannot resolve again",
                kind="options-conflict",
                hint="leave out --refresh and --upgrade, or --offline",
            )
        if install is False and (refresh or upgrade or allow_builds):
            raise UsageError(
                "--no-install neither resolves again nor builds",
                kind="options-conflict",
                hint="leave out --refresh, --upgrade and --allow-builds, or --no-install",
            )
        policy = Policy(
            resolver=resolver,
            index_url=index_url or "",
            allow_builds=allow_builds,
            protect=names(protect, "--protect"),
            refresh=refresh,
            upgrade=upgrade,
            stale_after=stale_after,
            stale_ok=stale_ok,
            offline=offline,
            install=install,
            caps=Caps(seconds=timeout, packages=max_packages, received=max_bytes, unpacked=max_unpacked),
        )
        function(*arguments, policy=policy, **rest)

    for decorate in (*_CAPS, *_WHEN, *_WHERE):
        collected = decorate(collected)
    return collected


_CAPS = (
    click.option(
        "--max-unpacked", type=SIZE, metavar="SIZE", help="Fetch nothing more once it unpacks to more bytes."
    ),
    click.option("--max-bytes", type=SIZE, metavar="SIZE", help="Fetch no more bytes than that."),
    click.option(
        "--max-packages",
        type=click.IntRange(0),
        metavar="N",
        help="Refuse more packages, not counting what the base has.",
    ),
    click.option(
        "--timeout",
        type=TIME,
        metavar="TIME",
        help="Give up after so many seconds (or 10m, 1h), whatever is being done.",
    ),
)

_WHEN = (
    click.option(
        "--install/--no-install",
        "install",
        default=None,
        help="Whether what is not there may be installed. Without leave: no network, no resolver, no builds; exit 12 "
        "otherwise. [default: what vrfstore.toml says, else it may]",
    ),
    click.option(
        "--offline", is_flag=True, help="Use what is there: no network and no resolver; exit 12 otherwise."
    ),
    click.option(
        "--stale-ok",
        is_flag=True,
        help="Where resolving again fails, use what it resolved to before, with a warning.",
    ),
    click.option(
        "--stale-after",
        type=DURATION,
        metavar="TIME",
        help="Resolve again what was resolved longer ago (7d, 12h), unless all of it is pinned. [default: never]",
    ),
    click.option(
        "--upgrade", is_flag=True, help="Resolve again, even if it is known, and take the newest versions."
    ),
    click.option(
        "--refresh",
        is_flag=True,
        help="Resolve again, even if it is known, and keep versions that still fit.",
    ),
)

_WHERE = (
    click.option(
        "--protect",
        multiple=True,
        metavar="NAME[,NAME]",
        help="Packages of the base that no other version may come before.",
    ),
    click.option(
        "--allow-builds",
        is_flag=True,
        help="Build source distributions of what has no wheel. That runs their code.",
    ),
    click.option(
        "--index-url",
        type=PATH,
        metavar="URL",
        help="Ask this index and no other: nothing else of pip's configuration says where packages come from.",
    ),
    click.option(
        "--resolver",
        type=click.Choice(["pip", "uv"]),
        help="Who finds the versions. [default: uv if it is installed beside vrfstore, else pip]",
    ),
)
