"""A request: what is asked for, for whom, and where it may come from. Its digest names the memo to its lock."""

from __future__ import annotations

import os
from collections.abc import Mapping

from packaging.requirements import Requirement as ParsedRequirement

from vrfstore import codec, fs
from vrfstore.model import Interpreter, Requirement, Requirements
from vrfstore.requirements import pip
from vrfstore.requirements.targets import Target
from vrfstore.requirements.urls import without_credentials
from vrfstore.store.layout import FORMAT
from vrfstore.values import dataclass

__all__ = ["Request", "is_pinned"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a resolver is asked.

    Attributes:
        requirements: What the environment is to have.
        interpreter: The base, or a target.
        isolated: What the base has does not count.
        index_url: The one index that may be asked, credentials included; empty for what pip is configured with.
        allow_builds: Source distributions may be built where there is no wheel.
        protect: Normalised names of packages of the base that no other version may come before.
    """

    requirements: Requirements
    interpreter: Interpreter
    isolated: bool = False
    index_url: str = ""
    allow_builds: bool = False
    protect: tuple[str, ...] = ()

    @property
    def base(self) -> dict[str, str]:
        """The versions of what the base has and the environment sees, by normalised name."""
        return {} if self.isolated else dict(self.interpreter.base)

    @property
    def protected(self) -> tuple[Requirement, ...]:
        """Constraints that keep protected packages of the base as they are."""
        base = self.base
        return tuple(
            Requirement(name=name, text=f"{name}=={base[name]}", line=None)
            for name in sorted(set(self.protect) & base.keys())
        )

    def digest(self, variables: Mapping[str, str]) -> str:
        """Return what names this request: whatever may change what it resolves to, and nothing else.

        Not which resolver finds it, and not how it is written down. Of an index only where it is, not who we are there.
        """
        asked, base = self.requirements, self.interpreter
        value = {
            "base": [list(found) for found in sorted(self.base.items())],
            "isolated": self.isolated,
            "format": FORMAT,
            # What is here keeps its C library; a description may come to name another.
            "interpreter": base.identity | ({"libc": base.libc} if isinstance(base, Target) else {}),
            "requirements": asked.identity,
            "configuration": {
                path: _content(path) for path in pip.configuration_files(base, index_url=self.index_url)
            },
            "variables": {
                name: value
                for name, value in pip.environment(index_url=self.index_url).items()
                if name.startswith("PIP_") and name in variables
            },
        }
        unusual = {
            "allow_builds": self.allow_builds,
            "index": without_credentials(self.index_url),
            # Paths in a lock are relative to it.
            "places": [
                os.path.dirname(os.path.abspath(lock.path)) for lock in asked.locks if "path" in lock.text
            ],
            "protected": [item.text for item in self.protected],
        }
        return codec.digest_of(value | {name: said for name, said in unusual.items() if said})


def is_pinned(requirements: Requirements) -> bool:
    """Whether a request can only ever resolve to one version of whatever it names: such a request never goes stale."""
    return all(_is_exact(item.text.partition(" --hash")[0]) for item in requirements.items)


def _is_exact(text: str) -> bool:
    asked = ParsedRequirement(text)
    return asked.url is not None or any(
        one.operator == "===" or (one.operator == "==" and not one.version.endswith(".*"))
        for one in asked.specifier
    )


def _content(path: str) -> str | None:
    """Return a digest of a configuration file, which may hold credentials; None where there is none."""
    try:
        return codec.hexdigest(fs.read_file(path))
    except OSError:
        return None
