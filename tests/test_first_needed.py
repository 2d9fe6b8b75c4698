"""Which modules come first: what imports lead to, whatever sources, packages and entries look like."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import chain

import pytest

from vrfstore.store.first_needed import Import, Wave, imports, waves


def ordered(
    files: Mapping[str, Mapping[str, str | bytes | None]],
) -> tuple[list[Wave], list[tuple[str, str]]]:
    """Give the waves of entries, whose files are given by paths below site-packages, and what was read for them."""
    read: list[tuple[str, str]] = []

    def source(directory: str, path: str) -> bytes | None:
        read.append((directory, path.removeprefix("site-packages/")))
        text = files[directory][path.removeprefix("site-packages/")]
        return text.encode() if isinstance(text, str) else text

    modules = {
        directory: [f"site-packages/{path}" for path in sources] for directory, sources in files.items()
    }
    found = [
        {
            directory: [path.removeprefix("site-packages/") for path in paths]
            for directory, paths in wave.items()
        }
        for wave in waves(modules, source)
    ]
    assert all(chain.from_iterable(wave.values() for wave in found))
    assert sorted(
        (directory, path) for wave in found for directory in wave for path in wave[directory]
    ) == sorted((directory, path) for directory, sources in files.items() for path in sources)
    return found, read


def first(files: Mapping[str, str | bytes | None]) -> list[str]:
    """Give the first wave of one entry."""
    found, _ = ordered({"entry": files})
    return found[0]["entry"]


# What one source imports.


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import a", [("a",)]),
        ("import a.b.c as d, e  # and f, g", [("a.b.c",), ("e",)]),
        ("import a; import b", [("a",)]),
        ("from a import b, c as d", [("a", "b", "c")]),
        ("from a import *", [("a", "*")]),
        ("from a.b import (c,\n    d as e,  # not (f), g\n    h,\n)\nimport i", [("a.b", "c", "d", "h"), ("i",)]),
        ("from a import (b, # )\n c)", [("a", "b", "c")]),
        ("from a import b, \\\n    c\nimport d", [("a", "b", "c"), ("d",)]),
        ("from a import b\r\nimport c\r\n", [("a", "b"), ("c",)]),
        ("from . import a", [("pear.leaf", "a")]),
        ("from .import a", [("pear.leaf", "a")]),
        ("from .a import b", [("pear.leaf.a", "b")]),
        ("from . a.b import c", [("pear.leaf.a.b", "c")]),
        ("from .. import a", [("pear", "a")]),
        ("from ..a import b", [("pear.a", "b")]),
        ("from ... import a", []),
        ("from importlib import b", [("importlib", "b")]),
        ("from .importing import b", [("pear.leaf.importing", "b")]),
        ("\ufeffimport a", [("a",)]),
        ("from \xe9 import \xfc", [("\xe9", "\xfc")]),
        ("from a import b, b, b", [("a", "b")]),
        ("importing = 1\nfromage = 2\nx = 'import a'\n# import b\nfrom\nimport", []),
        ("from a import", [("a",)]),
        ("from a import (", [("a",)]),
    ],
)  # fmt: skip
def test_statements_are_read_in_all_their_forms(source: str, found: list[tuple[str, ...]]) -> None:
    expected = [Import(module, names) for module, *rest in found for names in [tuple(rest)]]
    assert imports(source.encode(), "pear.leaf") == expected


def test_a_top_level_module_has_nothing_beside_it() -> None:
    assert imports(b"from . import a\nfrom .a import b\n", "") == []


def test_what_importing_runs_is_taken_and_what_it_does_not_run_is_left() -> None:
    source = """
try:
    import a
except ImportError:
    from b import c
if x:
    if y:
\t\timport d
else: pass
def f():
    import no1
    if x:
        import no2
async def g():
    import no3
class C:
    import no4
    def h(self):
        import no5
with x:
    import e
    def i():
        import no6
    import f
if TYPE_CHECKING:
    import no7
elif y:
    import g
if typing.TYPE_CHECKING:
    import no8
else:
    import h
if not TYPE_CHECKING:
    import i
if __name__ == "__main__":
    import no9
import j
"""
    assert [each.module for each in imports(source.encode(), "")] == list("abdefghij")


HOSTILE = {
    "spaces": b" " * (1 << 22),
    "lines": b"\n" * (1 << 22),
    "indented lines": b"\n    " * (1 << 20),
    "from": b"from " * (1 << 20),
    "from on lines": b"from a\n" * (1 << 20),
    "from, spaces": b"from " + b" " * (1 << 22),
    "dots": b"from " + b"." * (1 << 22),
    "a long name": b"from " + b"a." * (1 << 21) + b"a import " + b"bcd," * (1 << 18),
    "long names": (b"import " + b"a." * (1 << 11) + b"\n") * (1 << 10),
    "open parentheses": b"from a import (\n" * (1 << 18),
    "open parentheses, in comments": b"from a import (#(\n" * (1 << 18),
    "commas": b"import " + b"," * (1 << 22),
    "many names": b"import " + b"ab, cd ef, " * (1 << 18),
    "words": b"import " + b"a " * (1 << 21),
    "backslashes": b"import " + b"\\" * (1 << 22),
    "continuations": b"import \\\n" * (1 << 20),
    "conditions": b"if (((((" + b"a" * (1 << 21) + b".TYPE_CHECKIN\n" + b"if a.a" * (1 << 19),
    "words that are none": b"\nimportimportimport" * (1 << 18),
    "undecodable": b"\xff\xfe" * (1 << 20),
    "nothing": b"\0" * (1 << 22),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_whatever_a_source_is_it_is_read_in_linear_time(kind: str) -> None:
    begun = time.process_time()
    found, _ = ordered({"entry": {"a/__init__.py": HOSTILE[kind], "a/b.py": "", "c.py": HOSTILE[kind]}})
    assert set(found[0]["entry"]) >= {"a/__init__.py", "c.py"}
    # A quadratic way takes hours. The longest takes half a second here, which is generous for others.
    assert time.process_time() - begun < 20


# Which modules that leads to.


def test_first_comes_what_importing_the_top_level_leads_to_then_what_lies_below_then_the_rest_then_tests() -> (
    None
):
    pear = {
        "pear/__init__.py": "from ._core import stone\nfrom .flesh import *\n",
        "pear/_core.py": "import pear._deep.one\n",
        "pear/_deep/__init__.py": "",
        "pear/_deep/one.py": "",
        "pear/_deep/two.py": "",
        "pear/flesh.py": "",
        "pear/_unused.py": "",
        "pear/leaf/__init__.py": "from . import _vein\n",
        "pear/leaf/_vein.py": "",
        "pear/leaf/edge.py": "",
        "pear/stem.py": "import pear._deep.two\n",
        "pear/tests/__init__.py": "",
        "pear/tests/test_pear.py": "import pear\n",
        "pear/test_more.py": "",
        "pear/conftest.py": "import pear._unused\n",
    }
    found, read = ordered({"entry": pear})
    assert [wave["entry"] for wave in found] == [
        ["pear/__init__.py", "pear/_core.py", "pear/_deep/__init__.py", "pear/_deep/one.py", "pear/flesh.py"],
        ["pear/leaf/__init__.py", "pear/leaf/_vein.py", "pear/stem.py", "pear/_deep/two.py"],
        ["pear/_unused.py", "pear/leaf/edge.py"],
        ["pear/tests/__init__.py", "pear/tests/test_pear.py", "pear/test_more.py", "pear/conftest.py"],
    ]
    # Of what nothing leads to, no source is read, and of the others one time.
    assert sorted(path for _, path in read) == sorted(found[0]["entry"] + found[1]["entry"])


def test_a_wave_is_found_when_it_is_asked_for() -> None:
    read: list[str] = []

    def source(_: str, path: str) -> bytes:
        read.append(path)
        return b""

    modules = {"entry": ["site-packages/pear/__init__.py", "site-packages/pear/leaf.py"]}
    coming = waves(modules, source)
    assert next(coming) == {"entry": ["site-packages/pear/__init__.py"]}
    assert read == ["site-packages/pear/__init__.py"]
    assert next(coming) == {"entry": ["site-packages/pear/leaf.py"]}


def test_imports_lead_from_entry_to_entry() -> None:
    found, _ = ordered(
        {
            "fig": {"fig/__init__.py": "import pear.leaf\n"},
            "pear": {"pear/__init__.py": "", "pear/leaf.py": "", "pear/stem.py": ""},
        }
    )
    assert found == [
        {"fig": ["fig/__init__.py"], "pear": ["pear/__init__.py", "pear/leaf.py"]},
        {"pear": ["pear/stem.py"]},
    ]


def test_a_private_module_or_package_of_tests_at_the_top_is_not_where_it_begins() -> None:
    assert first({"_private.py": "", "tests/__init__.py": "", "testing.py": "", "pear.py": ""}) == ["pear.py"]
    assert first({"_private.py": "", "pear.py": "import _private"}) == ["pear.py", "_private.py"]
    assert first({"pear/__init__.py": "from pear import testing", "pear/testing/__init__.py": ""}) == [
        "pear/__init__.py", "pear/testing/__init__.py",
    ]  # fmt: skip


def test_a_namespace_has_its_top_below_and_may_be_spread_over_entries() -> None:
    found, _ = ordered(
        {
            "a": {"fruit/pear/__init__.py": "from fruit.fig import x\n", "fruit/pear/stem.py": ""},
            "b": {
                "fruit/fig/__init__.py": "",
                "fruit/fig/_deep.py": "",
                "fruit/plum.py": "",
                "fruit/_p.py": "",
            },
        }
    )
    assert found == [
        {"a": ["fruit/pear/__init__.py"], "b": ["fruit/fig/__init__.py", "fruit/plum.py"]},
        {"a": ["fruit/pear/stem.py"]},
        {"b": ["fruit/fig/_deep.py", "fruit/_p.py"]},
    ]


def test_of_a_name_that_several_entries_have_all_are_taken() -> None:
    found, _ = ordered(
        {
            "a": {"pear/__init__.py": "import fig", "pear/one.py": ""},
            "b": {"pear/__init__.py": "from . import two", "pear/two.py": ""},
            "c": {"fig.py": "", "fig/__init__.py": "", "fig/three.py": ""},
        }
    )
    assert found == [
        {
            "a": ["pear/__init__.py"],
            "b": ["pear/__init__.py", "pear/two.py"],
            "c": ["fig.py", "fig/__init__.py"],
        },
        {"a": ["pear/one.py"], "c": ["fig/three.py"]},
    ]


def test_circles_end() -> None:
    files = {
        "a.py": "import b",
        "b.py": "from c import d",
        "c/__init__.py": "import c.e",
        "c/e.py": "import a",
    }
    assert first(files) == list(files)


def test_what_is_no_source_or_leads_nowhere_is_passed_over() -> None:
    """Broken text, what cannot be read, extension modules, the standard library, and above the top."""
    files: Mapping[str, str | bytes | None] = {
        "a.py": "def (:\n'''\nimport b\n",
        "b.py": None,
        "c.py": "import os, c._extension, c.d\nfrom .... import e\nfrom c._extension import f",
        "g.py": b"\xff\xfe\0import",
    }
    assert first(files) == ["a.py", "b.py", "c.py", "g.py"]


def test_what_has_no_name_to_import_it_by_comes_with_the_rest() -> None:
    found, _ = ordered(
        {
            "entry": {
                "pear.py": "",
                "not-a-module.py": "",
                "a.b.py": "",
                "__init__.py": "",
                "pear-1.0.dist-info/x.py": "",
            },
            "empty": {},
        }
    )
    assert found == [
        {"entry": ["pear.py"]},
        {"entry": ["not-a-module.py", "a.b.py", "__init__.py", "pear-1.0.dist-info/x.py"]},
    ]


def test_without_modules_there_are_no_waves() -> None:
    assert ordered({}) == ([], [])
    assert ordered({"entry": {}}) == ([], [])
