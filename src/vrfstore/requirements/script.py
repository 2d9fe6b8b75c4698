"""What a Python script asks for in its own comments (PEP 723).

::

    # /// script
    # requires-python = ">=3.11"
    # dependencies = ["pandas>=2"]
    # ///

The script is text to us, UTF-8 as the standard has it, and is never run or parsed. ``[tool]`` is other tools' affair.
"""

from __future__ import annotations

import re

from vrfstore.errors import RequirementsError
from vrfstore.requirements import toml
from vrfstore.requirements.declared import Declarations
from vrfstore.requirements.gathering import Gathering
from vrfstore.requirements.parse import decode
from vrfstore.values import dataclass

__all__ = ["NO_BLOCK", "read_script"]

NO_BLOCK = "script-block-missing"
"""The kind of the error for a script that says nothing."""

_KIND = "script-invalid"
_BEGIN = re.compile(r"# /// ([A-Za-z0-9-]+)")
_END = "# ///"


@dataclass(frozen=True, slots=True)
class _Block:
    """The content of a block, without the comment signs, and the line of the script where it begins."""

    text: str
    first_line: int


def read_script(gathering: Gathering, data: bytes, path: str, *, trusted: bool) -> None:
    """Read the metadata in a script.

    Args:
        gathering: Where requirements and faults go.
        data: The script.
        path: What to call it in errors.
        trusted: Whether it may say where code comes from.

    Raises:
        RequirementsError: It has none (``NO_BLOCK``), more than one block, or one that is not as PEP 723 has it.
    """
    blocks = _blocks(decode(data, path), "script")
    if not blocks:
        raise RequirementsError(
            "the script does not say what it needs",
            kind=NO_BLOCK,
            path=path,
            hint='begin it with the lines: # /// script, # dependencies = ["pandas>=2"], # ///',
        )
    if len(blocks) > 1:
        raise RequirementsError(
            "the script has more than one block that says what it needs",
            kind=_KIND,
            path=path,
            line=blocks[1].first_line - 1,
            hint="put them together into one",
        )
    (block,) = blocks
    document = toml.loads(block.text, path, _KIND, first_line=block.first_line)
    declarations = Declarations(
        gathering=gathering,
        path=path,
        trusted=trusted,
        lines=toml.lines_of(block.text, block.first_line),
    )
    declarations.requires_python(document.get("requires-python"), "requires-python", _KIND)
    texts = toml.texts(document.get("dependencies", []), "dependencies", path, _KIND)
    for parsed, line in declarations.parse(texts, "dependencies"):
        declarations.add(parsed, line)


def _blocks(text: str, kind: str) -> list[_Block]:
    """Return the blocks of a kind.

    A block goes on to the last end line of the comment that it is in, and has at least one line; what does not end is
    none. A block of another kind may so have lines that look like the beginning of one of this kind.
    """
    lines = re.split(r"\r\n|\r|\n", text)
    found: list[_Block] = []
    number = 0
    while number < len(lines):
        begin = _BEGIN.fullmatch(lines[number])
        number += 1
        if begin is None:
            continue
        after = number
        while after < len(lines) and (lines[after] == "#" or lines[after].startswith("# ")):
            after += 1
        end = next((each for each in range(after - 1, number, -1) if lines[each] == _END), None)
        if end is None:
            # Nor does anything end that begins further down in this comment.
            number = after
            continue
        if begin[1] == kind:
            found.append(_Block("\n".join(line[2:] for line in lines[number:end]), number + 1))
        number = end + 1
    return found
