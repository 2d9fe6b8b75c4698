"""Everything that can be asked for: which file is what, what it may say, and what several say together."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from support.wheels import WheelSpec, build_wheel, wheel_filename
from vrfstore import codec
from vrfstore.errors import RequirementsError, ResolutionError, UsageError
from vrfstore.model import Interpreter, Requirements
from vrfstore.requirements import files, inputs

PYTHON = Interpreter(
    executable="/usr/bin/python3.12",
    real="/usr/bin/python3.12",
    version="3.12.3",
    implementation="cpython",
    cache_tag="cpython-312",
    abi_flags="",
    magic="",
    platform="linux-x86_64",
    libc="glibc 2.36",
    prefix="/usr",
    virtual=False,
    site_directories=(),
    base=(),
)
LOCK = (
    'lock-version = "1.0"\ncreated-by = "other"\nextras = ["x"]\ndependency-groups = ["dev"]\npackages = []\n'
)
WHEEL = f"https://index.example/six-1.0-py3-none-any.whl#sha256={'a' * 64}"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes a file beside the others, and returns its path."""

    def written(text: str | bytes, name: str) -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return written


def refused(*paths: str, **options: object) -> RequirementsError:
    with pytest.raises(RequirementsError) as caught:
        inputs.read(paths, **options)  # type: ignore[arg-type]
    assert caught.value.exit_code == 10
    return caught.value


# --- which file is what


@pytest.mark.parametrize(
    ("name", "kind", "trusted"),
    [
        ("requirements.vrf", "text", False),
        ("requirements.txt", "text", True),
        ("dev.txt", "text", True),
        ("requirements.in", "text", True),
        ("requirements", "text", False),
        ("requirements.txt.vrf", "text", False),
        ("pyproject.toml", "project", True),
        ("pyproject.old.toml", "text", False),
        ("my-pyproject.toml", "text", False),
        ("uv.lock", "text", False),
        ("report.py", "script", False),
        ("pylock.toml", "lock", True),
        ("pylock.mine.toml", "lock", True),
        ("pylock.txt", "text", True),
    ],
)
def test_a_file_is_known_and_trusted_by_its_name(name: str, kind: str, trusted: bool) -> None:
    path = f"/some where/pylock.toml.txt/{name}"
    assert files.kind_of(path, "mine") == kind
    assert files.is_trusted(path) is trusted


@pytest.mark.parametrize(
    ("name", "service", "message", "hint"),
    [
        ("pylock.other.toml", "mine", "the name that is configured is mine", "use pylock.toml or pylock.mine.toml"),
        ("pylock.other.toml", "", "no name is configured", "use pylock.toml"),
        ("pylock.a.b.toml", "a.b", "the name that is configured is a.b", "use pylock.toml or pylock.a.b.toml"),
    ],
)  # fmt: skip
def test_a_lock_for_somebody_else_is_refused(name: str, service: str, message: str, hint: str) -> None:
    error = refused(f"/nowhere/{name}", service=service)
    assert error.message == f"{name} is not a lock for here: {message}"
    assert (error.kind, error.path, error.hint) == ("lock-name", f"/nowhere/{name}", hint)


def test_no_file_at_all_is_a_mistake_of_the_call() -> None:
    with pytest.raises(UsageError, match="no file says what is wanted"):
        inputs.read(())


def test_a_lock_is_kept_as_it_is(write: Callable[..., str]) -> None:
    path = write(LOCK, "pylock.toml")
    found = inputs.read((path,), extras=["X"], groups=["DEV"])
    assert [(lock.path, lock.text) for lock in found.locks] == [(path, LOCK)]
    assert (found.items, found.extras, found.groups) == ((), ("x",), ("dev",))


def test_a_lock_that_is_not_trusted_is_refused(write: Callable[..., str]) -> None:
    error = refused(write(LOCK, "pylock.toml"), trusted=False)
    assert error.message == "a lock says where code comes from, which is not for this one to say"
    assert (error.kind, error.line) == ("requirement-forbidden", None)


@pytest.mark.parametrize("name", ["requirements.vrf", "requirements", "report.py"])
def test_what_is_not_trusted_by_its_name_can_be_trusted(write: Callable[..., str], name: str) -> None:
    text = f'# /// script\n# dependencies = ["six @ {WHEEL}"]\n# ///\n' if name.endswith(".py") else WHEEL
    path = write(text, name)
    assert refused(path).kind == "requirement-forbidden"
    assert inputs.read((path,), trusted=True).canonical == f"six @ {WHEEL}\n"


def test_what_has_been_read_already_is_not_read_again(tmp_path: Path) -> None:
    path = str(tmp_path / "absent.vrf")
    assert inputs.read((path,), contents={path: b"six"}).canonical == "six\n"
    script = str(tmp_path / "absent.py")
    assert inputs.read_beside(script, contents={script: SCRIPT.encode()}).canonical == "six\n"


# --- several


def test_several_files_are_one_request(write: Callable[..., str]) -> None:
    project = write(
        '[project]\nname = "p"\ndependencies = ["b", "c"]\nrequires-python = ">=3.9"\n', "pyproject.toml"
    )
    script = write(
        '# /// script\n# requires-python = ">=3.11,<4"\n# dependencies = ["a"]\n# ///\n', "report.py"
    )
    text = write("c\nd\nb\n-c limits.in", "requirements.txt")
    limits = write("six<2", "limits.in")
    lock = write(LOCK, "pylock.toml")
    found = inputs.read((text, project, script, lock, limits))
    assert found.path == text
    assert [(item.text, item.path, item.line) for item in found.items] == [
        ("a", script, 3),
        ("b", "", 3),
        ("c", "", 1),
        ("d", "", 2),
        ("six<2", limits, 1),
    ]
    assert [(item.text, item.path) for item in found.constraints] == [("six<2", limits)]
    assert found.locks[0].path == lock
    # It was given, too.
    assert found.files == ()
    assert found.requires_python == ((project, ">=3.9"), (script, "<4,>=3.11"))


def test_the_order_of_files_changes_nothing_but_what_is_called_first(write: Callable[..., str]) -> None:
    paths = [write("b\na", "one.vrf"), write("a\nc", "two.vrf"), write("-c two.vrf", "three.txt")]
    found = [inputs.read(order) for order in (paths, paths[::-1], [*paths, paths[0]])]
    assert len({codec.digest_of(each.identity) for each in found}) == 1
    assert found[0].path != found[1].path


def test_faults_of_all_files_are_told_at_once(write: Callable[..., str], tmp_path: Path) -> None:
    text, project = write("six\n-e .", "requirements.vrf"), write("[project", "pyproject.toml")
    error = refused(text, project, str(tmp_path / "absent.vrf"))
    assert str(error).splitlines() == [
        f"{text}:2: the option -e may not be used here",
        f"{project}:1: this is not TOML: Expected ']' at the end of a table declaration",
        f"{tmp_path}/absent.vrf: there is no such file",
    ]


@pytest.mark.parametrize(
    ("extras", "groups", "message", "kind", "hint"),
    [
        (["test", "no.such"], [], "there is no extra 'no-such'", "extra-missing", "there are: test, x"),
        ([], ["lint", "no_such"], "there is no group 'lint', 'no-such'", "group-missing", "there are: dev"),
    ],
)
def test_an_extra_or_group_that_no_file_has_is_named(
    write: Callable[..., str], extras: list[str], groups: list[str], message: str, kind: str, hint: str
) -> None:
    project = write('[project]\nname = "p"\n[project.optional-dependencies]\ntest = []\n', "pyproject.toml")
    error = refused(project, write(LOCK, "pylock.toml"), extras=extras, groups=groups)
    assert (error.message, error.kind, error.path, error.hint) == (message, kind, project, hint)


def test_a_text_has_no_extras(write: Callable[..., str]) -> None:
    error = refused(write("six", "requirements.vrf"), extras=["x"])
    assert error.hint == "give a pyproject.toml or a lock that has one, or leave out --extra"


def test_an_interpreter_has_to_be_one_that_every_file_is_for(write: Callable[..., str]) -> None:
    project = write('[project]\nname = "p"\nrequires-python = ">=3.13"\n', "pyproject.toml")
    found = inputs.read((project,))
    inputs.check_python(found, replace(PYTHON, version="3.13.0rc1"))
    with pytest.raises(ResolutionError) as caught:
        inputs.check_python(found, PYTHON)
    assert caught.value.message == "this is for Python >=3.13, and /usr/bin/python3.12 is 3.12.3"
    assert (caught.value.kind, caught.value.path) == ("requires-python", project)


# --- a script, or what lies beside it

SCRIPT = '# /// script\n# dependencies = ["six"]\n# ///\n'


def test_a_script_that_says_what_it_needs_is_taken_at_its_word(write: Callable[..., str]) -> None:
    write("attrs", "requirements.vrf")
    noted: list[str] = []
    found = inputs.read_beside(write(SCRIPT, "report.py"), before_reading=noted.append)
    assert (found.canonical, found.files, noted) == ("six\n", (), [])


def test_a_script_that_says_nothing_has_what_lies_beside_it(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    beside = write("attrs", "requirements.vrf")
    script = write("print(1)", "report.py")
    noted: list[str] = []
    found = inputs.read_beside(script, before_reading=noted.append)
    assert [(item.text, item.path, item.line) for item in found.items] == [("attrs", beside, 1)]
    assert (found.path, found.files, noted) == (script, (beside,), [beside])
    monkeypatch.chdir(tmp_path)
    assert inputs.read_beside("report.py").items[0].path == "requirements.vrf"


def test_what_lies_beside_a_script_is_trusted_only_where_that_is_said(write: Callable[..., str]) -> None:
    beside, script = write(f"{WHEEL}\n-c limits", "requirements.vrf"), write("print(1)", "report.py")
    write("attrs<9", "limits")
    with pytest.raises(RequirementsError) as caught:
        inputs.read_beside(script)
    assert (caught.value.kind, caught.value.path, caught.value.line) == ("requirement-forbidden", beside, 1)
    found = inputs.read_beside(script, trusted=True)
    assert found.files == (f"{os.path.dirname(beside)}/limits", beside)
    assert [item.path for item in found.constraints] == [f"{os.path.dirname(beside)}/limits"]


def test_where_neither_says_anything_both_ways_are_shown(write: Callable[..., str]) -> None:
    script = write("print(1)", "report.py")
    assert refused(script).kind == "script-block-missing"
    with pytest.raises(RequirementsError) as caught:
        inputs.read_beside(script)
    error = caught.value
    assert error.message == (
        "the script does not say what it needs, and there is no requirements.vrf beside it"
    )
    assert (error.kind, error.path, error.exit_code) == ("script-block-missing", script, 10)
    assert error.hint is not None
    assert "# /// script" in error.hint
    assert "requirements.vrf with one package a line" in error.hint


def test_a_script_that_is_not_there_is_just_missing(tmp_path: Path) -> None:
    with pytest.raises(RequirementsError) as caught:
        inputs.read_beside(str(tmp_path / "absent.py"))
    assert (caught.value.kind, caught.value.path) == ("requirements-missing", str(tmp_path / "absent.py"))


# --- one digest for what means the same

NAMES = ["six", "ruamel.yaml", "Typing_Extensions"]
SPECIFIERS = st.lists(st.sampled_from([">=1", "<2", "!=1.5", "==1.*"]), unique=True, max_size=2).map(tuple)
HASHES = st.sampled_from(["", "a" * 64, "b" * 64])
Wanted = tuple[str, tuple[str, ...], str, str, str]
ITEM: st.SearchStrategy[Wanted] = st.tuples(
    st.sampled_from(NAMES),
    SPECIFIERS,
    st.sampled_from(["", "x", "y"]),
    st.sampled_from(["", 'python_version > "3"', 'os_name == "nt"']),
    HASHES,
)
WHEELS = st.sampled_from(["", "one", "other"])
"""The content of a local wheel, where there is one."""
REQUEST = st.tuples(
    st.lists(ITEM, unique=True, max_size=3),
    st.lists(ITEM, unique=True, max_size=2),
    WHEELS,
    st.sets(st.sampled_from(["x", "y"])),
    st.sets(st.sampled_from(["dev", "docs"])),
)
Request = tuple[Sequence[Wanted], Sequence[Wanted], str, set[str], set[str]]
LOCK_WITH_CHOICE = LOCK.replace('["x"]', '["x", "y"]').replace('["dev"]', '["dev", "docs"]')


def meaning(request: Request) -> object:
    items, limits, wheel, extras, groups = request

    def normal(wanted: Sequence[Wanted], *, constraint: bool) -> frozenset[object]:
        return frozenset(
            (name, frozenset(specifiers), "" if constraint else extra, marker, digest)
            for name, specifiers, extra, marker, digest in wanted
        )

    return (
        normal(items, constraint=False), normal(limits, constraint=True), wheel, frozenset(extras), frozenset(groups)
    )  # fmt: skip


def line_of(wanted: Wanted, draw: Callable[[Sequence[str]], str], *, constraint: bool) -> str:
    name, specifiers, extra, marker, digest = wanted
    name = "".join(
        draw([letter.lower(), letter.upper()]) if letter.isalpha() else draw("-_.") for letter in name
    )
    space = draw(["", " ", "\t"])
    bracketed = f"[{space}{extra}{space}]" if extra and not constraint else ""
    parts = [
        f"{name}{bracketed}{space}{f'{space},'.join(draw_order(specifiers, draw))}",
        f"; {marker}" if marker else "",
        f"--hash=sha256:{digest}" if digest else "",
    ]
    gap = draw([" ", "  ", " \\\n ", " \\\r\n\t"])
    return gap.join(filter(None, parts)) + draw(["", "  # why", " #"])


def draw_order(values: Sequence[str], draw: Callable[[Sequence[str]], str]) -> list[str]:
    return sorted(values, reverse=bool(draw(["", "r"])))


def digest_of(request: Request, draw: Callable[[Sequence[str]], str], directory: Path) -> str:
    """Write a request down in one of many ways, read it, and return its digest."""
    items, limits, wheel, extras, groups = request
    for stale in directory.iterdir():
        stale.unlink()
    lines = [line_of(item, draw, constraint=False) for item in items]
    lines += [line for line in lines if draw(["", "again"])]
    if wheel:
        spec = WheelSpec(name="local", files={"local.py": wheel})
        build_wheel(spec, directory)
        name = wheel_filename(spec)
        lines.append(draw([f"./{name}", str(directory / name), f"local @ file://{directory}/{name}"]))
    constraints = [line_of(item, draw, constraint=True) for item in limits]
    lines += [draw(["", "# a comment", "   "])]
    if draw(["", "reversed"]):
        lines, constraints = lines[::-1], constraints[::-1]
    end = draw(["\n", "\r\n", "\r"])
    if draw(["", "nested"]):
        (directory / "more.in").write_bytes(end.join(lines).encode())
        lines = ["-r more.in"]
    (directory / "limits.in").write_bytes(end.join(constraints).encode())
    (directory / "first.txt").write_bytes(end.join([*lines, "-c limits.in"]).encode())
    (directory / "pylock.toml").write_text(LOCK_WITH_CHOICE)
    paths = [str(directory / "first.txt"), str(directory / "pylock.toml")]
    found = inputs.read(
        paths if draw(["", "reversed"]) else paths[::-1],
        extras=[draw([extra, extra.upper()]) for extra in extras],
        groups=[draw([group, group.upper()]) for group in sorted(groups)],
    )
    return codec.digest_of(found.identity)


@given(request=REQUEST, data=st.data())
def test_how_a_request_is_written_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, request: Request, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("request")

    def draw(options: Sequence[str]) -> str:
        return data.draw(st.sampled_from(options))

    assert digest_of(request, draw, directory) == digest_of(request, lambda options: options[0], directory)


@given(one=REQUEST, other=REQUEST)
def test_whatever_could_change_the_outcome_does_matter(
    tmp_path_factory: pytest.TempPathFactory, one: Request, other: Request
) -> None:
    assume(meaning(one) != meaning(other))
    directory = tmp_path_factory.mktemp("request")
    assert len({digest_of(each, lambda options: options[0], directory) for each in (one, other)}) == 2


def base() -> Requirements:
    return Requirements(path="requirements.vrf", items=())


def test_which_pythons_a_file_is_for_matters_and_where_it_is_does_not() -> None:
    one = replace(base(), requires_python=(("a", ">=3.9"),)).identity
    assert one == replace(base(), path="b", requires_python=(("b", ">=3.9"),)).identity
    assert one != base().identity


# --- hostile files


@given(
    data=st.binary(max_size=300),
    name=st.sampled_from(["a.txt", "a.vrf", "a.py", "pyproject.toml", "pylock.toml"]),
)
def test_any_bytes_are_read_or_refused(data: bytes, name: str) -> None:
    path = f"/nowhere/{name}"
    try:
        found = inputs.read((path,), contents={path: data})
    except RequirementsError as error:
        assert error.path == path  # noqa: PT017 - reading is what may happen too
    else:
        assert found.path == path


@pytest.mark.parametrize(
    ("name", "limit"),
    [("a.txt", 1), ("a.vrf", 1), ("pyproject.toml", 1), ("a.py", 16), ("pylock.toml", 16)],
)
def test_how_large_a_file_may_be(write: Callable[..., str], name: str, limit: int) -> None:
    error = refused(write(b"#" * ((limit << 20) + 1), name))
    assert error.message == f"the file has more than {limit} MiB; that is no requirements file"
    assert error.kind == "requirements-too-large"


@pytest.mark.parametrize("name", ["a.txt", "a.vrf", "a.py", "pyproject.toml", "pylock.toml"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-32"])
def test_other_encodings_are_refused(write: Callable[..., str], name: str, encoding: str) -> None:
    text = "# für\n# /// script\n# ///\n" if name.endswith(".py") else "# für\n[project]\n"
    error = refused(write(text.encode(encoding), name))
    assert (error.message, error.kind, error.line) == ("not UTF-8 text", "requirement-encoding", 1)


def test_thousands_of_faults_are_counted() -> None:
    error = refused("a.vrf", contents={"a.vrf": b"-e .\n" * 20_000})
    assert error.message.count("\n") == 100
    assert error.message.endswith("\nand 19900 more")
