"""Environments beside the venvs that they have to be like: the same wheels on the same base."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.crash import LOCK, wheel_digest
from vrfstore import interpreter
from vrfstore.linker.composing import composed
from vrfstore.linker.link import environment_key, link
from vrfstore.model import Interpreter, LinkOptions
from vrfstore.store import leases
from vrfstore.store.store import Store

__all__ = [
    "AWKWARD",
    "NAMESPACE_FILES",
    "Pair",
    "Side",
    "environment",
    "probed",
    "relocated",
    "user_site",
    "venv",
]

AWKWARD = Path("a directory with spaces, with accénts and a name that is " + "very " * 20 + "long")
"""More than a ``#!`` line may have, and what shells split."""

NAMESPACE_FILES = {
    "first": (
        "import sys, types, os;p = os.path.join(sys._getframe(1).f_locals['sitedir'], *('old',));"
        "ie = os.path.exists(os.path.join(p,'__init__.py'));"
        "m = not ie and sys.modules.setdefault('old', types.ModuleType('old'));"
        "mp = (m or []) and m.__dict__.setdefault('__path__',[]);(p not in mp) and mp.append(p)\n"
    ),
    "without effect": (
        "import sys, types, os;pep420 = sys.version_info > (3, 3);"
        "p = os.path.join(sys._getframe(1).f_locals['sitedir'], *('idle',));"
        "m = not pep420 and sys.modules.setdefault('idle', types.ModuleType('idle'));"
        "mp = (m or []) and m.__dict__.setdefault('__path__',[]);(p not in mp) and mp.append(p)\n"
    ),
    "dotted": "".join(
        "import sys, types, os;has_mfs = sys.version_info > (3, 5);"
        f"p = os.path.join(sys._getframe(1).f_locals['sitedir'], *{tuple(name.split('.'))!r});"
        "importlib = has_mfs and __import__('importlib.util');has_mfs and __import__('importlib.machinery');"
        f"m = has_mfs and sys.modules.setdefault('{name}', importlib.util.module_from_spec("
        f"importlib.machinery.PathFinder.find_spec('{name}', [os.path.dirname(p)])));"
        f"m = m or sys.modules.setdefault('{name}', types.ModuleType('{name}'));"
        "mp = (m or []) and m.__dict__.setdefault('__path__',[]);(p not in mp) and mp.append(p)\n"
        for name in ("cloud", "cloud.deep")
    ),
    "last": (
        "import sys, types, os;p = os.path.join(sys._getframe(1).f_locals['sitedir'], *('new',));"
        "importlib = __import__('importlib.util');__import__('importlib.machinery');"
        "m = sys.modules.setdefault('new', importlib.util.module_from_spec("
        "importlib.machinery.PathFinder.find_spec('new', [os.path.dirname(p)])));"
        "m = m or sys.modules.setdefault('new', types.ModuleType('new'));"
        "mp = (m or []) and m.__dict__.setdefault('__path__',[]);(p not in mp) and mp.append(p)\n"
    ),
}
"""What setuptools writes for ``namespace_packages``: before 28, in 28 to 30, from 31 to 68, and since."""


@dataclass(frozen=True)
class Side:
    """An environment or a venv, and how to ask it.

    Attributes:
        root: Where it is.
        home: The home directory of whoever asks.
    """

    root: Path
    home: Path

    @property
    def python(self) -> str:
        return f"{self.root}/bin/python"

    def normal(self, text: str) -> str:
        """Return a text with ``<root>`` for its own place."""
        return text.replace(str(self.root), "<root>")

    def run(
        self,
        *command: str,
        extra: Mapping[str, str] | None = None,
        code: int | None = 0,
        cwd: Path | None = None,
    ) -> str:
        """Return what a command says, with ``<root>`` for its own place.

        Args:
            command: What to run; ``{root}`` in it is replaced.
            extra: Further environment variables; ``{root}`` in them is replaced.
            code: The exit code that is right; None for any, which then comes first in the answer.
            cwd: Where to run it; by default in the home directory.
        """
        root = str(self.root)
        done = subprocess.run(
            [argument.replace("{root}", root) for argument in command],
            capture_output=True,
            encoding="utf-8",
            check=False,
            cwd=cwd or self.home,
            stdin=subprocess.DEVNULL,
            env=_variables(self.home)
            | {name: value.replace("{root}", root) for name, value in (extra or {}).items()},
        )
        assert code is None or done.returncode == code, done.stdout + done.stderr
        said = self.normal(done.stdout)
        return said if code is not None else f"exit {done.returncode}\n{said}"


@dataclass(frozen=True)
class Pair:
    """An environment, the venv that it has to be like, and what they stand on.

    Attributes:
        ours: The environment.
        theirs: The venv.
        store: Where the environment is.
        python: The base of both, as it was asked for.
        root: The python of the base that is no venv.
    """

    ours: Side
    theirs: Side
    store: Store
    python: str
    root: str

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.ours, self.theirs


def _variables(home: Path) -> dict[str, str]:
    """Return the environment variables of somebody with a home directory and no configuration."""
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return kept | {
        "HOME": str(home),
        "PATH": os.defpath,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def environment(
    store: Store,
    python: str,
    wheels: Sequence[Path],
    options: LinkOptions = LinkOptions(),  # noqa: B008 - frozen
) -> Path:
    """Return the environment of some wheels on a base, in a store."""
    base = probed(python)
    digests = [wheel_digest(wheel) for wheel in wheels]
    key = environment_key(digests, base, options)
    with leases.take(store.layout, environment=key, digests=digests, lock=LOCK) as lease:
        plans = [store.add(wheel).plan for wheel in wheels]
        with composed(store, plans, options) as merged:
            record, _ = link(store, lease, plans, base, key=key, lock=LOCK, merged=merged)
    return Path(store.layout.of("environments", record.directory))


@functools.cache
def probed(python: str) -> Interpreter:
    """Return what a python is."""
    return interpreter.probe(python)


def venv(python: str, root: Path, wheels: Sequence[Path], *options: str) -> Path:
    """Return a venv with some wheels, made by ``python -m venv`` and pip."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run([python, "-I", "-m", "venv", "--without-pip", *options, root], check=True, env=quiet)
    if wheels:
        # With the pip of the base, since newer ones leave older Pythons alone.
        pip = [probed(python).real, "-I", "-m", "pip", "--python", f"{root}/bin/python", "--quiet"]
        install = [
            "install",
            "--no-index",
            "--no-deps",
            "--no-compile",
            "--disable-pip-version-check",
            "--no-warn-script-location",
        ]
        subprocess.run([*pip, *install, *wheels], check=True, env=quiet)
    return root


def relocated(python: str, folder: Path, *, packages: bool = True) -> str | None:
    """Return the python of a build that was moved to a folder; None where the build does not bear that.

    Its program is a copy, its library is links, which is all that it finds itself by. Without ``packages`` it has
    none, and a ``site-packages`` of its own.
    """
    base = probed(python)
    standard = Path(base.prefix, "lib", base.directory_name)
    if not (standard / "os.py").exists() or base.prefix == "/usr":
        return None
    for name in ("bin", f"lib/{base.directory_name}"):
        (folder / name).mkdir(parents=True)
    for parent in (standard.parent, standard):
        for path in parent.iterdir():
            place = folder / path.relative_to(base.prefix)
            if not place.exists() and (packages or path.name != "site-packages"):
                place.symlink_to(path)
    (folder / "include").symlink_to(f"{base.prefix}/include")
    if not packages:
        (folder / "lib" / base.directory_name / "site-packages").mkdir()
    moved = folder / "bin" / Path(base.real).name
    shutil.copy2(base.real, moved)
    (folder / "bin/python").symlink_to(moved.name)
    return str(folder / "bin/python") if probed(str(moved)).prefix == str(folder) else None


def user_site(home: Path, python: str) -> Path:
    """Return where the user's own packages are for a python, as PEP 370 has it."""
    return home / ".local/lib" / probed(python).directory_name / "site-packages"
