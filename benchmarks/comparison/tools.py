"""The command lines of vrfstore and of what a user would take instead.

All are asked for the same wheels: by a lock with hashes (``pylock.toml``), or by pins without hashes, whichever the
tool is faster with or can read. None of them resolves. Each has caches of its own, and one index to ask.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from comparison.processes import Command
from comparison.toolbox import Toolbox

__all__ = [
    "BARE",
    "FILLING",
    "FROM_LOCK",
    "IN_PROCESS",
    "NODE",
    "OURS",
    "PLAIN",
    "TOOLS",
    "Asked",
    "Place",
    "Tool",
    "variables",
]

OURS = "vrfstore"
BARE = "python -c pass"
IN_PROCESS = "vrfstore, in process"
FROM_LOCK = "vrfstore, a lock and options"
NODE = "vrfstore, from Node"

INSTALL = "install"
VENV = "venv"

Steps = Mapping[str, Command]
"""Commands that are run one after another, by the name of the figure that their wall time is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What an environment is to have, in the words of several tools.

    Attributes:
        pins: A file of requirements with versions.
        lock: ``pylock.toml`` of the same.
        project: A directory with a project that depends on the same, and with its locks.
        collides: Whether two wheels have different files at one place.
    """

    pins: Path
    lock: Path
    project: Path
    collides: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a tool is to work.

    Attributes:
        box: The tools.
        index: URL of the one index.
        cache: The directory of its caches, or its store.
        environment: The directory of the environment; with vrfstore, which says itself where, its name is the prompt.
    """

    box: Toolbox
    index: str
    cache: Path
    environment: Path

    def command(
        self, *words: object, directory: Path | None = None, more: Mapping[str, str] | None = None
    ) -> Command:
        """Return a command that sees no configuration of the user's."""
        every = {**variables(self.index, self.cache), **(more or {})}
        return Command(words=tuple(map(str, words)), variables=every, directory=str(directory or self.cache))


def variables(index: str, cache: Path) -> dict[str, str]:
    """Return all environment variables that a tool gets."""
    return {
        "HOME": str(cache),
        "LANG": "C.UTF-8",
        "PATH": os.environ["PATH"],
        "TMPDIR": str(cache),
        "PIP_CACHE_DIR": f"{cache}/pip",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_INDEX_URL": index,
        "UV_CACHE_DIR": f"{cache}/uv",
        "UV_DEFAULT_INDEX": index,
        "UV_NO_CONFIG": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "XDG_CACHE_HOME": f"{cache}/xdg",
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """How a tool makes environments.

    Attributes:
        name: What it is called in the results.
        make: The steps to a new environment.
        again: The steps to bring one that is there to what is asked for.
        family: Tools of one family can share full caches.
        managed: Whether the environment is where the tool says, on stdout, and not where it was told.
    """

    name: str
    make: Callable[[Place, Asked], Steps]
    again: Callable[[Place, Asked], Steps]
    family: str
    managed: bool = False


def _vrfstore(name: str, *options: str) -> Tool:
    def link(place: Place, asked: Asked) -> Steps:
        words = [
            place.box.vrfstore,
            "--store",
            place.cache / "store",
            "link",
            asked.lock,
            "--isolated",
            "--quiet",
        ]
        # Of another prompt, because equal sets share one environment.
        own = ["--python", place.box.base, "--prompt", place.environment.name]
        leave = ["--allow-collisions"] if asked.collides else []
        return {INSTALL: place.command(*words, *own, *leave, *options)}

    return Tool(name=name, make=link, again=link, family="vrfstore", managed=True)


def _vrfstore_plain() -> Tool:
    def link(place: Place, asked: Asked) -> Steps:
        words = [place.box.vrfstore, "--store", place.cache / "store", "link", asked.pins]
        return {INSTALL: place.command(*words, "--python", place.box.base)}

    return Tool(name="vrfstore", make=link, again=link, family="vrfstore", managed=True)


PLAIN = _vrfstore_plain()
"""A requirements file without any options: what most callers say, and what the shortest way of a hit understands."""


def _uv(name: str, *options: str, lock: bool = False) -> Tool:
    def sync(place: Place, asked: Asked) -> Steps:
        words = [place.box.uv, "pip", "sync", "--quiet", "--python", place.environment, *options]
        return {INSTALL: place.command(*words, asked.lock if lock else asked.pins)}

    def make(place: Place, asked: Asked) -> Steps:
        venv = place.command(place.box.uv, "venv", "--quiet", "--python", place.box.base, place.environment)
        return {VENV: venv, **sync(place, asked)}

    return Tool(name=name, make=make, again=sync, family="uv")


def _pip(name: str, *options: str, virtualenv: bool = False) -> Tool:
    def install(place: Place, asked: Asked) -> Steps:
        words = [place.environment / "bin/python", "-m", "pip", "install", "--quiet", "--no-deps", *options]
        return {INSTALL: place.command(*words, "--requirement", asked.pins)}

    def make(place: Place, asked: Asked) -> Steps:
        venv: list[str | Path] = [place.box.base, "-m", "venv"]
        if virtualenv:
            venv = [place.box.other("virtualenv"), "--quiet", "--no-download", "--python", place.box.base]
        return {VENV: place.command(*venv, place.environment), **install(place, asked)}

    return Tool(name=name, make=make, again=install, family="pip")


def _pdm() -> Tool:
    def sync(place: Place, asked: Asked) -> Steps:
        settings = {
            "PDM_CACHE_DIR": f"{place.cache}/pdm",
            "PDM_CHECK_UPDATE": "0",
            "PDM_INSTALL_CACHE": "1",
            "PDM_INSTALL_CACHE_METHOD": "symlink",
            "PDM_PYPI_URL": place.index,
            "VIRTUAL_ENV": str(place.environment),
        }
        words = [place.box.other("pdm"), "sync", "--quiet", "--no-self", "--lockfile", asked.lock.name]
        return {INSTALL: place.command(*words, directory=asked.project, more=settings)}

    def make(place: Place, asked: Asked) -> Steps:
        words = [place.box.other("virtualenv"), "--quiet", "--no-pip", "--python", place.box.base]
        return {VENV: place.command(*words, place.environment), **sync(place, asked)}

    return Tool(name="PDM, symlinks", make=make, again=sync, family="PDM")


def _pex() -> Tool:
    def create(place: Place, asked: Asked) -> Steps:
        words = [place.box.other("pex3"), "venv", "create", "--force", "--dir", place.environment]
        options = ["--pex-root", place.cache / "pex", "--no-pypi", "--index", place.index]
        source = ["--python", place.box.base, "--pylock", asked.lock]
        return {INSTALL: place.command(*words, *options, *source)}

    return Tool(name="pex --venv", make=create, again=create, family="pex")


TOOLS = {
    tool.name: tool
    for tool in (
        _vrfstore("vrfstore"),
        _vrfstore("vrfstore --compile off", "--compile", "off"),
        _vrfstore("vrfstore --compile eager", "--compile", "eager"),
        _uv("uv"),
        _uv("uv --compile-bytecode", "--compile-bytecode"),
        _uv("uv, symlinks", "--link-mode", "symlink"),
        _uv("uv, pylock.toml", lock=True),
        _pip("venv + pip"),
        _pip("venv + pip --no-compile", "--no-compile"),
        _pip("virtualenv + pip", virtualenv=True),
        _pdm(),
        _pex(),
    )
}

FILLING = {"vrfstore": TOOLS["vrfstore --compile eager"]}
"""What fills the caches of a family, where not every tool of it leaves the same behind at once."""
