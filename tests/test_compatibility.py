"""Whether wheels fit an interpreter: held against packaging and pip, which decide for the Python they run in."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import packaging
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from support.pythons import pythons
from vrfstore.errors import WheelError
from vrfstore.linker.compatibility import check_compatible
from vrfstore.model import Digest, EntryPlan, EntryReference, Interpreter
from vrfstore.tags import _allows_release, allows_python, supported_tags
from vrfstore.target import platform_tags, resolver_options

LINUX = Interpreter(
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
FREE_THREADED = replace(LINUX, version="3.13.1", cache_tag="cpython-313", abi_flags="t")

QUESTION = """
import json, os, platform, sys, sysconfig
sys.path.insert(0, sys.argv[1])
from packaging import tags
print(json.dumps({
    "version": platform.python_version(),
    "abi_flags": sys.abiflags,
    "platform": sysconfig.get_platform(),
    "libc": os.confstr("CS_GNU_LIBC_VERSION") or "",
    "tags": [str(tag) for tag in tags.sys_tags()],
    "platforms": list(tags.platform_tags()),
}))
"""


@functools.cache
def said(python: str) -> tuple[Interpreter, list[str], list[str]]:
    """What a Python is, and the tags and platforms that packaging finds when it runs there."""
    root = Path(packaging.__file__).parent.parent
    done = subprocess.run([python, "-I", "-B", "-c", QUESTION, root], capture_output=True, check=True)
    answer = json.loads(done.stdout)
    tags, platforms = answer.pop("tags"), answer.pop("platforms")
    return replace(LINUX, executable=python, **answer), tags, platforms


def wheel(
    *tags: str, name: str = "thing", requires: str | None = None, members: tuple[str, ...] = ()
) -> EntryPlan:
    return EntryPlan(
        reference=EntryReference(digest=Digest("0" * 64), name=name, version="1.0", directory=name),
        dist_info=f"{name}-1.0.dist-info",
        tags=tags,
        requires_python=requires,
        unpacked=0,
        trees={},
        record_links=0,
        record_ready=True,
        members=members,
    )


def fits(tag: str, interpreter: Interpreter) -> bool:
    try:
        check_compatible([wheel(tag)], interpreter)
    except WheelError:
        return False
    return True


@pytest.mark.parametrize("python", pythons())
def test_the_tags_are_those_that_packaging_finds_in_that_interpreter(python: str) -> None:
    interpreter, tags, _ = said(python)
    assert supported_tags(interpreter) == set(tags)


@pytest.mark.parametrize("python", pythons())
def test_the_platforms_are_in_the_order_of_packaging(python: str) -> None:
    interpreter, _, platforms = said(python)
    # Where linux_* come has changed in packaging 26.3.
    found, expected = (
        [tag for tag in tags if not tag.startswith("linux_")]
        for tags in (platform_tags(interpreter.platform, interpreter.libc), platforms)
    )
    assert found == expected


@pytest.mark.parametrize("python", pythons())
def test_where_the_libc_is_unknown_it_is_the_one_of_this_machine(python: str) -> None:
    interpreter, tags, _ = said(python)
    assert supported_tags(replace(interpreter, libc="")) == set(tags)


def test_where_the_libc_of_another_machine_is_unknown_nothing_is_assumed() -> None:
    tags = supported_tags(replace(LINUX, platform="linux-s390x", libc=""))
    assert {tag.partition("-none-")[2] for tag in tags if tag.startswith("py3-none-")} == {
        "any",
        "linux_s390x",
    }


def pip_tags(*options: str) -> set[str]:
    """Ask pip which tags it would take."""
    done = subprocess.run(
        [sys.executable, "-I", "-m", "pip", "debug", "--verbose", *options],
        capture_output=True,
        text=True,
        check=True,
    )
    _, _, listed = done.stdout.partition("Compatible tags: ")
    return set(re.findall(r"^  (\S+-\S+-\S+)$", listed, re.MULTILINE))


def test_pip_takes_the_same_here() -> None:
    interpreter, _, _ = said(sys.executable)
    assert supported_tags(interpreter) == pip_tags()


TARGETS = {
    "aarch64": replace(LINUX, platform="linux-aarch64", libc="glibc 2.31"),
    "oldest": replace(LINUX, version="3.9.0", libc="glibc 2.17"),
    "musl": replace(LINUX, libc="musl 1.2"),
    "armv7l": replace(LINUX, platform="linux-armv7l", libc="glibc 2.28"),
    "pre-release": replace(LINUX, version="3.15.0rc1"),
    "debug": replace(LINUX, abi_flags="d"),
    "free-threaded": FREE_THREADED,
    "free-threaded debug": replace(FREE_THREADED, abi_flags="td"),
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_pip_takes_the_same_for_another_interpreter_with_our_options(target: Interpreter) -> None:
    options = resolver_options(target)
    assert options.pop() == "--only-binary=:all:"  # which pip debug does not know
    assert without_abi3t(supported_tags(target)) == without_abi3t(pip_tags(*options))


def without_abi3t(tags: frozenset[str] | set[str]) -> set[str]:
    """Leave out PEP 803, which one version of packaging knows and the one inside pip may not."""
    return {tag for tag in tags if "-abi3t-" not in tag}


@pytest.mark.parametrize(
    ("tag", "interpreter", "expected"),
    [
        ("py3-none-any", LINUX, True),
        ("py312-none-any", LINUX, True),
        ("py313-none-any", LINUX, False),
        ("py2-none-any", LINUX, False),
        ("cp312-none-any", LINUX, True),
        ("py3-none-manylinux2014_x86_64", LINUX, True),
        ("py3-none-manylinux2014_aarch64", LINUX, False),
        ("py3-none-win_amd64", LINUX, False),
        ("cp312-cp312-linux_x86_64", LINUX, True),
        ("cp312-cp312-manylinux1_x86_64", LINUX, True),
        ("cp312-cp312-manylinux_2_5_x86_64", LINUX, True),
        ("cp312-cp312-manylinux_2_4_x86_64", LINUX, False),
        ("cp312-cp312-manylinux_2_36_x86_64", LINUX, True),
        ("cp312-cp312-manylinux_2_37_x86_64", LINUX, False),
        ("cp312-cp312-musllinux_1_2_x86_64", LINUX, False),
        ("cp311-cp311-manylinux2014_x86_64", LINUX, False),
        ("cp39-abi3-manylinux2014_x86_64", LINUX, True),
        ("cp312-abi3-manylinux2014_x86_64", LINUX, True),
        ("cp313-abi3-manylinux2014_x86_64", LINUX, False),
        ("pp310-pypy310_pp73-manylinux2014_x86_64", LINUX, False),
        ("cp313-cp313t-manylinux2014_x86_64", FREE_THREADED, True),
        ("cp313-cp313-manylinux2014_x86_64", FREE_THREADED, False),
        ("cp313-abi3-manylinux2014_x86_64", FREE_THREADED, False),
        ("cp313-none-any", FREE_THREADED, True),
        ("py3-none-any", FREE_THREADED, True),
        ("cp312-cp312d-linux_x86_64", replace(LINUX, abi_flags="d"), True),
        ("cp312-cp312-linux_x86_64", replace(LINUX, abi_flags="d"), True),
        ("cp312-cp312d-linux_x86_64", LINUX, False),
    ],
)  # fmt: skip
def test_a_wheel_fits(tag: str, interpreter: Interpreter, expected: bool) -> None:
    assert fits(tag, interpreter) is expected


@pytest.mark.parametrize(
    ("platform", "libc", "expected"),
    [
        ("linux-aarch64", "glibc 2.18",
         ["linux_aarch64", "manylinux_2_18_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"]),
        ("linux-armv7l", "glibc 2.17", ["linux_armv7l", "manylinux_2_17_armv7l", "manylinux2014_armv7l"]),
        ("linux-armv8l", "glibc 2.17",
         ["linux_armv8l", "linux_armv7l", "manylinux_2_17_armv8l", "manylinux2014_armv8l",
          "manylinux_2_17_armv7l", "manylinux2014_armv7l"]),
        ("linux-i686", "glibc 2.6", ["linux_i686", "manylinux_2_6_i686", "manylinux_2_5_i686", "manylinux1_i686"]),
        ("linux-mips64", "glibc 2.36", ["linux_mips64"]),
        ("linux-aarch64", "glibc 2.16", ["linux_aarch64"]),
        ("linux-aarch64", "glibc 2.17-2014.11", ["linux_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"]),
        ("linux-x86_64", "glibc 3.1", ["linux_x86_64"]),
        ("linux-x86_64", "musl 1.1", ["linux_x86_64", "musllinux_1_1_x86_64", "musllinux_1_0_x86_64"]),
        ("linux-x86_64", "musl",
         ["linux_x86_64", "musllinux_1_2_x86_64", "musllinux_1_1_x86_64", "musllinux_1_0_x86_64"]),
        ("linux-mips64", "musl 1.0", ["linux_mips64", "musllinux_1_0_mips64"]),
        ("linux-x86_64", "", ["linux_x86_64"]),
        ("linux-x86_64", "uclibc 1.0", ["linux_x86_64"]),
        ("macosx-11.0-arm64", "", ["macosx_11_0_arm64"]),
    ],
)  # fmt: skip
def test_platforms_are_listed_best_first(platform: str, libc: str, expected: list[str]) -> None:
    assert list(platform_tags(platform, libc)) == expected


def test_every_wheel_that_does_not_fit_is_named_with_why() -> None:
    plans = [
        wheel("py3-none-any", name="pure"),
        wheel("cp311-cp311-manylinux2014_x86_64", "cp311-cp311-manylinux_2_17_x86_64", name="b"),
        wheel("py2-none-any", name="a"),
        wheel("py3-none-any", name="c", requires=">=3.13"),
    ]
    with pytest.raises(WheelError) as caught:
        check_compatible(plans, LINUX)
    assert caught.value.message == (
        "not every wheel fits Python 3.12.3 on linux-x86_64 with glibc 2.36: a 1.0 is for py2-none-any; "
        "b 1.0 is for cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64; c 1.0 requires Python >=3.13"
    )
    assert (caught.value.kind, caught.value.exit_code) == ("wheel-incompatible", 18)
    assert caught.value.hint


def test_requires_python_alone_is_of_another_kind() -> None:
    with pytest.raises(
        WheelError, match=r"^not every .*3\.13\.1 free-threaded .*: thing 1\.0 requires"
    ) as caught:
        check_compatible([wheel("py3-none-any", requires="<3.13")], FREE_THREADED)
    assert (caught.value.kind, caught.value.exit_code) == ("requires-python", 18)


def test_what_a_wheel_requires_cannot_fill_the_screen() -> None:
    hostile = "<3,\x1b[2J" + ",".join(f"!=3.{minor}" for minor in range(1000))
    with pytest.raises(WheelError) as caught:
        check_compatible([wheel("py3-none-any", requires="<3," + "<3," * 1000)], LINUX)
    assert len(caught.value.message) < 400
    check_compatible([wheel("py3-none-any", requires=hostile)], LINUX)  # not a specifier: forbids nothing


def test_tags_that_no_file_name_has_are_listed_one_by_one() -> None:
    with pytest.raises(WheelError, match=r"is for py2-none-any, py27-none-linux_x86_64$"):
        check_compatible([wheel("py27-none-linux_x86_64", "py2-none-any")], LINUX)
    with pytest.raises(WheelError, match=r"is for nothing$"):
        check_compatible([wheel()], LINUX)


def test_composites_are_not_wheels() -> None:
    check_compatible([wheel(members=("one", "other"))], LINUX)


PURE = f"""
import sys
from vrfstore.linker.compatibility import check_compatible
from vrfstore.model import Digest, EntryPlan, EntryReference, Interpreter
interpreter = {LINUX!r}
plans = [
    EntryPlan(
        reference=EntryReference(digest=Digest("0" * 64), name="x", version="1", directory="x"), dist_info="x",
        tags=tags, requires_python=requires, unpacked=0, trees={{}}, record_links=0, record_ready=True,
    )
    for tags, requires in [
        (("py3-none-any",), None), (("py2-none-any", "py3-none-any"), "!=3.0.*,!=3.1.*,>=2.7"),
        (("py3-none-any",), "<4,>=3.8"), (("py3-none-any",), "~=3.7"), (("py3-none-any",), ">=3.7, !=3.9.7"),
    ]
]
check_compatible(plans, interpreter)
print(sorted(name for name in sys.modules if name.partition(".")[0] == "packaging"))
"""


def test_pure_wheels_are_checked_without_packaging() -> None:
    done = subprocess.run([sys.executable, "-c", PURE], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("requires", "version", "expected"),
    [
        (">=3.9", "3.13.0rc1", True),  # packaging: a pre-release of 3.13 comes after 3.9
        (">=3.13", "3.13.0rc1", True),
        ("<3.13", "3.13.0rc1", False),
        (">=3.13.0a1", "3.13.0rc1", True),
        (">=3.12", "3.12.3+", True),
        (">=3.12.4", "3.12.3+", False),
        ("", "3.12.3", True),
        (" , ", "3.12.3", True),
        (">=3.9.*", "3.8.0", True),  # nobody can read it
        ("three", "3.8.0", True),
        ("===3.12.3", "3.12.3", True),
        ("==3.12", "3.12.0", True),
        ("==3.12", "3.12.1", False),
        (">3.12", "3.12.1", True),
        ("~=3.11.2", "3.12.3", False),
    ],
)  # fmt: skip
def test_a_requires_python_allows_a_version(requires: str, version: str, expected: bool) -> None:
    assert allows_python(requires, version) is expected


@pytest.mark.parametrize("operator", ["<", "<=", ">", ">=", "==", "!=", "~="])
@pytest.mark.parametrize("ending", ["", ".*"])
def test_comparisons_of_releases_are_those_of_packaging(operator: str, ending: str) -> None:
    asked = ["2.7", "3", "3.0", "3.9", "3.9.0", "3.9.1", "3.9.0.0", "3.9.1.1", "3.10", "3.10.2", "4"]
    for requires in (f"{operator}{release}{ending}" for release in asked):
        for version in ("3.9.0", "3.9.1", "3.10.0", "3.10.2", "3.11.5"):
            try:
                expected = SpecifierSet(requires).contains(version, prereleases=True)
            except InvalidSpecifier:
                assert _allows_release(requires, version) is None, requires
            else:
                assert _allows_release(requires, version) is expected, (requires, version)


numbers = st.integers(0, 12).map(str)
releases = st.lists(numbers, min_size=1, max_size=4).map(".".join)
operators = st.sampled_from(["<", "<=", ">", ">=", "==", "!=", "~=", "===", "=", "", "=>"])
endings = st.sampled_from(["", "", "", ".*", "rc1", ".dev0", ".post1", "+x", " ", ".", "0"])
clauses = st.tuples(st.sampled_from(["", " "]), operators, st.sampled_from(["", " ", "v"]), releases, endings)
specifiers = st.lists(clauses.map("".join), max_size=3).map(",".join)


@given(specifiers, st.lists(numbers, min_size=3, max_size=3).map(".".join))
def test_what_is_decided_without_packaging_is_decided_as_by_packaging(requires: str, version: str) -> None:
    answer = _allows_release(requires, version)
    try:
        known = SpecifierSet(requires).contains(version, prereleases=True)
    except InvalidSpecifier:
        assert answer is None
        assert allows_python(requires, version)
    else:
        assert answer in {known, None}
        assert allows_python(requires, version) is known
