"""Base interpreters that have packages, and source distributions that are built with nothing but themselves."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from support.wheels import WheelSpec, wheel_bytes

__all__ = ["BACKEND", "base_with", "sdist", "site_packages"]


def base_with(root: Path, *specs: WheelSpec) -> str:
    """Make a venv of our own Python that has these distributions and nothing else; return its python."""
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", root], check=True)
    for spec in specs:
        with zipfile.ZipFile(io.BytesIO(wheel_bytes(spec))) as wheel:
            wheel.extractall(site_packages(root))  # noqa: S202 - made here
    return f"{root}/bin/python"


def site_packages(root: Path) -> Path:
    """Return where the packages of a venv are."""
    (found,) = root.glob("lib/python3*/site-packages")
    return found


BACKEND = """
import base64, hashlib, zipfile

STEM = "{stem}"

def row(name, data):
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return "%s,sha256=%s,%d" % (name, digest, len(data))

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    {before}
    name = STEM + "-py3-none-any.whl"
    with zipfile.ZipFile(wheel_directory + "/" + name, "w") as wheel:
        wheel.writestr("{package}.py", "built = True\\n")
        wheel.writestr(STEM + ".dist-info/METADATA", open("PKG-INFO").read())
        wheel.writestr(
            STEM + ".dist-info/WHEEL",
            "Wheel-Version: 1.0\\nGenerator: in-tree\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        )
        rows = [row(name, wheel.read(name)) for name in wheel.namelist()]
        wheel.writestr(STEM + ".dist-info/RECORD", "\\n".join([*rows, STEM + ".dist-info/RECORD,,"]) + "\\n")
    return name
"""
"""A backend (PEP 517) that is part of the source, so that building needs no index."""


def sdist(
    name: str, version: str = "1.0", *, requires: tuple[str, ...] = (), before: str = "pass"
) -> tuple[bytes, str]:
    """Return a source distribution and its file name.

    Args:
        name: Of the project, and of its one module.
        version: Its version.
        requires: What it requires.
        before: A statement that its backend runs before it builds.
    """
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = [
        "Metadata-Version: 2.2",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {text}" for text in requires),
        "",
    ]
    members = {
        "PKG-INFO": "\n".join(metadata),
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": BACKEND.format(stem=stem, package=name.replace("-", "_"), before=before),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, text in members.items():
            member = tarfile.TarInfo(f"{stem}/{path}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue(), f"{stem}.tar.gz"
