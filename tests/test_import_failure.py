"""What a traceback says of an import that failed, whoever printed it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vrfstore.runner.import_failure import LARGEST, ImportFailure, find, from_message, is_name

PLAIN = b"""\
Traceback (most recent call last):
  File "/srv/report/report.py", line 3, in <module>
    import sklearn
ModuleNotFoundError: No module named 'sklearn'
"""

NOTEBOOK = (
    b"Traceback (most recent call last):\n"
    b'  File "/usr/bin/jupyter-nbconvert", line 8, in <module>\n'
    b"    sys.exit(main())\n"
    b"nbclient.exceptions.CellExecutionError: An error occurred while executing the following cell:\n"
    b"------------------\nimport cv2\n------------------\n\n\n"
    b"\x1b[31m---------------------------------------------------------------------------\x1b[39m\n"
    b"\x1b[31mModuleNotFoundError\x1b[39m                       Traceback (most recent call last)\n"
    b"\x1b[36mCell\x1b[39m\x1b[36m \x1b[39m\x1b[32mIn[1]\x1b[39m\x1b[32m, line 1\x1b[39m\n"
    b"\x1b[32m----> \x1b[39m\x1b[32m1\x1b[39m \x1b[38;5;28;01mimport\x1b[39;00m cv2\n\n"
    b"\x1b[31mModuleNotFoundError\x1b[39m: No module named 'cv2'\n"
    b"[NbConvertApp] ERROR | the notebook failed\n"
)


CONSIDER = (
    "(consider renaming '/srv/random.py' since it has the same name as the standard library module named 'random' and "
    "prevents importing that standard library module)"
)
CIRCULAR = "(most likely due to a circular import)"


def traceback_of(folder: Path, source: str) -> bytes:
    """Return what our own Python prints when a file fails."""
    path = folder / "report.py"
    path.write_text(source)
    return subprocess.run([sys.executable, path], capture_output=True, check=False, cwd=folder).stderr


def module(text: bytes) -> str:
    found = find(text)
    assert found is not None
    return found.module


def test_a_missing_module_is_read_with_the_files_of_its_traceback() -> None:
    assert find(PLAIN) == ImportFailure(kind="module", module="sklearn", files=("/srv/report/report.py",))


def test_a_notebook_is_read_through_its_colours() -> None:
    found = find(NOTEBOOK)
    assert found is not None
    assert (found.kind, found.module) == ("module", "cv2")


@pytest.mark.parametrize(
    ("source", "kind", "name"),
    [
        ("import absent_a", "module", "absent_a"),
        ("import absent_a as x", "module", "absent_a"),
        ("import xml.absent", "module", "xml.absent"),
        ("import absent_a.b.c", "module", "absent_a"),
        ("from random import absent", "name", "random"),
        ("import random.absent", "shadowed", "random"),
        ("import ctypes; ctypes.CDLL('libabsent.so.7')", "library", ""),
        ("try:\n import absent_a\nexcept ImportError:\n import absent_b", "module", "absent_b"),
        ("try:\n import absent_a\nexcept ImportError as e:\n raise RuntimeError('no') from e", "module", "absent_a"),
        ("try:\n import absent_a\nexcept ImportError as e:\n raise ImportError('no') from e", "module", "absent_a"),
        ("raise ImportError(\"Missing optional dependency 'absent_c'. Use pip or conda.\")", "module", "absent_c"),
    ],
)  # fmt: skip
def test_what_python_prints_is_understood(tmp_path: Path, source: str, kind: str, name: str) -> None:
    found = find(traceback_of(tmp_path, source))
    assert found is not None
    assert (found.kind, found.module) == (kind, name)


@pytest.mark.parametrize(
    "source",
    [
        "raise ValueError(\"No module named 'a'\")",
        "try:\n import absent_a\nexcept ImportError:\n raise RuntimeError('for another reason')",
        "import sys; print(\"No module named 'a'\", file=sys.stderr); sys.exit(1)",
        "None.absent",
        "raise OSError('disk')",
        "raise ImportError('for its own reasons')",
    ],
)
def test_what_is_no_failed_import_is_none(tmp_path: Path, source: str) -> None:
    assert find(traceback_of(tmp_path, source)) is None


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_an_import_within_a_group_counts(tmp_path: Path) -> None:
    source = "try:\n import absent_a\nexcept ImportError as e:\n raise ExceptionGroup('several', [e])"
    assert module(traceback_of(tmp_path, source)) == "absent_a"


def test_the_whole_name_of_a_statement_is_kept_where_only_its_first_part_is_told(tmp_path: Path) -> None:
    for source in (
        "import absent_a.b.c",
        "from absent_a.b import c",
        "from absent_a import (b, c)",
        "import os, absent_a.b",
    ):
        found = find(traceback_of(tmp_path, source))
        assert found is not None
        assert found.wanted == {
            "from absent_a import (b, c)": "absent_a.b",
            "import os, absent_a.b": "absent_a.b",
        }.get(source, "absent_a.b.c")


def test_a_file_that_stands_in_the_way_of_its_package_is_told(tmp_path: Path) -> None:
    (tmp_path / "colorsys.py").write_text("import colorsys\ncolorsys.rgb_to_hsv(0, 0, 0)\n")
    found = find(traceback_of(tmp_path, "import colorsys"))
    assert found is not None
    assert (found.kind, found.module) == ("shadowed", "colorsys")


def test_dash_m_has_no_traceback() -> None:
    said = subprocess.run([sys.executable, "-m", "absent_a.b"], capture_output=True, check=False).stderr
    assert module(said) == "absent_a"
    assert (
        module(subprocess.run([sys.executable, "-m", "absent_a"], capture_output=True, check=False).stderr)
        == "absent_a"
    )


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            f"cannot import name 'randint' from 'random' {CONSIDER}",
            ImportFailure(kind="shadowed", module="random", name="randint", path="/srv/random.py"),
        ),
        (
            f"module 'random' has no attribute 'randint' {CONSIDER}",
            ImportFailure(kind="shadowed", module="random", name="randint", path="/srv/random.py"),
        ),
        (
            f"cannot import name 'a' from partially initialized module 'plan' {CIRCULAR} (/srv/plan.py)",
            ImportFailure(kind="shadowed", module="plan", name="a", path="/srv/plan.py"),
        ),
        (
            "partially initialized module 'random' has no attribute 'randint' (most likely due to a circular import)",
            ImportFailure(kind="shadowed", module="random", name="randint"),
        ),
        (
            "cannot import name 'Interval' from 'sklearn.utils' (/e/site-packages/sklearn/utils/__init__.py)",
            ImportFailure(
                kind="name",
                module="sklearn.utils",
                name="Interval",
                path="/e/site-packages/sklearn/utils/__init__.py",
            ),
        ),
        (
            "cannot import name 'x' from 'ns' (unknown location)",
            ImportFailure(kind="name", module="ns", name="x"),
        ),
        (
            "libGL.so.1: cannot open shared object file: No such file or directory",
            ImportFailure(kind="library", library="libGL.so.1"),
        ),
        (
            "/lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by /e/x.so)",
            ImportFailure(kind="symbol", library="GLIBC_2.38", path="/lib/x86_64-linux-gnu/libc.so.6"),
        ),
        ("No module named 'a/../b'", None),
        ("No module named '\x1b]0;x'", None),
        ("anything", None),
    ],
)
def test_messages_are_told_apart(message: str, expected: ImportFailure | None) -> None:
    assert from_message(message) == expected


# --- hostile texts


@given(text=st.binary(max_size=2000))
@example(text=b"Traceback (most recent call last):\nModuleNotFoundError: No module named '\xff'\n")
def test_any_bytes_are_none_or_a_failure_of_a_proper_name(text: bytes) -> None:
    found = find(text)
    assert found is None or not found.module or is_name(found.module)


_PIECES = st.sampled_from(
    [
        "Traceback (most recent call last):", '  File "/a.py", line 1, in <module>', "    import a.b", "ImportError: x",
        "ModuleNotFoundError                 Traceback (most recent call last)", "----> 1 import c", "",
        "The above exception was the direct cause of the following exception:", "ValueError: y", "  | KeyError",
        "INFO: something", "\x1b[31mError\x1b[0m: z",
    ]
)  # fmt: skip


@given(before=st.lists(_PIECES), colour=st.sampled_from(["", "\x1b[0;31m", "\x1b[38;5;28;01m"]))
def test_whatever_came_before_the_last_exception_counts(before: list[str], colour: str) -> None:
    end = colour and "\x1b[0m"
    last = f"{colour}ModuleNotFoundError{end}: No module named {colour}'pear'{end}"
    assert (
        module("\n".join([*before, "", "Traceback (most recent call last):", last, "later words"]).encode())
        == "pear"
    )


@pytest.mark.parametrize(
    "flood",
    [
        b"a" * (4 << 20),
        b"a." * (2 << 20),
        b"\x1b[" * (2 << 20),
        b"\x1b]" * (2 << 20),
        b"Traceback (most recent call last):\n" * (1 << 16),
        b'  File "' + b"/a" * (1 << 20) + b'", line 1\n',
        b"import " + b"a, " * (1 << 20) + b"\n",
        b"| " * (1 << 21),
        b"ImportError: " + b"No module named '" * (1 << 18) + b"\n",
    ],
    ids=["letters", "dots", "colours", "titles", "heads", "path", "names", "group", "message"],
)
def test_a_flood_is_read_in_little_time(flood: bytes) -> None:
    began = time.process_time()
    assert module(flood + b"\n" + PLAIN) == "sklearn"
    assert time.process_time() - began < 5


def test_only_the_end_of_a_text_is_looked_at() -> None:
    assert find(PLAIN + b"\n" * LARGEST) is None
    assert module(b"\n" * LARGEST + PLAIN) == "sklearn"
