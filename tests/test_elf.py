"""Reading the dynamic section, of honest files and of hostile ones, and what a wheel's libraries ask of others."""

import importlib
import io
import os
import re
import shutil
import struct
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.elf import elf_bytes
from vrfstore.model import Libraries
from vrfstore.store import elf, libraries
from vrfstore.store.elf import DynamicSection, is_elf, read_dynamic
from vrfstore.store.libraries import libraries_of

SHAPES = pytest.mark.parametrize(("bits", "little"), [(32, True), (32, False), (64, True), (64, False)])

FILE = elf_bytes(
    soname="libone.so.1", needed=["libtwo.so", "libc.so.6"], runpath="$ORIGIN:${ORIGIN}/../x.libs:/usr/lib"
)
SECTION = DynamicSection(
    "libone.so.1", ("libtwo.so", "libc.so.6"), ("$ORIGIN", "${ORIGIN}/../x.libs", "/usr/lib")
)


def read(data: bytes) -> DynamicSection | None:
    return read_dynamic(io.BytesIO(data))


class Watched(io.BytesIO):
    """Remembers what was read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0
        data = super().read(size)
        self.taken += len(data)
        return data


# --- honest files


@SHAPES
def test_all_classes_and_byte_orders_are_read(bits: int, little: bool) -> None:
    data = elf_bytes(
        soname="libone.so.1",
        needed=["libtwo.so", "libc.so.6"],
        runpath="$ORIGIN:${ORIGIN}/../x.libs:/usr/lib",
        bits=bits,
        little=little,
    )
    assert is_elf(data[:4])
    assert read(data) == SECTION


@SHAPES
@given(
    soname=st.none() | st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20),
    needed=st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=9), max_size=9),
    rpath=st.none() | st.sampled_from(["$ORIGIN", "$ORIGIN/../lib:/opt", "::", "a:b:c"]),
    runpath=st.none() | st.sampled_from(["$ORIGIN", "${ORIGIN}/x", ""]),
)
def test_what_was_written_is_what_is_read(
    bits: int, little: bool, soname: str | None, needed: list[str], rpath: str | None, runpath: str | None
) -> None:
    data = elf_bytes(soname=soname, needed=needed, rpath=rpath, runpath=runpath, bits=bits, little=little)
    searched = [part for text in (rpath, runpath) for part in (text or "").split(":") if part]
    assert read(data) == DynamicSection(soname, tuple(needed), tuple(searched))


@SHAPES
def test_another_reader_reads_the_same(bits: int, little: bool) -> None:
    # Not one of our dependencies: a second opinion where somebody has installed it.
    pytest.importorskip("elftools")
    reader: Any = importlib.import_module("elftools.elf.elffile").ELFFile
    data = elf_bytes(
        soname="libé.so",
        needed=["a.so", "b.so"],
        rpath="$ORIGIN/a",
        runpath="$ORIGIN:/b",
        bits=bits,
        little=little,
    )
    dynamic = next(
        part for part in reader(io.BytesIO(data)).iter_segments() if part["p_type"] == "PT_DYNAMIC"
    )
    tags = [(tag.entry.d_tag, tag) for tag in dynamic.iter_tags()]
    found = read(data)
    assert found is not None
    assert [found.soname] == [tag.soname for kind, tag in tags if kind == "DT_SONAME"]
    assert list(found.needed) == [tag.needed for kind, tag in tags if kind == "DT_NEEDED"]
    paths = [tag.rpath for kind, tag in tags if kind == "DT_RPATH"]
    paths += [tag.runpath for kind, tag in tags if kind == "DT_RUNPATH"]
    assert list(found.search) == ":".join(paths).split(":")


def real_libraries() -> list[Path]:
    """The extension modules of this Python, and a few libraries beside it."""
    places = [sysconfig.get_config_var("DESTSHARED"), sysconfig.get_config_var("LIBDIR")]
    found = [path for place in places if place for path in sorted(Path(place).glob("*.so*"))]
    return [path for path in found if is_elf(path.read_bytes()[:4])][:60]


def test_real_libraries_read_as_binutils_reads_them() -> None:
    readelf = shutil.which("readelf")
    files = real_libraries()
    if readelf is None or not files:
        pytest.skip("there is no readelf here, or this Python has no shared libraries of its own")
    for path in files:
        shown = subprocess.run([readelf, "-dW", path], capture_output=True, text=True, check=True).stdout
        with path.open("rb") as stream:
            found = read_dynamic(stream)
        assert found is not None, path
        assert list(found.needed) == re.findall(r"\(NEEDED\).*\[(.*)\]", shown)
        assert [found.soname] == (re.findall(r"\(SONAME\).*\[(.*)\]", shown) or [None])
        paths = re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", shown)
        assert list(found.search) == [part for text in paths for part in text.split(":") if part]


def test_of_several_sonames_the_last_counts_and_an_empty_section_says_nothing() -> None:
    data = bytearray(elf_bytes(soname="first", needed=["last"]))
    assert read(elf_bytes()) == DynamicSection(None, (), ())
    at = data.rindex(struct.pack("<Q", 1) + struct.pack("<Q", 1))
    data[at : at + 8] = struct.pack("<Q", 14)
    data[at : at + 32] = data[at + 16 : at + 32] + data[at : at + 16]
    assert read(bytes(data)) == DynamicSection("last", (), ())


# --- other files


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fEL",
        b"#!/bin/sh\n",
        b"\x7fELF" + bytes(60),
        elf_bytes(dynamic=False),
        FILE[:4] + b"\x03" + FILE[5:],  # no such class
        FILE[:5] + b"\x03" + FILE[6:],  # no such byte order
        FILE[:6] + b"\x02" + FILE[7:],  # no such version
        FILE[:16] + b"\x01" + FILE[17:],  # ET_REL: an object file
        FILE[:16] + b"\x04" + FILE[17:],  # ET_CORE
        FILE[:54] + b"\x20" + FILE[55:],  # e_phentsize of the other class
        FILE[:56] + b"\xff\xff" + FILE[58:],  # PN_XNUM: too many segments
        FILE[:32] + b"\xff" * 8 + FILE[40:],  # program headers far beyond the end
        FILE[:-16],  # no DT_NULL, and cut short
    ],
)
def test_what_is_no_dynamic_elf_file_is_none(data: bytes) -> None:
    assert read(data) is None


def with_entry(tag: int, value: int) -> bytes:
    """``FILE`` with another value for a tag of its dynamic section."""
    data = bytearray(FILE)
    for at in range(len(data) - 16, 0, -16):
        if struct.unpack_from("<Q", data, at)[0] == tag:
            struct.pack_into("<Q", data, at + 8, value)
            return bytes(data)
    raise AssertionError(tag)


@pytest.mark.parametrize("tag", [1, 5, 10, 14, 29])
@pytest.mark.parametrize("value", [0xFFFF_FFFF_FFFF_FFFF, 1 << 63, 1 << 20, 0x40000 + len(FILE)])
def test_a_string_or_table_beyond_the_file_is_none(tag: int, value: int) -> None:
    assert read(with_entry(tag, value)) is None


def test_a_table_may_go_on_behind_its_segment_but_not_begin_there() -> None:
    size_at = 64 + 32  # p_filesz of the first segment
    begin = 64 + 2 * 56
    short, shorter = bytearray(FILE), bytearray(FILE)
    struct.pack_into("<Q", short, size_at, begin + 1)
    struct.pack_into("<Q", shorter, size_at, begin)
    assert read(bytes(short)) == SECTION
    assert read(bytes(shorter)) is None


def test_a_string_without_end_is_none() -> None:
    # The table is said to end in the middle of the first name.
    assert read(with_entry(10, 4)) is None


def test_a_section_without_end_or_without_strings_is_none() -> None:
    data = bytearray(FILE)
    struct.pack_into("<Q", data, len(data) - 16, 0x6FFF_FFFF)
    assert read(bytes(data)) is None
    for tag in (5, 10):
        cut = bytearray(FILE)
        at = next(at for at in range(len(cut) - 16, 0, -16) if struct.unpack_from("<Q", cut, at)[0] == tag)
        struct.pack_into("<Q", cut, at, 0x6FFF_FFFF)
        assert read(bytes(cut)) is None


@pytest.mark.parametrize(
    ("just", "over"),
    [
        (elf_bytes(needed=["a"] * elf.MOST_NEEDED), elf_bytes(needed=["a"] * (elf.MOST_NEEDED + 1))),
        (elf_bytes(soname="a" * elf.LONGEST_NAME), elf_bytes(soname="a" * (elf.LONGEST_NAME + 1))),
        (elf_bytes(rpath="a" * elf.LONGEST_SEARCH), elf_bytes(rpath="a" * (elf.LONGEST_SEARCH + 1))),
        (elf_bytes(runpath="a:" * elf.MOST_SEARCHED), elf_bytes(runpath="a:" * (elf.MOST_SEARCHED + 1))),
    ],
    ids=["needed", "name", "path", "directories"],
)
def test_limits(just: bytes, over: bytes) -> None:
    assert read(just) is not None
    assert read(over) is None


def test_little_is_read_of_a_large_file() -> None:
    stream = Watched(FILE + bytes(1 << 22))
    assert read_dynamic(stream) == SECTION
    assert stream.taken < 4096


def test_names_that_are_not_utf_8_match_no_file_and_break_nothing() -> None:
    found = read(FILE.replace(b"libtwo.so", b"lib\xff\xfe\xfd.so"))
    assert found is not None
    assert found.needed[0] == "lib\\xff\\xfe\\xfd.so"


MOST_READ = (
    64
    + elf.MOST_SEGMENTS * 56
    + elf.MOST_ENTRIES * 16
    + (elf.MOST_NEEDED + 1) * (elf.LONGEST_NAME + 1)
    + 16 * (elf.LONGEST_SEARCH + 1)
)


@settings(max_examples=400)
@given(
    st.sampled_from(
        [
            elf_bytes(soname="a", needed=["b", "c"], rpath="$ORIGIN", bits=bits, little=little)
            for bits in (32, 64)
            for little in (True, False)
        ]
    ),
    st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=8)), max_size=6),
    st.integers(0, 500),
)
def test_mutated_and_truncated_files_never_raise(
    data: bytes, changes: list[tuple[int, bytes]], length: int
) -> None:
    mutated = bytearray(data)
    for at, value in changes:
        mutated[at : at + len(value)] = value
    for candidate in (bytes(mutated), bytes(mutated[:length])):
        stream = Watched(candidate)
        found = read_dynamic(stream)
        assert stream.taken <= MOST_READ
        assert found is None or isinstance(found, DynamicSection)


@given(st.binary(max_size=300))
def test_any_bytes_behind_the_magic_never_raise(data: bytes) -> None:
    found = read(FILE[:7] + data)
    assert found is None or isinstance(found, DynamicSection)


def test_an_error_of_the_disk_is_not_taken_for_a_malformed_file(tmp_path: Path) -> None:
    path = tmp_path / "one.so"
    path.write_bytes(FILE)
    with path.open("rb", buffering=0) as stream:
        os.dup2(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY), stream.fileno())
        with pytest.raises(IsADirectoryError):
            read_dynamic(stream)


# --- what a wheel ships, needs and escapes to


def section(*needed: str, search: str = "", soname: str | None = None) -> DynamicSection:
    return DynamicSection(soname, needed, tuple(filter(None, search.split(":"))))


def facts(sections: Mapping[str, DynamicSection], *others: str) -> Libraries:
    """Facts of files in site-packages, unless their names say otherwise, and of other files beside them."""
    placed = {
        key if key.startswith(("data/", "scripts/")) else f"site-packages/{key}": sections[key]
        for key in sections
    }
    return libraries_of(placed, [*placed, *(f"site-packages/{name}" for name in others)])


def test_a_wheel_without_elf_files_has_no_facts() -> None:
    assert libraries_of({}, ["site-packages/a/__init__.py"]) == Libraries({})
    assert libraries_of({"links/x": section("y.so", search="$ORIGIN")}, []) == Libraries({})


def test_shipped_are_libraries_but_not_extension_modules_or_programs() -> None:
    found = facts(
        {
            "a/libone.so.1": section(soname="libother.so"),
            "a/_plain.so": section(),
            "a/core.cpython-311-x86_64-linux-gnu.so": section(soname="core.so"),
            "a/lib.cpython-311-x86_64-linux-gnu.so": section(),
            "a/rust.abi3.so": section(),
            "a/libshiboken6.abi3.so": section(soname="libshiboken6.abi3.so"),
            "a/libshiboken6.abi3.so.6.1": section(soname="libshiboken6.abi3.so.6.1"),
            "a/program": section("libone.so.1"),
            "a/named": section(soname="named"),
            "data/lib/libmkl.so": section(),
            "scripts/ninja": section(),
        }
    )
    assert found.shipped == {
        "../../../lib": ("libmkl.so",),
        "a": ("_plain.so", "libone.so.1", "libshiboken6.abi3.so", "libshiboken6.abi3.so.6.1", "named"),
    }


def test_what_the_wheel_ships_where_it_looks_is_no_need() -> None:
    found = facts(
        {
            "a/sub/core.cpython-311-x86_64-linux-gnu.so": section(
                "libb-1f.so", search="$ORIGIN/../../a.libs"
            ),
            "a.libs/libb-1f.so": section("libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"),
        }
    )
    assert found == Libraries({"a.libs": ("libb-1f.so",)})


def test_a_soname_is_no_further_name() -> None:
    found = facts(
        {"a/x.so": section("libb.so.1", search="$ORIGIN"), "a/libb.so": section(soname="libb.so.1")}
    )
    assert found.needs == (("a", "libb.so.1"),)


@pytest.mark.parametrize(
    "name",
    [
        "libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1", "libresolv.so.2",
        "ld-linux.so.2", "ld64.so.2", "ld-musl-x86_64.so.1", "libc.musl-x86_64.so.1", "libc.so", "",
    ],
)  # fmt: skip
def test_the_c_library_is_no_need(name: str) -> None:
    assert facts({"a/x.so": section(name, search="$ORIGIN")}).needs == ()


def test_others_that_sound_like_it_are() -> None:
    names = ("libc++.so.1", "libmagic.so.1", "librt_extra.so", "libstdc++.so.6")
    assert facts({"a/x.so": section(*names, search="$ORIGIN")}).needs == tuple(("a", name) for name in names)


@pytest.mark.parametrize(
    ("text", "directory"),
    [
        ("$ORIGIN", "p/q"),
        ("${ORIGIN}/.", "p/q"),
        ("$ORIGIN/../lib//", "p/lib"),
        ("$ORIGIN-x", "p/q-x"),
        ("$ORIGIN/../../other/lib", "other/lib"),
        ("$ORIGIN/../..", ""),
        ("$ORIGIN/../../..", "../../../lib/pythonX.Y"),
        ("$ORIGIN/../../../..", "../../../lib"),
        ("$ORIGIN/../../../../../lib64", "../../../lib"),
        ("$ORIGIN/../../../../..", "../../.."),
        ("$ORIGIN/../../../../../lib/python3.13t/site-packages/o", "o"),
        ("$ORIGIN/../../../../../..", None),
        ("$ORIGIN/../../../../../../usr/lib", None),
        ("$origin", None),
        ("/usr/$ORIGIN", None),
        ("/usr/lib", None),
    ],
)
def test_where_a_path_leads(text: str, directory: str | None) -> None:
    found = facts({"p/q/x.so": section("liby.so", search=text)}, "other/lib/z", "p/lib/z", "p/q-x/z", "o/z")
    asked = {*found.escapes, *(place for place, _ in found.needs)}
    assert asked == ({directory} if directory is not None else set())


def test_a_need_is_one_in_each_directory_that_has_files_and_an_escape_in_the_others() -> None:
    found = facts({"p/x.so": section("liby.so", search="$ORIGIN:$ORIGIN/../q:$ORIGIN/../r/s")}, "q/t/file")
    assert found.needs == (("p", "liby.so"), ("q", "liby.so"))
    assert found.escapes == ("r/s",)


def test_a_dependency_by_path_is_looked_for_there_only() -> None:
    found = facts({"p/x.so": section("$ORIGIN/../q/liby.so", "/abs/libz.so", "rel/libz.so")}, "q/file")
    assert found == Libraries({"p": ("x.so",)}, (("q", "liby.so"),))
    assert facts({"p/x.so": section("$ORIGIN/y.so"), "p/y.so": section()}).needs == ()


def test_the_data_scheme_lies_elsewhere_than_in_an_environment() -> None:
    found = facts(
        {
            "p/x.so": section("libmkl.so", search="$ORIGIN/../../.."),
            "data/lib/libmkl.so": section("libcore.so", "libtbb.so", search="$ORIGIN"),
            "data/lib/libcore.so": section(),
        }
    )
    assert found.shipped["../../../lib"] == ("libcore.so", "libmkl.so")
    # libcore.so is beside libmkl.so in the entry too.
    assert found.needs == (("../../../lib", "libmkl.so"), ("../../../lib", "libtbb.so"))
    assert found.escapes == ()


def test_site_packages_itself_does_not_make_lib_a_directory_that_the_wheel_fills() -> None:
    assert facts({"p/x.so": section(search="$ORIGIN/../..:$ORIGIN/../../..")}).escapes == (
        "../../../lib",
        "../../../lib/pythonX.Y",
    )


def test_a_library_inherits_the_paths_of_those_that_load_it() -> None:
    found = facts(
        {
            "p/_c.so": section("liba.so", search="$ORIGIN/lib:$ORIGIN/../shared"),
            "p/lib/liba.so": section("libb.so"),
            "p/lib/libb.so": section("libtheirs.so", "liba.so"),
            "p/lib/alone.so": section("libnobody.so"),
        },
        "shared/file",
    )
    assert found.needs == (("p/lib", "libtheirs.so"), ("shared", "libtheirs.so"))


def test_what_is_found_by_an_inherited_path_only_is_still_looked_for_in_the_own_one() -> None:
    found = facts(
        {
            "p/_c.so": section("liba.so", "libb.so", search="$ORIGIN/lib:$ORIGIN/more"),
            "p/lib/liba.so": section("libb.so", search="$ORIGIN"),
            "p/more/libb.so": section(),
        }
    )
    assert found.needs == (("p/lib", "libb.so"),)


def test_facts_have_a_limit_and_are_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "MOST_FACTS", 50)
    many = {
        f"p/x{number}.so": section(
            *(f"lib{name}.so" for name in range(9)),
            search=":".join(f"$ORIGIN:$ORIGIN/{number}/{i}" for i in range(9)),
        )
        for number in range(9)
    }
    found = facts(many)
    assert (len(found.needs), len(found.escapes)) == (9, 50)
    for steps in (0, 10, 100, 1000):
        monkeypatch.setattr(libraries, "MOST_STEPS", steps)
        less = facts(many)
        assert set(less.needs) <= set(found.needs)
        assert less == facts(dict(reversed(many.items())))


PARTS = st.sampled_from(["p", "q", "lib", "..", "."])
PLACES = st.sampled_from(["p", "p/lib", "q", "q/lib/deep"])
SECTIONS = st.builds(
    DynamicSection,
    st.none() | st.just("s"),
    st.lists(st.sampled_from(["liba.so", "libb.so", "libc.so.6", "$ORIGIN/libb.so"]), max_size=3).map(tuple),
    st.lists(st.lists(PARTS, max_size=6).map(lambda parts: "/".join(["$ORIGIN", *parts])), max_size=3).map(
        tuple
    ),
)
WHEELS = st.dictionaries(
    st.builds(
        "{}/{}/{}".format,
        st.sampled_from(["site-packages", "data"]),
        PLACES,
        st.sampled_from(["liba.so", "x.so"]),
    ),
    SECTIONS,
    max_size=6,
)


@given(WHEELS, st.randoms())
def test_equal_wheels_have_equal_facts(wheel: dict[str, DynamicSection], random: Any) -> None:
    names = list(wheel)
    random.shuffle(names)
    found = libraries_of(wheel, wheel)
    assert found == libraries_of({name: wheel[name] for name in names}, names)
    assert list(found.needs) == sorted(set(found.needs))
    assert list(found.escapes) == sorted(set(found.escapes))
    assert list(found.shipped) == sorted(found.shipped)
    # A directory is an escape or may have needs, not both; and nothing leads out of the environment.
    assert not {directory for directory, _ in found.needs} & set(found.escapes)
    assert not any(directory.startswith("../../../..") for directory in found.escapes)
