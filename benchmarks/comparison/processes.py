"""Commands, and what running them took: the near end of ``spawner``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal, cast

__all__ = ["After", "Command", "CommandError", "Spawner", "Taken", "spawner"]

After = Literal["go on", "wait", "kill"]

_TIMEOUT = 900.0
"""Seconds after which a command is killed."""


class CommandError(Exception):
    """A command failed.

    Attributes:
        line: The last line that it said which begins as an error, else the last of all.
    """

    def __init__(self, words: Sequence[str], status: int, output: str, directory: str) -> None:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")]
        line = [f"exit code {status}", *lines, *errors][-1]
        # Where the run had its scratch directory says nothing, and would be another word in every run.
        self.line = line.replace(directory, "…")
        super().__init__(f"{' '.join(words)}: exit code {status}\n{output}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command line, and what it is run with.

    Attributes:
        words: The program, found on PATH if it has no slash, and its arguments.
        variables: All its environment variables.
        directory: The current directory.
    """

    words: tuple[str, ...]
    variables: Mapping[str, str]
    directory: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What commands took that were started at once.

    Attributes:
        wall: Seconds until the last of them had ended.
        processor: Seconds of processors, of them and all processes that they waited for.
        peak: Bytes that the largest of all these had in memory.
        after: Seconds until what they left behind had ended too; 0 if that was not waited for.
        after_processor: Seconds of processors that this took.
        output: What the first of them said, or the end of it.
    """

    wall: float
    processor: float
    peak: float
    after: float
    after_processor: float
    output: str


class Spawner:
    """A handle on the process that starts commands."""

    def __init__(self, requests: IO[str], answers: IO[str]) -> None:
        self._requests, self._answers = requests, answers

    def run(self, *commands: Command, after: After = "go on") -> Taken:
        """Run commands side by side.

        Args:
            commands: At least one.
            after: What is done with processes that they leave behind: nothing, waiting, or killing them.

        Raises:
            CommandError: One of them failed.
        """
        words = [asdict(command) for command in commands]
        request = {"commands": words, "timeout": _TIMEOUT, "after": after}
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        said = json.loads(self._answers.readline())
        for command, ended in zip(commands, said["ended"], strict=True):
            if ended["status"]:
                raise CommandError(command.words, ended["status"], ended["output"], command.directory)
        return Taken(
            wall=said["wall"],
            processor=sum(ended["processor"] for ended in said["ended"]),
            peak=max(ended["peak"] for ended in said["ended"]),
            after=said["after_wall"],
            after_processor=said["after_processor"],
            output=said["ended"][0]["output"],
        )


@contextmanager
def spawner() -> Iterator[Spawner]:
    """Start it, and let it go at the end."""
    program = str(Path(__file__).with_name("spawner.py"))
    words: Sequence[str] = [sys.executable, "-I", "-S", program]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        # What Popen says of pipes that were asked for.
        requests, answers = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)
        yield Spawner(requests, answers)
        requests.close()
