"""What trusted requirements texts may say beyond names, and what neither they nor others may, with the exact words."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.index import Index
from support.wheels import WheelSpec, build_wheel, wheel_bytes
from vrfstore.errors import RequirementsError
from vrfstore.model import Requirements
from vrfstore.requirements import inputs

A = "a" * 64
B = "b" * 64
BUILD = "build a wheel of it, and write the path of that, or its URL with its hash"
INDEX = "give it on the command line, or in pip's configuration"
WHEELS = "leave it out: only wheels are ever installed"
LEAVE = "leave it out; it means nothing here"
REWRITE = "check how it is written"
CREDENTIALS = "the URL has credentials in it, which would be written into locks"
NETRC = "leave them out, and give them in ~/.netrc or in pip's configuration"
FILE_URL = "write file:/// and the absolute path"
ONE_HASH = "six is one file, and may have one hash, its SHA-256"
NO_HASH = "six is asked for by URL without its SHA-256; nobody could tell whether it is still the same file"
WHEEL = "https://index.example/six-1.0-py3-none-any.whl"


def wheel_less(what: str) -> str:
    return f"{what} is neither a package of the index nor a wheel, and nothing is built here"


def option(name: str) -> str:
    return f"the option {name} may not be used in a file"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes a file beside the others, and returns its path."""

    def written(text: str | bytes, name: str = "requirements.txt") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return written


def refused(*paths: str, trusted: bool | None = None) -> RequirementsError:
    with pytest.raises(RequirementsError) as caught:
        inputs.read(paths, trusted=trusted)
    assert caught.value.exit_code == 10
    return caught.value


FORBIDDEN = [
    ("--index-url https://index.example/simple", option("--index-url"), INDEX),
    ("-i https://index.example/simple", option("-i"), INDEX),
    ("--extra-index-url=https://index.example/simple", option("--extra-index-url"), INDEX),
    ("--no-index", option("--no-index"), INDEX),
    ("-f ./wheels", option("-f"), INDEX),
    ("--find-links ./wheels", option("--find-links"), INDEX),
    ("--trusted-host index.example", option("--trusted-host"), INDEX),
    ("-e .", option("-e"), BUILD),
    ("--editable git+https://index.example/six.git", option("--editable"), BUILD),
    ("--no-binary :all:", option("--no-binary"), WHEELS),
    ("--only-binary :all:", option("--only-binary"), WHEELS),
    ("--prefer-binary", option("--prefer-binary"), WHEELS),
    (
        "--pre",
        option("--pre"),
        "ask for a pre-release by its version, as in: pandas>=3.0rc1",
    ),
    (
        "--require-hashes",
        option("--require-hashes"),
        "leave it out: where one requirement has a hash, all need one anyway",
    ),
    ("--use-feature=fast-deps", option("--use-feature"), LEAVE),
    ("six --config-settings=x=y", option("--config-settings"), LEAVE),
    ("six -r more.txt", option("-r"), LEAVE),
    ("--constraints more.txt", option("--constraints"), LEAVE),
    ("git+https://index.example/six.git", wheel_less("what git has"), BUILD),
    ("git+ssh://git@index.example/six.git@v1#egg=six", wheel_less("what git has"), BUILD),
    ("six @ hg+https://index.example/six", wheel_less("what hg has"), BUILD),
    ("ftp://index.example/six-1.0-py3-none-any.whl", wheel_less("what a URL of ftp leads to"), BUILD),
    ("six @ s3://bucket/six-1.0-py3-none-any.whl", wheel_less("what a URL of s3 leads to"), BUILD),
    ("C:\\wheels\\six-1.0-py3-none-any.whl", wheel_less("what a URL of C leads to"), BUILD),
    (
        "https://index.example/six-1.0.tar.gz",
        wheel_less("'six-1.0.tar.gz', a source distribution,"),
        BUILD,
    ),
    ("six @ https://index.example/six.zip", wheel_less("'six.zip', a source distribution,"), BUILD),
    ("https://index.example/", wheel_less("what the URL leads to"), BUILD),
    ("https://index.example/six", wheel_less("'six'"), BUILD),
    (f"{WHEEL} six", wheel_less("a URL with something behind it"), BUILD),
    (".", wheel_less("'.'"), BUILD),
    ("./six", wheel_less("'./six'"), BUILD),
    ("../six-1.0.tar.gz", wheel_less("'../six-1.0.tar.gz', a source distribution,"), BUILD),
    ("six-1.0.zip", wheel_less("'six-1.0.zip', a source distribution,"), BUILD),
    ("~/six-1.0-py3-none-any.whl", "nobody's home directory is looked up here", "write the whole path"),
    (
        "./six.whl",
        "'six.whl' is not a file name that wheels have",
        "give the file the name that it was built with, which says what is in it",
    ),
    (
        "six @ ./six-1.0-py3-none-any.whl",
        "'./six-1.0-py3-none-any.whl' is no URL",
        f"{FILE_URL}, or the path alone",
    ),
    ("file:six-1.0-py3-none-any.whl", "the URL does not say which file of this machine", FILE_URL),
    ("file://there/six-1.0-py3-none-any.whl", "the URL does not say which file of this machine", FILE_URL),
    ("file:///six%00-1.0-py3-none-any.whl", "the URL names no file", REWRITE),
    ("https:///six-1.0-py3-none-any.whl", "the URL names no host", REWRITE),
    ("https://[/six-1.0-py3-none-any.whl", "the URL is none", REWRITE),
    ("https://index.example:x/six-1.0-py3-none-any.whl", "the URL is none", REWRITE),
    ("https://me:secret@index.example/six-1.0-py3-none-any.whl", CREDENTIALS, NETRC),
    ("six @ https://secret@index.example/six-1.0-py3-none-any.whl", CREDENTIALS, NETRC),
    ("six @ https://me:secret@index.example/ what is this", CREDENTIALS, NETRC),
    (
        f"{WHEEL}?token=secret#sha256={A}",
        "the URL has a query, which may be what gives access, and is kept nowhere",
        "write a URL that works without one",
    ),
    (
        f"six @ https://index.example/caf\N{LATIN SMALL LETTER E WITH ACUTE}/six-1.0-py3-none-any.whl#sha256={A}",
        "the URL has characters that do not belong in one",
        "write them as %XX",
    ),
    (
        f"six @ https://index.example/a;b/six-1.0-py3-none-any.whl#sha256={A}",
        "the URL has characters that do not belong in one",
        "write them as %XX",
    ),
    (
        f"seven @ {WHEEL}#sha256={A}",
        "seven is asked for, and 'six-1.0-py3-none-any.whl' is a wheel of another package",
        "write the name that the wheel's file name begins with",
    ),
    ("-r https://index.example/more.txt", "-r leads to a URL; only files of this machine are read", None),
    ("-c file:///more.txt", "-c leads to a URL; only files of this machine are read", None),
]


@pytest.mark.parametrize(("line", "message", "hint"), FORBIDDEN, ids=[row[0] for row in FORBIDDEN])
def test_what_a_trusted_file_may_not_say(
    write: Callable[..., str], line: str, message: str, hint: str | None
) -> None:
    path = write(f"attrs\n\n{line}\n")
    error = refused(path)
    assert (error.message, error.kind, error.path, error.line) == (message, "requirement-forbidden", path, 3)
    assert error.hint == (hint or "fetch the file, and write its path")
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("line", "message", "kind"),
    [
        (WHEEL, NO_HASH, "requirement-hash"),
        (f"six @ {WHEEL}", NO_HASH, "requirement-hash"),
        (f"{WHEEL}#sha256={A} --hash=sha256:{B}", ONE_HASH, "requirement-hash"),
        (f"{WHEEL} --hash=sha256:{A} --hash=sha256:{B}", ONE_HASH, "requirement-hash"),
        (f"{WHEEL} --hash=sha512:{A}{B}", ONE_HASH, "requirement-hash"),
        (f"{WHEEL}#md5={'a' * 32}", ONE_HASH, "requirement-hash"),
        (f"{WHEEL}#egg=six&sha256={A}", ONE_HASH, "requirement-hash"),
        (f"{WHEEL} --hash=md5:{'a' * 32}", f"'md5:{'a' * 32}' is not a hash", "requirement-hash"),
        ("-r", "-r wants the name of one file", "requirement-syntax"),
        ("--constraint=", "--constraint wants the name of one file", "requirement-syntax"),
        ("-r a.txt b.txt", "-r wants the name of one file", "requirement-syntax"),
        ("-r a.txt -c b.txt", "-r wants the name of one file", "requirement-syntax"),
        ("-r 'a.txt", "-r wants the name of one file", "requirement-syntax"),
        ("-r a\0b", "-r wants the name of one file", "requirement-syntax"),
        ("-r ${HOME}/a.txt", "an environment variable would be put in here, which is not done", None),
        ("./${X}/six-1.0-py3-none-any.whl", "an environment variable would be put in here, which is not done", None),
        ("six ; os_name == '${X}'", "an environment variable would be put in here, which is not done", None),
    ],
)  # fmt: skip
def test_what_a_trusted_file_says_wrongly(
    write: Callable[..., str], line: str, message: str, kind: str | None
) -> None:
    error = refused(write(f"{line}\n"))
    assert (error.message, error.kind, error.line) == (message, kind or "requirement-syntax", 1)
    assert error.hint


@pytest.mark.parametrize(
    "line",
    [row[0] for row in FORBIDDEN]
    + [f"{WHEEL}#sha256={A}", f"six @ {WHEEL}#sha256={A}", "-r a.txt", "-c a.txt"],
)
@pytest.mark.parametrize(("name", "trusted"), [("requirements.vrf", None), ("requirements.txt", False)])
def test_an_untrusted_file_may_say_none_of_it(
    write: Callable[..., str], line: str, name: str, trusted: bool | None
) -> None:
    error = refused(write(f"six\n{line}\n", name), trusted=trusted)
    assert error.line == 2
    # Some is no requirement to begin with.
    assert error.kind in {"requirement-forbidden", "requirement-syntax"}
    assert error.kind == "requirement-forbidden" or "what is this" in line


def test_every_faulty_line_of_every_file_is_told_at_once(write: Callable[..., str], tmp_path: Path) -> None:
    nested = write("--pre\nsix\n", "more.txt")
    path = write("-e .\n-r more.txt\n-c absent.txt\npandas=2\n")
    other = write("./x.whl\n", "other.in")
    error = refused(path, other)
    reason = "Expected semicolon (after name with no version specifier) or end"
    assert str(error).splitlines() == [
        f"{path}:1: {option('-e')}",
        f"{nested}:1: {option('--pre')}",
        f"{path}:3: -c absent.txt cannot be read: No such file or directory",
        f"{path}:4: 'pandas=2' is not a requirement: {reason}",
        f"{other}:1: 'x.whl' is not a file name that wheels have",
    ]
    assert (error.kind, error.path, error.line, error.hint) == ("requirement-forbidden", path, 1, BUILD)


# --- wheels


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (f"{WHEEL}#sha256={A}", f"six @ {WHEEL}#sha256={A}"),
        (f"{WHEEL} --hash=sha256:{A}", f"six @ {WHEEL}#sha256={A}"),
        (f"{WHEEL}#sha256={A} --hash=sha256:{A} --hash=sha256:{A}", f"six @ {WHEEL}#sha256={A}"),
        (f"Six@{WHEEL}#sha256={A}", f"six @ {WHEEL}#sha256={A}"),
        (f"six[Y,x_z] @ {WHEEL}#sha256={A}", f"six[x-z,y] @ {WHEEL}#sha256={A}"),
        (f"six @ {WHEEL} ; python_version>'3' --hash=sha256:{A}",
         f'six @ {WHEEL}#sha256={A} ; python_version > "3"'),
        (f"{WHEEL}#sha256={A} ; python_version>'3'", f'six @ {WHEEL}#sha256={A} ; python_version > "3"'),
        (f"HTTPS://index.example:8443/a%20b/torch-2.0%2Bcpu-py3-none-any.whl \\\n --hash sha256:{A}",
         f"torch @ https://index.example:8443/a%20b/torch-2.0%2Bcpu-py3-none-any.whl#sha256={A}"),
    ],
)  # fmt: skip
def test_a_wheel_by_url_has_one_form(write: Callable[..., str], line: str, text: str) -> None:
    found = inputs.read((write(line),))
    assert [item.text for item in found.items] == [text]
    assert found.files == ()
    again = inputs.read((write(found.canonical),))
    assert again.canonical == found.canonical


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    (tmp_path / "wheel house;").mkdir()
    return build_wheel(WheelSpec(name="ruamel.yaml", version="2.0"), tmp_path / "wheel house;")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("line", "ending"),
    [
        ("./wheel house;/{name}", ""),
        ("./wheel house;/./{name}", ""),
        ("{path}", ""),
        (".//wheel house;/{name} --hash=sha256:{digest}", ""),
        ("{url}", ""),
        ("{url}#sha256={digest}", ""),
        ("ruamel_YAML @ {url}", ""),
        ("file://localhost{quoted} --hash=sha256:{digest}", ""),
        ("./wheel house;/{name}[Jit] ; os_name=='posix'", ' ; os_name == "posix"'),
        ("ruamel.yaml[jit] @ {url} ; os_name=='posix'", ' ; os_name == "posix"'),
    ],
)
def test_a_local_wheel_has_one_form_with_its_digest(
    write: Callable[..., str], wheel: Path, tmp_path: Path, line: str, ending: str
) -> None:
    quoted = str(wheel).replace(" ", "%20").replace(";", "%3B")
    written = line.format(
        name=wheel.name,
        path=wheel,
        url=f"file://{quoted}",
        quoted=quoted,
        digest=sha256(wheel),
    )
    noted: list[str] = []
    found = inputs.read((write(written),), before_reading=noted.append)
    extra = "[jit]" if "jit" in line.lower() else ""
    (item,) = found.items
    assert item.text == f"ruamel-yaml{extra} @ file://{quoted}#sha256={sha256(wheel)}{ending}"
    assert (item.name, found.files, noted) == ("ruamel-yaml", (str(wheel),), [str(wheel)])
    assert inputs.read((write(found.canonical),)).canonical == found.canonical


@pytest.mark.parametrize(
    "line", ["{name}", "{name} --hash=sha256:{digest}", "inner/{name}", ".//inner//{name}"]
)
def test_a_path_without_spaces_needs_no_dot(write: Callable[..., str], tmp_path: Path, line: str) -> None:
    (tmp_path / "inner").mkdir()
    wheel = build_wheel(WheelSpec(name="six"), tmp_path / "inner" if "inner" in line else tmp_path)
    found = inputs.read((write(line.format(name=wheel.name, digest=sha256(wheel))),))
    assert found.canonical == f"six @ file://{wheel}#sha256={sha256(wheel)}\n"


def test_where_two_dots_lead_to_depends_on_links(write: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "one/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("one/deep")
    write("six", "one/more.txt")
    wheel = build_wheel(WheelSpec(name="local"), tmp_path / "one")
    found = inputs.read((write(f"-r link/../more.txt\nlink/../{wheel.name}"),))
    assert [item.name for item in found.items] == ["local", "six"]
    assert found.files == (f"{tmp_path}/link/../{wheel.name}", f"{tmp_path}/link/../more.txt")
    # As pip has it.
    assert found.items[0].text.startswith(f"local @ file://{tmp_path}/link/../local-1.0")


def test_another_content_of_a_local_wheel_is_another_request(
    write: Callable[..., str], wheel: Path, tmp_path: Path
) -> None:
    path = write(str(wheel))
    before = inputs.read((path,))
    build_wheel(WheelSpec(name="ruamel.yaml", version="2.0", files={"other.py": ""}), wheel.parent)
    after = inputs.read((path,))
    assert before.identity != after.identity
    assert before.files == after.files
    error = refused(write(before.canonical))
    assert (
        error.message == f"the wheel {wheel.name} has SHA-256 {sha256(wheel)}, and another one is asked for"
    )
    assert (error.kind, error.line) == ("requirement-hash", 1)


def test_a_local_wheel_that_cannot_be_read_is_named(write: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "b-1-py3-none-any.whl").mkdir()
    error = refused(write("./a-1-py3-none-any.whl\n./b-1-py3-none-any.whl"))
    assert error.message == (
        "the wheel a-1-py3-none-any.whl cannot be read: No such file or directory\n"
        f"{tmp_path}/requirements.txt:2: the wheel b-1-py3-none-any.whl cannot be read: not a regular file"
    )
    assert (error.kind, error.hint) == (
        "wheel-unreadable", f"it is looked for at {tmp_path}/a-1-py3-none-any.whl"
    )  # fmt: skip


def test_pip_takes_each_form_for_just_that_wheel(
    write: Callable[..., str], wheel: Path, index: Index, tmp_path: Path
) -> None:
    name = index.add(WheelSpec(name="six", extras={"more": []}))
    index.add(WheelSpec(name="attrs", version="1.0"))
    index.add(WheelSpec(name="attrs", version="2.0"))
    url = index.file_url(name)
    content = hashlib.sha256(wheel_bytes(WheelSpec(name="six", extras={"more": []}))).hexdigest()
    write("attrs<2", "limits.txt")
    wanted = f"six[more] @ {url} ; os_name=='posix' --hash=sha256:{content}"
    found = inputs.read((write(f"{wanted}\n{wheel}\nattrs\n-c limits.txt"),))
    asked, limits = write(found.canonical, "asked"), write(found.canonical_constraints, "limits")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--only-binary", ":all:",
         "--report", "report.json", "-r", asked, "-c", limits],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    installed = {item["metadata"]["name"]: item["download_info"] for item in report["install"]}
    assert installed["six"]["archive_info"]["hashes"] == {"sha256": content}
    assert installed["ruamel.yaml"]["archive_info"]["hashes"] == {"sha256": sha256(wheel)}
    assert installed["attrs"]["url"].endswith("attrs-1.0-py3-none-any.whl")


# --- nested files


def test_nested_files_are_relative_to_the_file_that_names_them(write: Callable[..., str]) -> None:
    base = write("attrs\n-c limits.txt\n", "deep er/base.txt")
    more = write("six>=1 # why\n--constraint='deep er/limits.txt'\n", "more.in")
    limits = write("six<2\nidna==3 ; os_name == 'nt'\n", "deep er/limits.txt")
    path = write("-r 'deep er/base.txt'\n--requirement more.in\n--requirement=more.in\nattrs\nsix>=1\n")
    noted: list[str] = []
    found = inputs.read((path,), before_reading=noted.append)
    assert [(item.text, item.path, item.line) for item in found.items] == [
        ("attrs", base, 1),
        ("six>=1", more, 1),
    ]
    assert [(item.text, item.path, item.line) for item in found.constraints] == [
        ('idna==3 ; os_name == "nt"', limits, 2),
        ("six<2", limits, 1),
    ]
    assert found.files == tuple(sorted([base, limits, more]))
    assert sorted(noted) == sorted(found.files)
    assert found.canonical_constraints == 'idna==3 ; os_name == "nt"\nsix<2\n'


def test_a_nested_file_is_as_trusted_as_its_parent(write: Callable[..., str]) -> None:
    write(f"{WHEEL}#sha256={A}\n", "more.vrf")
    (item,) = inputs.read((write("-rmore.vrf"),)).items
    assert item.name == "six"


def test_one_file_may_require_and_constrain(write: Callable[..., str]) -> None:
    write("six<2", "more.txt")
    found = inputs.read((write("-r more.txt\n-c more.txt\n"),))
    assert found.canonical == found.canonical_constraints == "six<2\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("six[x]<2", "six has extras, which a constraint cannot ask for"),
        ("-r more.txt", "-r more.txt stands in a file of constraints, which can bring nothing"),
        ("-e .", option("-e")),
    ],
)
def test_what_a_file_of_constraints_may_not_say(write: Callable[..., str], text: str, message: str) -> None:
    limits = write(f"attrs\n{text}\n", "limits.txt")
    error = refused(write("-c limits.txt"))
    assert (error.message, error.kind, error.path, error.line) == (
        message,
        "requirement-forbidden",
        limits,
        2,
    )


def test_files_in_a_circle_are_refused(write: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "alias.txt").symlink_to("a.txt")
    b = write("-r alias.txt", "b.txt")
    write("six\n-r b.txt", "a.txt")
    error = refused(write("-r a.txt"))
    assert error.message == "files lead in a circle: a.txt > b.txt > a.txt"
    assert (error.kind, error.path, error.line) == ("requirements-nested", b, 1)
    assert refused(write("-r requirements.txt")).message.endswith("requirements.txt > requirements.txt")


def test_files_may_lead_to_one_another_twenty_deep(write: Callable[..., str]) -> None:
    for number in range(25):
        write(f"-r {number + 1}.txt", f"{number}.txt")
    write("six", "25.txt")
    error = refused(write("-r 0.txt"))
    assert (error.message, error.kind) == (
        "files lead to one another more than 20 deep",
        "requirements-nested",
    )
    assert inputs.read((write("-r 6.txt"),)).canonical == "six\n"


def test_files_may_lead_to_a_hundred_others(write: Callable[..., str]) -> None:
    for number in range(101):
        write("six", f"{number}.txt")
    names = [f"-r {number}.txt\n" for number in range(101)]
    assert len(inputs.read((write("".join(names[:100])),)).files) == 100
    error = refused(write("".join(names)))
    assert (error.message, error.line) == ("more than 100 files are led to", 101)


@pytest.mark.parametrize(
    ("target", "kind", "reason"),
    [
        ("absent.txt", "requirements-missing", "No such file or directory"),
        ("requirements.txt/x", "requirements-missing", "Not a directory"),
        (".", "requirements-unreadable", "not a regular file"),
        ("/dev/zero", "requirements-unreadable", "not a regular file"),
        ("fifo", "requirements-unreadable", "not a regular file"),
        ("large", "requirements-too-large", "it has more than 1 MiB"),
    ],
)
def test_a_nested_file_that_cannot_be_read_is_the_fault_of_its_line(
    write: Callable[..., str], tmp_path: Path, target: str, kind: str, reason: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    write(b"#" * (1 + (1 << 20)), "large")
    path = write(f"six\n-r {target}\n")
    error = refused(path)
    assert (error.message, error.kind) == (f"-r {target} cannot be read: {reason}", kind)
    assert (error.path, error.line) == (path, 2)


def test_a_nested_file_in_another_encoding_is_named(write: Callable[..., str]) -> None:
    nested = write("six\nattrs # für\n".encode("latin-1"), "more.txt")
    error = refused(write("-r more.txt"))
    assert (error.message, error.path, error.line) == ("not UTF-8 text", nested, 2)


def read(path: str) -> Requirements:
    return inputs.read((path,))


def test_any_change_of_a_nested_file_that_could_matter_does(write: Callable[..., str]) -> None:
    path = write("-r more.txt\n-c limits.txt\n")
    write("six", "more.txt")
    write("six<2", "limits.txt")
    before = read(path).identity
    write("# a comment\nsix", "more.txt")
    write("six  <2  # why", "limits.txt")
    assert read(path).identity == before
    write("six\nattrs", "more.txt")
    changed = read(path).identity
    assert changed != before
    write("six<3", "limits.txt")
    assert read(path).identity not in (before, changed)
