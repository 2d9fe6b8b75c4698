"""The files that were given, and the digests that name memos of them.

A file that leads nowhere and whose name says nothing is named by its bytes alone (``runner.hit``), wherever it lies.
What several files mean, or one that leads to others, or a project with its extras, depends on where they are as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from vrfstore import codec
from vrfstore.model import Requirements
from vrfstore.requirements import files
from vrfstore.runner import hit
from vrfstore.values import dataclass

__all__ = ["Given", "leads_nowhere", "take"]

_LARGEST = 16 << 20
"""Bytes of one file; ``inputs.read`` has narrower bounds for most kinds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """Files and how they are to be taken; see ``inputs.read``.

    Attributes:
        paths: The files, in the order given.
        contents: Their bytes.
        identity: The absolute path and the SHA-256 of each.
        trusted: Whether they may say where code comes from; None for what their names say.
        extras: The extras that are wanted of projects and locks.
        groups: The dependency groups that are wanted of them.
        service: The NAME of the ``pylock.NAME.toml`` that is meant for us.
        script: Whether it is a script to run, which may have its requirements beside it.
    """

    paths: tuple[str, ...]
    contents: Mapping[str, bytes]
    identity: tuple[tuple[str, str], ...]
    trusted: bool | None = None
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    service: str = ""
    script: bool = False

    @property
    def is_text(self) -> bool:
        """Whether this is one requirements text and nothing else."""
        alone = len(self.paths) == 1 and not self.extras and not self.groups and not self.script
        return alone and files.kind_of(self.paths[0], self.service) == "text"

    def read(self, before_reading: Callable[[str], object]) -> Requirements:
        """Return what is asked for.

        Args:
            before_reading: Called with the path of each further file that has a say.

        Raises:
            RequirementsError: See ``inputs.read``.
        """
        from vrfstore.requirements import inputs  # noqa: PLC0415 - packaging, for what has to be parsed

        if self.script:
            return inputs.read_beside(
                self.paths[0],
                trusted=self.trusted,
                contents=self.contents,
                before_reading=before_reading,
            )
        return inputs.read(
            self.paths,
            trusted=self.trusted,
            extras=self.extras,
            groups=self.groups,
            service=self.service,
            contents=self.contents,
            before_reading=before_reading,
        )

    def digests(
        self, python: str, variables: Mapping[str, str], options: Mapping[str, object]
    ) -> tuple[str | None, str]:
        """Return what names the memo of this input: by its bytes alone where that is enough, and by all there is.

        Args:
            python: The absolute path of the interpreter that was asked for.
            variables: All environment variables.
            options: How it is to be linked and resolved.
        """
        text = (
            hit.input_digest(self.contents[self.paths[0]], python, variables, options)
            if self.is_text
            else None
        )
        given = {
            "files": [list(file) for file in self.identity],
            "trusted": self.trusted,
            "extras": list(self.extras),
            "groups": list(self.groups),
            "service": self.service,
            "script": self.script,
        }
        return text, hit.input_digest(b"", python, variables, options, given)


def take(
    paths: Sequence[str],
    *,
    trusted: bool | None = None,
    extras: Sequence[str] = (),
    groups: Sequence[str] = (),
    service: str = "",
    script: bool = False,
) -> Given:
    """Read the files that were given, each once: a pipe has its bytes only once.

    Raises:
        RequirementsError: One cannot be read.
    """
    contents = {path: files.read(path, _LARGEST) for path in dict.fromkeys(paths)}
    return Given(
        paths=tuple(contents),
        contents=contents,
        identity=tuple((os.path.abspath(path), codec.hexdigest(data)) for path, data in contents.items()),
        trusted=trusted,
        extras=tuple(sorted(set(extras))),
        groups=tuple(sorted(set(groups))),
        service=service,
        script=script,
    )


def leads_nowhere(asked: Requirements) -> bool:
    """Whether requirements name packages of an index only, so that they mean the same wherever their file lies.

    Where they name none, that is something to say of this file, by its name.
    """
    return bool(asked.items) and not (
        asked.constraints
        or asked.locks
        or asked.files
        or asked.requires_python
        or any(" @ " in item.text for item in asked.items)
    )
