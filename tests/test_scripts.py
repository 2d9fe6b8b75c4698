"""Scripts of wheels, run by ``/bin/sh`` as people, shells and schedulers run them."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vrfstore.store.scripts import entry_point_script, is_python_script, trampolined

REPORT = b"""#!python
import sys
print(sys.executable)
print(sys.argv)
raise SystemExit(7)
"""


def place(directory: Path, script: bytes = trampolined(REPORT), name: str = "tool") -> Path:
    """Put a script and a python beside it; the python is a shell that says by which path it was called."""
    directory.mkdir(parents=True)
    python = directory / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "$(cat "$0.py")" "$0" "$@"\n')
    Path(f"{python}.py").write_text(
        "import runpy, sys\n"
        "sys.executable, script, sys.argv[:] = sys.argv[1], sys.argv[2], sys.argv[2:]\n"
        "runpy.run_path(script, run_name='__main__')\n"
    )
    path = directory / name
    path.write_bytes(script)
    for program in (python, path):
        program.chmod(0o755)
    return path


def run(*command: str | Path, cwd: Path | None = None, path: str = os.defpath) -> tuple[int, list[str]]:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env={"PATH": path}, timeout=60
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(
    "name",
    ["bin", "a directory with spaces/bin", "-q/$HOME/`id`/'\"/*/bin", "long" * 50 + "/bin", "dé/bin"],
    ids=["plain", "spaces", "special", "long", "accent"],
)
def test_a_script_runs_with_the_python_beside_it(tmp_path: Path, name: str) -> None:
    script = place(tmp_path / name)
    assert run(script, "one", "two words", "") == (
        7, [f"{script.parent}/python", str([str(script), "one", "two words", ""])]
    )  # fmt: skip


def test_a_script_runs_through_links_from_another_directory(tmp_path: Path) -> None:
    script = place(tmp_path / "environment" / "bin")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "first").symlink_to("../environment/bin/tool")
    (elsewhere / "second").symlink_to("first")
    assert run(elsewhere / "second") == (
        7, [f"{script.parent}/python", str([f"{elsewhere}/second"])]
    )  # fmt: skip


def test_a_script_in_a_linked_directory_runs_with_the_python_seen_there(tmp_path: Path) -> None:
    script = place(tmp_path / "environment" / "bin")
    (tmp_path / "bin").symlink_to(script.parent)
    assert run(tmp_path / "bin" / "tool")[1][0] == f"{tmp_path}/bin/python"


@pytest.mark.parametrize("command", [("sh", "tool"), ("sh", "./tool"), ("./tool",)])
def test_a_script_runs_from_its_own_directory(tmp_path: Path, command: tuple[str, ...]) -> None:
    script = place(tmp_path / "bin")
    code, lines = run(*command, cwd=script.parent)
    assert (code, lines[0]) == (7, "./python")


def test_a_script_is_found_on_the_path(tmp_path: Path) -> None:
    script = place(tmp_path / "bin")
    found = f"{script.parent}{os.pathsep}{os.defpath}"
    assert run("tool", "x", path=found) == (7, [f"{script.parent}/python", str([str(script), "x"])])


def test_a_script_with_a_dash_for_its_name_runs(tmp_path: Path) -> None:
    script = place(tmp_path / "bin", name="-e")
    elsewhere = tmp_path / "-n"
    elsewhere.symlink_to(script)
    assert run(script)[0] == 7
    assert run(elsewhere)[1][0] == f"{script.parent}/python"
    assert run("./-n", cwd=tmp_path)[1][0] == f"{script.parent}/python"


def test_one_inode_serves_every_environment(tmp_path: Path) -> None:
    one, other = place(tmp_path / "one" / "bin"), place(tmp_path / "other" / "bin")
    other.unlink()
    os.link(one, other)
    assert run(one)[1][0] == f"{one.parent}/python"
    assert run(other)[1][0] == f"{other.parent}/python"


def test_a_script_moves_with_its_environment(tmp_path: Path) -> None:
    script = place(tmp_path / "before" / "bin")
    shutil.move(tmp_path / "before", tmp_path / "after")
    assert run(tmp_path / "after" / "bin" / script.name)[1][0] == f"{tmp_path}/after/bin/python"


def test_python_runs_a_script_by_itself(tmp_path: Path) -> None:
    script = place(tmp_path / "bin")
    assert run(sys.executable, script, "x") == (7, [sys.executable, str([str(script), "x"])])


@pytest.mark.parametrize(
    "function", ["main", "Application.launch", "Application.inner.launch"], ids=["function", "method", "deep"]
)
def test_an_entry_point_is_called_and_its_result_is_the_exit_code(tmp_path: Path, function: str) -> None:
    source = "import sys\ndef main():\n    print(sys.argv[1:])\n    return 5\n"
    source += "class Application:\n    launch = staticmethod(main)\nApplication.inner = Application\n"
    script = place(tmp_path / "bin", entry_point_script("module_of_test", function))
    (tmp_path / "bin" / "module_of_test.py").write_text(source)
    library = f"import sys\nsys.path.insert(0, {str(script.parent)!r})\n"
    helper = script.parent / "python.py"
    helper.write_text(library + helper.read_text())
    assert run(script, "a", "b") == (5, ["['a', 'b']"])


def test_an_entry_point_is_only_defined_when_its_script_is_imported() -> None:
    # multiprocessing's spawn runs the main module again under another name.
    source = entry_point_script("os", "nothing_of_the_sort")
    module = compile(entry_point_script("os", "getcwd"), "tool", "exec")
    exec(module, {"__name__": "__mp_main__"})  # noqa: S102 - that is what spawn does
    assert b'if __name__ == "__main__":' in source


@pytest.mark.parametrize(
    "script",
    [entry_point_script("package.module", "main"), trampolined(REPORT), trampolined(b"#!python -E\n")],
)
def test_python_compiles_a_script_and_takes_the_trampoline_for_a_string(script: bytes) -> None:
    first, *rest = ast.parse(script).body
    assert 'exec "${self%/*}/python"' in (ast.get_docstring(ast.Module([first], [])) or "")
    assert not any("self" in ast.unparse(statement) for statement in rest)


def test_a_script_differs_from_the_wheel_s_in_its_first_line_only() -> None:
    assert trampolined(b"#!python\r\nprint()\r\n").endswith(b"'''\nprint()\r\n")
    assert trampolined(b"#!pythonw -E\nprint()\n#!python\n").endswith(b"'''\nprint()\n#!python\n")
    assert trampolined(b"#!python").endswith(b"'''\n")


def test_the_future_is_still_at_the_beginning() -> None:
    compile(trampolined(b"#!python\nfrom __future__ import annotations\n"), "tool", "exec")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_a_script_says_its_encoding_as_before(encoding: str, tmp_path: Path) -> None:
    source = f"#!python\n# -*- coding: {encoding} -*-\nprint(ascii('\N{LATIN SMALL LETTER E WITH ACUTE}'))\n"
    script = place(tmp_path / "bin", trampolined(source.encode(encoding)))
    assert run(script) == (0, ["'\\xe9'"])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"#!python\n", True),
        (b"#!pythonw\n", True),
        (b"#!python -E\n", True),
        (b"#!/usr/bin/env python\n", False),
        (b"#!/bin/sh\n", False),
        (b"\x7fELF", False),
        (b" #!python\n", False),
        (b"", False),
    ],
)
def test_only_scripts_for_the_environment_s_python_are_rewritten(data: bytes, expected: bool) -> None:
    assert is_python_script(data) is expected
