"""What is installed in a directory, by its dist-info: names and versions, and nothing of what they say beside that."""

from __future__ import annotations

import os
import re

from vrfstore.values import dataclass

__all__ = ["Distribution", "distributions"]

_DIST_INFO = re.compile(r"(?P<name>.+?)-(?P<version>[^-]+)\.dist-info")


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution that is installed.

    Attributes:
        name: Its normalised name.
        version: Its version, as the directory's name has it.
        directory: The name of its dist-info directory.
    """

    name: str
    version: str
    directory: str


def distributions(site_packages: str) -> list[Distribution]:
    """Return what is installed in a site-packages directory, sorted; nothing where there is none.

    Only names of directories are looked at (recording installed projects), as pip writes them.
    """
    try:
        names = sorted(os.listdir(site_packages))
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = []
    for name in names:
        match = _DIST_INFO.fullmatch(name)
        if match is not None and os.path.isdir(f"{site_packages}/{name}"):
            normalised = re.sub(r"[-_.]+", "-", match["name"]).lower()
            found.append(Distribution(normalised, match["version"], name))
    return found
