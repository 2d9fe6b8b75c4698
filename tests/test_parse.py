"""A requirements file: one canonical form for every spelling, and every fault with its line."""

import string
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from packaging.requirements import Requirement as PackagingRequirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from vrfstore.errors import RequirementsError
from vrfstore.model import Requirements
from vrfstore.requirements.files import read
from vrfstore.requirements.parse import parse

A, B = "a" * 64, "b" * 64
FILE = "project/requirements.vrf"


def canonical(text: str) -> str:
    return parse(text.encode(), FILE).canonical


def outcome(data: bytes) -> Requirements | RequirementsError:
    try:
        return parse(data, FILE)
    except RequirementsError as error:
        return error


def refused(data: str | bytes) -> RequirementsError:
    with pytest.raises(RequirementsError) as caught:
        parse(data.encode() if isinstance(data, str) else data, FILE)
    assert caught.value.path == FILE
    return caught.value


# --- one canonical form

SPACES = st.sampled_from(["", " ", "\t", "  "])
SPECIFIERS = st.lists(
    st.sampled_from([">=1", "<2", "!=1.5", "~=1.2", "==1.*", ">=1.0.post1", "<3!0", "==1+local"]),
    unique=True,
    max_size=3,
)
EXTRAS = st.lists(st.sampled_from(["socks", "use_chardet", "All.Of-It"]), unique=True, max_size=2)
MARKERS = st.sampled_from(["", "python_version>'3'", "os_name == 'posix' or (extra=='x' and os_name!='nt')"])
HASHES = st.lists(st.sampled_from([f"sha256:{A}", f"sha256:{B}", f"sha512:{A}{B}"]), unique=True, max_size=2)
NAMES = st.sampled_from(["six", "ruamel.yaml", "Flask", "typing_extensions", "zope.interface", "a-b--c"])

Parts = tuple[str, list[str], list[str], str, list[str]]
PARTS: st.SearchStrategy[Parts] = st.tuples(NAMES, EXTRAS, SPECIFIERS, MARKERS, HASHES)


def line_of(parts: Parts, separator: str = "") -> str:
    """One way to write a requirement; ``separator`` stands wherever white space may."""
    name, extras, specifiers, marker, hashes = parts
    s = separator
    bracketed = f"{s}[{s}{f'{s},{s}'.join(extras)}{s}]" if extras else ""
    conditional = f" ;{s}{marker}" if marker else ""
    options = "".join(f" --hash={value}" for value in hashes)
    return f"{name}{bracketed}{s}{f'{s},{s}'.join(specifiers)}{conditional}{options}"


def other_spelling(name: str, choose: Callable[[Sequence[str]], str]) -> str:
    """The same project name by PEP 503: other case, and other runs of ``-``, ``_`` and ``.``."""
    return "".join(
        choose(["-", "_", ".", "-.", "__"]) if letter == "-" else choose([letter, letter.upper()])
        for letter in canonicalize_name(name)
    )


@given(parts=PARTS, data=st.data())
def test_spacing_spelling_and_order_inside_a_line_do_not_matter(parts: Parts, data: st.DataObject) -> None:
    name, extras, specifiers, marker, hashes = parts

    def choose(options: Sequence[str]) -> str:
        return data.draw(st.sampled_from(options))

    def shuffled(values: list[str]) -> list[str]:
        return data.draw(st.permutations(values))

    written = (
        other_spelling(name, choose),
        [other_spelling(extra, choose) for extra in shuffled(extras)],
        shuffled(specifiers),
        marker.replace("'", choose("'\"")),
        shuffled([*hashes, *hashes]),
    )
    assert canonical(line_of(written, data.draw(SPACES))) == canonical(line_of(parts))


@given(lines=st.lists(PARTS.map(line_of), max_size=5), data=st.data())
def test_order_repetition_comments_blanks_and_line_ends_do_not_matter(
    lines: list[str], data: st.DataObject
) -> None:
    repeated = [*lines, *data.draw(st.lists(st.sampled_from(lines), max_size=3) if lines else st.just([]))]
    noise = data.draw(st.lists(st.sampled_from(["", "   ", "# note", "\t# -e . --pre"]), max_size=3))
    dressed = [
        data.draw(SPACES) + line + data.draw(st.sampled_from(["", "  # why", " #"])) for line in repeated
    ]
    written = data.draw(st.sampled_from(["\n", "\r\n", "\r"])).join(
        data.draw(st.permutations(dressed + noise))
    )
    mark = data.draw(st.sampled_from(["", "\N{BYTE ORDER MARK}"]))
    assert canonical(mark + written) == canonical("\n".join(lines))


@given(parts=PARTS, data=st.data())
def test_a_line_continued_anywhere_means_the_same(parts: Parts, data: st.DataObject) -> None:
    line = line_of(parts)
    at = data.draw(st.integers(0, len(line)))
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    assert canonical(f"{line[:at]}\\{end}{line[at:]}{end}last") == canonical(f"{line}\nlast")


@given(lines=st.lists(PARTS.map(line_of), max_size=5))
def test_the_canonical_form_is_a_fixed_point(lines: list[str]) -> None:
    once = canonical("\n".join(lines))
    assert canonical(once) == once
    assert once.splitlines() == sorted(set(once.splitlines()))


@given(parts=PARTS)
def test_the_canonical_form_is_what_packaging_reads_as_the_same_requirement(parts: Parts) -> None:
    (item,) = parse(line_of(parts).encode(), FILE).items
    bare, *hashes = item.text.split(" --hash=")
    ours, theirs = PackagingRequirement(bare), PackagingRequirement(line_of((*parts[:4], [])))
    assert item.name == ours.name == canonicalize_name(theirs.name)
    assert ours.extras == set(map(canonicalize_name, theirs.extras))
    assert ours.specifier == SpecifierSet(",".join(parts[2])) == theirs.specifier
    assert ours.marker == theirs.marker
    assert hashes == sorted(parts[4])


def meaning(parts: Parts) -> tuple[object, ...]:
    name, extras, specifiers, marker, hashes = parts
    return canonicalize_name(name), frozenset(extras), frozenset(specifiers), marker, frozenset(hashes)


@given(one=PARTS, other=PARTS)
@example(one=("six", [], [], "", []), other=("six", ["socks"], [], "", []))
@example(one=("six", [], ["<2"], "", []), other=("six", [], ["<2", ">=1"], "", []))
@example(one=("six", [], [], "", []), other=("six", [], [], "python_version>'3'", []))
@example(one=("six", [], [], "", []), other=("six", [], [], "", [f"sha256:{A}"]))
@example(one=("six", [], [], "", [f"sha256:{B}"]), other=("six", [], [], "", [f"sha256:{A}"]))
def test_two_lines_that_mean_different_things_differ(one: Parts, other: Parts) -> None:
    assume(meaning(one) != meaning(other))
    assert canonical(line_of(one)) != canonical(line_of(other))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("", ""),
        ("# nothing\n\n   \n", ""),
        ("# a comment does not go on \\\nsix", "six\n"),
        ("\\", ""),
        ("six", "six\n"),
        ("six (>=1)", "six>=1\n"),
        ("six === legacy", "six===legacy\n"),
        ("six  # why\n", "six\n"),
        ("six\\\n>=1\\\n", "six>=1\n"),
        ("six # a comment goes on \\\nnot-a-line", "six\n"),
        ("six\\\n# a comment ends the line\nattrs", "attrs\nsix\n"),
        (
            f"six==1 \\\n    --hash=sha256:{B} \\\n    --hash sha256:{A}",
            f"six==1 --hash=sha256:{A} --hash=sha256:{B}\n",
        ),
        ("b\na\nB\n", "a\nb\n"),
        ("a>=1\na<2", "a<2\na>=1\n"),
        ("a[Y,x_Z]", "a[x-z,y]\n"),
        ("a; python_version>'3'", 'a ; python_version > "3"\n'),
        ('platform-check ; platform_version == "a/b"', 'platform-check ; platform_version == "a/b"\n'),
    ],
)
def test_canonical_form(written: str, expected: str) -> None:
    assert canonical(written) == expected


def test_an_item_has_the_line_where_it_first_begins() -> None:
    found = parse(b"# a comment\n\nsix \\\n  >=1\nattrs\nSIX>=1\n", FILE)
    assert found.path == FILE
    assert [(item.name, item.text, item.line) for item in found.items] == [
        ("attrs", "attrs", 5),
        ("six", "six>=1", 3),
    ]


# --- what is refused

OPTION_HINT = "name packages only; an index is chosen where vrfstore is called or configured"
LOCATION_HINT = "write the name of the package, as in: pandas>=2"


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("--index-url https://index.example/simple", "--index-url"),
        ("--index-url=https://index.example/simple", "--index-url"),
        ("--extra-index-url https://index.example/simple", "--extra-index-url"),
        ("--no-index", "--no-index"),
        ("-i https://index.example/simple", "-i"),
        ("-f https://index.example/files", "-f"),
        ("--find-links ./wheels", "--find-links"),
        ("-r more.txt", "-r"),
        ("--requirement more.txt", "--requirement"),
        ("-c limits.txt", "-c"),
        ("--constraint limits.txt", "--constraint"),
        ("-e .", "-e"),
        ("--editable git+https://index.example/six.git", "--editable"),
        ("--pre", "--pre"),
        ("--no-binary :all:", "--no-binary"),
        ("--trusted-host index.example", "--trusted-host"),
        ("six --index-url https://index.example/simple", "--index-url"),
        ("six \\\n  --index-url https://index.example/simple", "--index-url"),
        ("six --config-settings=x=y", "--config-settings"),
        ("six\t-i\thttps://index.example/simple", "-i"),
        ("six ; os_name == 'x\u2028--index-url=https://index.example/simple'", "--index-url"),
    ],
)
def test_options_are_refused_by_name(line: str, option: str) -> None:
    error = refused(f"attrs\n{line}\n")
    assert error.message == f"the option {option} may not be used here"
    assert (error.kind, error.line, error.hint) == ("requirement-forbidden", 2, OPTION_HINT)


@pytest.mark.parametrize(
    "line",
    [
        "git+https://index.example/six.git",
        "git+ssh://git@index.example/six.git@v1#egg=six",
        "https://index.example/six-1.0-py3-none-any.whl",
        "HTTPS://index.example/six",
        "file:///wheels/six-1.0-py3-none-any.whl",
        "file:six",
        "./six-1.0-py3-none-any.whl",
        "../six",
        ".",
        "~/six",
        "~six",
        "/wheels/six-1.0-py3-none-any.whl",
        "wheels/six",
        "six-1.0-py3-none-any.whl",
        "six-1.0.tar.gz",
        "six-1.0.zip",
        "C:\\wheels\\six.whl",
        "C:six",
    ],
)
def test_urls_and_paths_are_refused(line: str) -> None:
    error = refused(f"\n\n{line}")
    assert error.message == f"{line!r} is a URL or a path; only packages of the index may be named"
    assert (error.kind, error.line, error.hint) == ("requirement-forbidden", 3, LOCATION_HINT)


@pytest.mark.parametrize(
    "line",
    [
        "six @ https://index.example/six-1.0-py3-none-any.whl",
        "six@https://index.example/six",
        "six[socks] @ git+https://index.example/six.git",
        "six @ file:///wheels/six ; os_name == 'posix'",
    ],
)
def test_a_package_by_url_is_refused_and_its_name_offered(line: str) -> None:
    error = refused(line)
    assert error.message == "six is asked for by URL; only packages of the index may be named"
    assert (error.kind, error.line, error.hint) == ("requirement-forbidden", 1, "write: six")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("pandas=2.0", "Expected semicolon"),
        ("pandas 2.0", "Expected semicolon"),
        ("pandas>=2 numpy", "Expected comma"),
        ("pandas,numpy", "Expected semicolon"),
        ("pandas>=", "Expected"),
        (">=2", "Expected package name"),
        ("import pandas", "Expected semicolon"),
        ("pandas ; python_verion > '3'", "Expected a marker variable"),
        ("pandas#2", "Expected semicolon"),
        ("a\fb", "it holds a character"),
        ("a\u2028b", "it holds a character"),
        ("p\N{LATIN SMALL LETTER A WITH DIAERESIS}ndas", "Expected"),
        ("\0", "Expected package name"),
    ],
)
def test_what_is_no_requirement_is_refused_with_the_reason(line: str, reason: str) -> None:
    error = refused(f"six\n{line}")
    assert error.message.startswith(f"{line!r} is not a requirement: {reason}")
    assert "\n" not in error.message
    assert (error.kind, error.line) == ("requirement-syntax", 2)
    assert error.hint == "write one package a line, as in: pandas>=2,<3"


@pytest.mark.parametrize(
    "value",
    [
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha1:" + "a" * 40,
        "a" * 64,
        "sha256:",
        "sha256:" + "A" * 64,
        "sha256:" + "g" * 64,
        "sha256:abc",
        "sha256:" + "a" * 65,
        "sha512:" + "a" * 64,
    ],
)
def test_weak_and_malformed_hashes_are_refused(value: str) -> None:
    error = refused(f"six==1 --hash={value}")
    assert error.message == f"{value!r} is not a hash"
    assert (error.kind, error.line) == ("requirement-hash", 1)
    assert error.hint == "write --hash=sha256: and 64 hexadecimal digits"


@pytest.mark.parametrize("line", ["six_", "six_>=1", "six[socks_]"])
def test_a_name_that_no_package_may_have_is_refused(line: str) -> None:
    assert refused(f"attrs\n{line}").line == 2


def test_nesting_without_end_is_a_syntax_error() -> None:
    assert refused("six\nattrs ; " + "(" * 20_000).kind == "requirement-syntax"


@pytest.mark.parametrize("line", ["six ; os_name == 'a\u2028b'", "six ; os_name == 'a\x0cb'"])
def test_what_pip_takes_for_the_end_of_a_line_is_nowhere_in_a_requirement(line: str) -> None:
    assert refused(line).kind == "requirement-syntax"


def test_what_pip_takes_from_the_environment_is_refused() -> None:
    assert refused("six ; os_name == '${HOME}'").line == 1


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ("six\nattrs # für\n".encode("latin-1"), 2),
        (b"six\r\n\xff", 2),
        ("six\n".encode("utf-16"), 1),
        (b"\xef\xbb\xbfa\n\xe9", 2),
        (b"\xef\xbb\xbf\n\n\xe9", 3),
    ],
)
def test_other_encodings_are_refused_with_the_line(data: bytes, line: int) -> None:
    error = refused(data)
    assert (error.message, error.kind, error.line) == ("not UTF-8 text", "requirement-encoding", line)


def test_all_faults_are_told_at_once() -> None:
    error = refused("six\n-e .\npandas=2\n\nattrs\n./x.whl\n")
    first, second, third = str(error).splitlines()
    assert first == f"{FILE}:2: the option -e may not be used here"
    assert second.startswith(f"{FILE}:3: 'pandas=2' is not a requirement: ")
    assert third.startswith(f"{FILE}:6: './x.whl' is a URL or a path")
    assert (error.kind, error.line, error.exit_code) == ("requirement-forbidden", 2, 10)


@example(data=b"six_")
@given(data=st.one_of(st.binary(), st.text(string.printable + "\u2028é").map(str.encode)))
def test_any_bytes_are_parsed_or_refused_with_a_line(data: bytes) -> None:
    found = outcome(data)
    if isinstance(found, RequirementsError):
        assert found.line is not None
        assert 1 <= found.line <= len(data.splitlines()) + 1
    else:
        assert parse(found.canonical.encode(), FILE).canonical == found.canonical


# --- reading


def test_reading_gives_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "requirements.vrf"
    path.write_bytes(b"six\r\n\xff")
    assert read(str(path)) == b"six\r\n\xff"


@pytest.mark.parametrize(("size", "accepted"), [(1 << 20, True), ((1 << 20) + 1, False)])
def test_a_file_may_have_one_mebibyte(tmp_path: Path, size: int, accepted: bool) -> None:
    path = tmp_path / "requirements.vrf"
    path.write_bytes(b"#" * size)
    if accepted:
        assert len(read(str(path))) == size
    else:
        with pytest.raises(RequirementsError, match="more than 1 MiB") as caught:
            read(str(path))
        assert (caught.value.kind, caught.value.path) == ("requirements-too-large", str(path))


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("absent.vrf", "requirements-missing", "there is no such file"),
        ("", "requirements-unreadable", "the file cannot be read: Is a directory"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, kind: str, message: str) -> None:
    path = str(tmp_path / name)
    with pytest.raises(RequirementsError) as caught:
        read(path)
    assert (caught.value.message, caught.value.kind, caught.value.path) == (message, kind, path)
