"""What a ``pyproject.toml`` asks for, and what a script does: held to the standards, and to packaging."""

import time
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.dependency_groups import DependencyGroupResolver

from vrfstore.errors import RequirementsError
from vrfstore.model import Requirements
from vrfstore.requirements import inputs, toml

PATH = "/project/pyproject.toml"
SCRIPT = "/project/report.py"


def project(text: str, extras: Sequence[str] = (), groups: Sequence[str] = ()) -> Requirements:
    return inputs.read((PATH,), contents={PATH: text.encode()}, extras=extras, groups=groups)


def texts(found: Requirements) -> list[str]:
    return [item.text for item in found.items]


def refused(text: str, extras: Sequence[str] = (), groups: Sequence[str] = ()) -> RequirementsError:
    with pytest.raises(RequirementsError) as caught:
        project(text, extras, groups)
    assert (caught.value.path, caught.value.exit_code) == (PATH, 10)
    return caught.value


WHOLE = """
[build-system]
requires = ["hatchling"]

[project]
name = "Report.Tools"
requires-python = ">=3.9, <4"
dependencies = [
    "pandas>=2",
    "Six ; python_version>'3'",
]

[project.optional-dependencies]
test = ["pytest", "report-tools[Fast]"]
fast = ["isal"]
all = ["report_tools[test,docs] ; os_name=='posix'", "report-tools"]
docs = ["sphinx ; python_version > '3.10'"]

[dependency-groups]
Lint = ["ruff", {include-group = "common"}]
common = ["mypy"]
tests = ["pytest", "report-tools[fast]", {include-group = "LINT"}]
"""


def test_dependencies_are_asked_for_with_their_lines() -> None:
    found = project(WHOLE)
    assert [(item.text, item.line) for item in found.items] == [
        ("pandas>=2", 9),
        ('six ; python_version > "3"', 10),
    ]
    assert found.requires_python == ((PATH, "<4,>=3.9"),)


def test_extras_come_with_those_that_they_name_of_the_project_itself() -> None:
    assert texts(project(WHOLE, ["test"])) == ["isal", "pandas>=2", "pytest", 'six ; python_version > "3"']
    assert texts(project(WHOLE, ["ALL"])) == [
        'isal ; os_name == "posix"',
        "pandas>=2",
        'pytest ; os_name == "posix"',
        'six ; python_version > "3"',
        'sphinx ; os_name == "posix" and python_version > "3.10"',
    ]


def test_groups_come_with_those_that_they_include() -> None:
    found = project(WHOLE, groups=["tests"])
    assert [text for text in texts(found) if "six" not in text and "pandas" not in text] == [
        "mypy", "pytest", "report-tools[fast]", "ruff"
    ]  # fmt: skip
    assert found.groups == ("tests",)


def test_groups_need_no_project() -> None:
    assert texts(project('[dependency-groups]\ndev = ["ruff"]\n', groups=["dev"])) == ["ruff"]


def test_a_project_may_ask_for_nothing() -> None:
    assert project('[project]\nname = "p"\n').items == ()


@pytest.mark.parametrize(
    ("text", "message", "kind", "line"),
    [
        ("[tool.other]\n", "there is no [project] table, so nothing is asked for", "project-missing", None),
        (
            "[project]\ndynamic = ['dependencies']\n",
            "the dependencies of this project are dynamic: they are known only once it is built",
            "project-dynamic",
            None,
        ),
        ("[project]\ndynamic = 1\n", "project.dynamic is not an array of texts", "project-invalid", None),
        ("project = 1\n", "project is not a table", "project-invalid", None),
        ("[project]\ndependencies = 'six'\n", "project.dependencies is not an array of texts", "project-invalid", None),
        ("[project]\ndependencies = [1]\n", "project.dependencies is not an array of texts", "project-invalid", None),
        ("[project]\noptional-dependencies = []\n", "optional-dependencies is not a table", "project-invalid", None),
        (
            "[project.optional-dependencies]\na-b = []\nA_b = []\n",
            "the extra 'A_b' is there twice, as 'a-b'",
            "project-invalid",
            None,
        ),
        (
            "[project]\nrequires-python = 'three'\n",
            "project.requires-python is 'three', which says nothing of versions",
            "project-invalid",
            2,
        ),
        ("[project]\nrequires-python = 3\n", "project.requires-python is '3', which says nothing of versions",
         "project-invalid", None),
        ("dependency-groups = 1\n[project]\n", "dependency-groups is not a table", "project-invalid", None),
        ("[project]\nname = \n", "this is not TOML: Invalid value", "project-invalid", 2),
        ("[project]\n[project]\n", "this is not TOML: Cannot declare ('project',) twice", "project-invalid", 2),
        ("[project]\nname = '\0'\n", "this is not TOML: Found invalid character '\\x00'", "project-invalid", 2),
    ],
)  # fmt: skip
def test_what_is_no_project_is_refused(text: str, message: str, kind: str, line: int | None) -> None:
    error = refused(text)
    assert (error.message, error.kind, error.line) == (message, kind, line)


def test_dynamic_extras_matter_only_to_who_wants_extras() -> None:
    text = "[project]\ndynamic = ['optional-dependencies', 'version']\n"
    assert project(text).items == ()
    assert refused(text, ["x"]).kind == "project-dynamic"


def test_every_faulty_requirement_is_told_with_its_place() -> None:
    error = refused(
        "[project]\ndependencies = [\n'pandas=2',\n'./x.whl',\n'-r more.txt',\n'a b',\n"
        "'six @ https://me:secret@index.example/six-1-py3-none-any.whl',\n]\n"
        "optional-dependencies.x = ['a b']",
        ["x"],
    )
    lines = str(error).splitlines()
    assert [line.partition(" is not")[0].partition(": the URL")[0] for line in lines] == [
        f"{PATH}: project.optional-dependencies.x: 'a b'",
        f"{PATH}:3: project.dependencies: 'pandas=2'",
        f"{PATH}:4: project.dependencies: './x.whl'",
        f"{PATH}:5: project.dependencies: '-r more.txt'",
        f"{PATH}: project.dependencies: 'a b'",
        f"{PATH}:7",
    ]
    assert error.kind == "requirement-syntax"
    assert "secret" not in str(error)


def test_a_wheel_by_url_may_be_asked_for_where_that_is_trusted() -> None:
    url = f"https://index.example/six-1.0-py3-none-any.whl#sha256={'a' * 64}"
    text = f'[project]\ndependencies = ["six @ {url}"]\n'
    assert texts(project(text)) == [f"six @ {url}"]
    with pytest.raises(RequirementsError, match="six is asked for by URL") as caught:
        inputs.read((PATH,), contents={PATH: text.encode()}, trusted=False)
    assert (caught.value.kind, caught.value.line) == ("requirement-forbidden", 2)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("a = [{include-group = 'a'}]", "dependency groups include one another: a > a"),
        (
            "a = [{include-group = 'b'}]\nb = [{include-group = 'a'}]",
            "dependency groups include one another: a > b > a",
        ),
        ("a = 'six'", "dependency-groups.a is not an array"),
        ("a = [1]", "dependency-groups.a has something that is neither a text nor include-group"),
        ("a = [{include-group = 1}]", "dependency-groups.a has something that is neither a text nor include-group"),
        ("a = [{include-group = 'b', x = 1}]",
         "dependency-groups.a has something that is neither a text nor include-group"),
        ("a = [{include-group = 'b'}]", "dependency-groups.a includes the group 'b', which is not there"),
        ("a = []\nA = []", "the group 'A' is there twice, as 'a'"),
    ],
)  # fmt: skip
def test_what_is_no_group_is_refused(groups: str, message: str) -> None:
    error = refused(f"[dependency-groups]\n{groups}\n", groups=["a"])
    assert (error.message, error.kind) == (message, "project-invalid")


GROUPS = st.dictionaries(
    st.sampled_from("abcd"),
    st.lists(
        st.one_of(
            st.sampled_from(["six", "attrs>=1"]),
            st.sampled_from("abcde").map(lambda name: {"include-group": name}),
        ),
        max_size=3,
    ),
    max_size=4,
)


@given(groups=GROUPS, wanted=st.sampled_from("abcd"))
def test_groups_mean_what_packaging_takes_them_for(
    groups: Mapping[str, Sequence[str | Mapping[str, str]]], wanted: str
) -> None:
    written = "[dependency-groups]\n" + "".join(
        f"{name} = [{', '.join(repr(item) if isinstance(item, str) else _inline(item) for item in items)}]\n"
        for name, items in groups.items()
    )
    try:
        expected = {str(item) for item in DependencyGroupResolver(groups).resolve(wanted)}
    except ExceptionGroup:
        assert refused(written, groups=[wanted]).exit_code == 10
    else:
        assert set(texts(project(written, groups=[wanted]))) == expected


def _inline(item: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'{key} = "{value}"' for key, value in item.items()) + "}"


def quick(text: str, *, extras: Sequence[str] = (), groups: Sequence[str] = ()) -> RequirementsError | None:
    """Read a project within two seconds, whatever it holds."""
    began = time.perf_counter()
    try:
        project(text, extras, groups)
    except RequirementsError as error:
        return error
    finally:
        assert time.perf_counter() - began < 2
    return None


def doubled(names: str, item: str) -> str:
    """Thirty arrays, of which each has the next twice."""
    return "".join(f"{names}{n} = [{', '.join([item.format(n + 1)] * 2)}]\n" for n in range(30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = " + "[" * 100_000, "this is not TOML: it is nested too deeply"),
        ("x = " + "{a=" * 100_000, "this is not TOML: it is nested too deeply"),
        ("a." * 100_000 + "a = 1", "this is not TOML: a key may be endless"),
        ("x = {" + "a . " * 100_000 + "a = 1}", "this is not TOML: a key may be endless"),
        ("  [" + "a." * 200 + "a]\n" + "a = 1\n" * 100_000, "this is not TOML: a key may be endless"),
        ("x = " + "9" * 100_000, "this is not TOML: Exceeds the limit"),
        ("[project]\ndependencies = ['six ; " + "(" * 20_000 + "']", "project.dependencies: 'six ; (((("),
    ],
    ids=["arrays", "tables", "key", "inner key", "header", "number", "marker"],
)
def test_a_bomb_of_toml_does_not_go_off(text: str, message: str) -> None:
    error = quick(text)
    assert error is not None
    assert error.message.startswith(message)
    assert len(error.message) < 500


def test_extras_and_groups_that_double_do_not_grow_without_end() -> None:
    head = "[project]\nname = 'p'\n"
    last = "x30 = ['six']\n"
    extras = head + "[project.optional-dependencies]\n" + doubled("x", "'p[x{}]'") + last
    assert quick(extras, extras=["x0"]) is None
    assert (
        quick("[dependency-groups]\n" + doubled("x", "{{include-group='x{}'}}") + last, groups=["x0"]) is None
    )
    ways = "".join(
        f"x{n} = [\"p[x{n + 1}] ; os_name == 'a'\", \"p[x{n + 1}] ; os_name == 'b'\"]\n" for n in range(30)
    )
    error = quick(f"{head}[project.optional-dependencies]\n{ways}{last}", extras=["x0"])
    assert error is not None
    assert error.message == "extras lead to one another in more than 200 ways"
    deep = "".join(f"x{n} = [{{include-group = 'x{n + 1}'}}]\n" for n in range(2000))
    error = quick(f"[dependency-groups]\n{deep}x2000 = []\n", groups=["x0"])
    assert error is not None
    assert error.message == "dependency groups include one another: x47 > x48 > x49 > x50"


def test_extras_may_lead_in_a_circle() -> None:
    text = "[project]\nname = 'p'\noptional-dependencies = {a = ['p[b]', 'six'], b = ['p[a]', 'attrs']}\n"
    assert texts(project(text, ["a"])) == ["attrs", "six"]


def test_many_dots_in_ordinary_lines_are_fine() -> None:
    line = ", ".join(f'"package-{number}>=1.2.3"' for number in range(3_000))
    assert len(project(f"[project]\ndependencies = [{line}]\n").items) == 3_000
    document = toml.loads("# " + "." * 5_000 + "\nx = '" + "a." * 2_000 + "'", PATH, "kind")
    assert len(document["x"]) == 4_000


# --- scripts


def script(text: str) -> Requirements:
    return inputs.read((SCRIPT,), contents={SCRIPT: text.encode()})


def script_refused(text: str) -> RequirementsError:
    with pytest.raises(RequirementsError) as caught:
        script(text)
    assert caught.value.path == SCRIPT
    return caught.value


BLOCK = """\
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "six<2",
#   "attrs",  # why
# ]
#
# [tool.other]
# dependencies = 1
# ///
"""


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("before", ["", "#!/usr/bin/env python\n\n", "\N{BYTE ORDER MARK}import os\n"])
def test_a_script_says_what_it_needs(before: str, end: str) -> None:
    found = script((before + BLOCK + "print(1)\n").replace("\n", end))
    above = before.count("\n")
    assert [(item.text, item.line) for item in found.items] == [("attrs", above + 5), ("six<2", above + 4)]
    assert found.requires_python == ((SCRIPT, ">=3.11"),)


@pytest.mark.parametrize(
    "text",
    [
        "# /// script\n# ///\n# dependencies = ['six']\n# ///",
        "# /// script\n# dependencies = ['six']\n# ///",
        "# /// script\n# dependencies = ['six']\n# # ///\n# ///\n# comment\n",
        "# /// other\n# x\n# ///\n\n# /// script\n# dependencies = ['six']\n# ///",
        "# /// script\n\n# /// script\n# dependencies = ['six']\n# ///\n# not part of it",
        "if True:\n    # /// script\n    # x\n    # ///\n    pass\n# /// script\n# dependencies = ['six']\n# ///",
    ],
)
def test_where_a_block_begins_and_ends(text: str) -> None:
    if text.startswith("# /// script\n# ///"):
        # The first of the end lines belongs to the content, which is then not TOML.
        assert script_refused(text).kind == "script-invalid"
    else:
        assert texts(script(text)) == ["six"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "print(1)",
        "# /// script\n# dependencies = ['six']\n",
        "# /// script\n# dependencies = ['six']\n#///",
        "# /// script\n# dependencies = ['six']\n\n# ///",
        "# /// script\n# dependencies = ['six']\n#no space\n# ///",
        "# /// script\n# ///",
        "# /// script \n# dependencies = ['six']\n# ///",
        "#/// script\n# dependencies = ['six']\n# ///",
        "# /// Script\n# dependencies = ['six']\n# ///",
        " # /// script\n # dependencies = ['six']\n # ///",
        "# /// other\n# /// script\n# dependencies = ['six']\n# ///",
    ],
)
def test_what_is_no_block_says_nothing(text: str) -> None:
    error = script_refused(text)
    assert (error.message, error.kind) == ("the script does not say what it needs", "script-block-missing")


def test_a_block_may_say_that_nothing_is_needed() -> None:
    assert script("# /// script\n#\n# ///").items == ()


@pytest.mark.parametrize(
    ("text", "message", "kind", "line"),
    [
        (f"{BLOCK}\n{BLOCK}", "the script has more than one block that says what it needs", "script-invalid", 12),
        ("\n# /// script\n# x = 1\n# x = \n# ///", "this is not TOML: Invalid value", "script-invalid", 4),
        ("# /// script\n# dependencies = 1\n# ///", "dependencies is not an array of texts", "script-invalid", None),
        ("# /// script\n# requires-python = 'x'\n# ///", "requires-python is 'x', which says nothing of versions",
         "script-invalid", 2),
        ("# /// script\n# dependencies = ['./six']\n# ///",
         "dependencies: './six' is not a requirement: Expected package name at the start of dependency specifier",
         "requirement-syntax", 2),
        ("# /// script\n# dependencies = ['six @ https://a/b']\n# ///",
         "six is asked for by URL; only packages of the index may be named", "requirement-forbidden", 2),
    ],
)  # fmt: skip
def test_what_a_script_says_wrongly_is_refused_with_its_line(
    text: str, message: str, kind: str, line: int | None
) -> None:
    error = script_refused(text)
    assert (error.message, error.kind, error.line) == (message, kind, line)


def test_a_script_of_comments_without_end_is_read_at_once() -> None:
    began = time.perf_counter()
    error = script_refused("# /// script\n" * 200_000)
    assert error.kind == "script-block-missing"
    assert time.perf_counter() - began < 2
