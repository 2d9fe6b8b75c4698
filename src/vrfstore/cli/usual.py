"""The usual words of ``link``, understood without click, which takes as long to load as linking a dozen wheels.

``vrfstore [--store DIR] link FILE... [option...]``, each option at most once, each value a word or after ``=``.
Whatever else there is, and whatever looks wrong, is left to click, which says it in full. The tests hold both to the
same understanding. The path of a hit (``cli.quick``) understands still less, and loads still less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vrfstore.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Words", "parse"]


@dataclass(frozen=True, slots=True)
class Words:
    """What ``linking.answer`` takes: files, the store, and everything else by name."""

    requirements: tuple[str, ...]
    store: str | None
    options: dict[str, Any]


_FLAGS: dict[str, tuple[str, bool]] = {
    "--allow-collisions": ("allow_collisions", True),
    "--fallback": ("fallback", True),
    "--install": ("install", True),
    "--isolated": ("isolated", True),
    "--json": ("as_json", True),
    "--no-install": ("install", False),
    "--no-sync": ("durable", False),
    "--no-wait": ("wait", False),
    "--offline": ("offline", True),
    "--quiet": ("quiet", True),
    "--user-site": ("user_site", True),
    "-q": ("quiet", True),
}


def _text(text: str) -> str:
    return text


def _prompt(text: str) -> str:
    if not text.isprintable():
        raise ValueError(text)
    return text


def _compile_mode(text: str) -> str:
    if text not in {"eager", "background", "off"}:
        raise ValueError(text)
    return text


def _pid(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise ValueError(text)
    return int(text)


def _duration(text: str) -> float:
    from vrfstore.units import parse_duration  # noqa: PLC0415 - not every link has one

    return parse_duration(text)


_VALUES: dict[str, tuple[str, Callable[[str], object]]] = {
    "--compile": ("compile_mode", _compile_mode),
    "--lease-pid": ("lease_pid", _pid),
    "--lease-ttl": ("lease_ttl", _duration),
    "--log": ("log", _text),
    "--prompt": ("prompt", _prompt),
    "--python": ("python", _text),
    "--root": ("root", _text),
    "--shared-store": ("shared_store", _text),
    "--store": ("store", _text),
}

_VARIABLES = {
    "compile_mode": "VRFSTORE_COMPILE",
    "python": "VRFSTORE_PYTHON",
    "store": "VRFSTORE_HOME",
}


def parse(arguments: Sequence[str], variables: Mapping[str, str]) -> Words | None:
    """Return what a link is asked for; None for whatever is not fully understood.

    Args:
        arguments: Those of the process, without its name.
        variables: The environment variables.
    """
    if "link" not in arguments[:3]:
        return None
    try:
        words, given = _split(arguments)
    except ValueError:
        return None
    if len(words) < 2 or words[0] != "link":  # noqa: PLR2004 - the command, and a file
        return None
    for name, variable in _VARIABLES.items():
        if name not in given and variables.get(variable):
            given[name] = variables[variable]
    try:
        _compile_mode(given.get("compile_mode", "off"))
    except ValueError:
        return None
    return Words(tuple(words[1:]), given.pop("store", None), _complete(given))


def _split(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the words that are no options, and the options by name.

    Raises:
        ValueError: Something is not understood.
    """
    words: list[str] = []
    given: dict[str, Any] = {}
    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            if not argument:
                raise ValueError(argument)
            words.append(argument)
            continue
        if not words and option != "--store":
            raise ValueError(argument)
        found: object
        if argument in _FLAGS:
            name, found = _FLAGS[argument]
        else:
            name, convert = _VALUES.get(option) or _unknown(option)
            text = value if equals else next(rest, "")
            if not text or text.startswith("-"):
                raise ValueError(argument)
            found = convert(text)
        if name in given:
            raise ValueError(argument)
        given[name] = found
    return words, given


def _unknown(option: str) -> tuple[str, Callable[[str], object]]:
    raise ValueError(option)


def _complete(given: dict[str, Any]) -> dict[str, Any]:
    """Return all options, with what is usual where nothing is given."""
    from vrfstore.model import LinkOptions  # noqa: PLC0415 - only a link pays
    from vrfstore.requirements.policy import Policy  # noqa: PLC0415

    how = ("isolated", "user_site", "prompt", "allow_collisions")
    what = ("offline", "install")
    options = LinkOptions(**{name: given.pop(name) for name in how if name in given})
    policy = Policy(**{name: given.pop(name) for name in what if name in given})
    usual: dict[str, Any] = {
        "as_json": False,
        "compile_mode": None,
        "durable": True,
        "extras": (),
        "fallback": False,
        "force": False,
        "groups": (),
        "into": None,
        "lease_pid": None,
        "lease_ttl": None,
        "log": None,
        "python": None,
        "quiet": False,
        "root": None,
        "shared_store": None,
        "target": None,
        "trusted": None,
        "wait": True,
    }
    return {**usual, **given, "options": options, "policy": policy}
