"""Which entries have to be merged: real layouts, the data scheme, copies, and laws over random ones."""

from collections.abc import Mapping
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrfstore.linker.coupling import Coupling, couple
from vrfstore.model import Digest, EntryPlan, EntryReference, Libraries
from vrfstore.store.elf import DynamicSection
from vrfstore.store.libraries import libraries_of

NOTHING = Coupling((), frozenset())


def entry(name: str, libraries: Libraries) -> EntryPlan:
    return EntryPlan(
        reference=EntryReference(digest=Digest("0" * 64), name=name, version="1", directory=f"0-{name}-1"),
        dist_info=f"{name}-1.dist-info",
        tags=(),
        requires_python=None,
        unpacked=0,
        trees={},
        record_links=0,
        record_ready=True,
        libraries=libraries,
    )


def plan(
    name: str,
    shipped: Mapping[str, str] | None = None,
    needs: Mapping[str, str] | None = None,
    escapes: str = "",
) -> EntryPlan:
    """A plan whose libraries are given as names by directory."""
    return entry(
        name,
        Libraries(
            {directory: tuple(names.split()) for directory, names in (shipped or {}).items()},
            tuple((directory, one) for directory, names in (needs or {}).items() for one in names.split()),
            tuple(escapes.split()),
        ),
    )


def wheel(name: str, files: Mapping[str, tuple[str, str]]) -> EntryPlan:
    """A plan from what each ELF file needs and where it looks, by its place; names without a scheme are packages."""
    sections = {
        key if key.startswith("data/") else f"site-packages/{key}": DynamicSection(
            None, tuple(needed.split()), tuple(filter(None, search.split(":")))
        )
        for key, (needed, search) in files.items()
    }
    return entry(name, libraries_of(sections, [*sections, f"site-packages/{name}-1.dist-info/RECORD"]))


def names(found: Coupling) -> tuple[list[list[str]], set[str]]:
    return [[member.reference.name for member in group] for group in found.groups], set(found.unfolded)


# --- real layouts

EXT = "cpython-311-x86_64-linux-gnu.so"
CUDA = "$ORIGIN/../../nvidia/cublas/lib:$ORIGIN/../../nvidia/cudnn/lib:$ORIGIN"
TORCH = [
    wheel(
        "torch",
        {
            f"torch/_C.{EXT}": ("libtorch_python.so libc.so.6", "$ORIGIN/lib"),
            "torch/lib/libtorch_python.so": ("libtorch_cuda.so", "$ORIGIN"),
            "torch/lib/libtorch_cuda.so": ("libcublas.so.12 libstdc++.so.6", CUDA),
        },
    ),
    wheel(
        "nvidia-cublas-cu12",
        {
            "nvidia/cublas/lib/libcublas.so.12": ("libcublasLt.so.12", "$ORIGIN"),
            "nvidia/cublas/lib/libcublasLt.so.12": ("libm.so.6", ""),
        },
    ),
    # Nothing is linked against it: torch opens it when it is first used.
    wheel("nvidia-cudnn-cu12", {"nvidia/cudnn/lib/libcudnn.so.9": ("libm.so.6", "$ORIGIN")}),
]
TORCH_ALIKE = [
    wheel("nvidia-nccl-cu12", {"nvidia/nccl/lib/libnccl.so.2": ("libm.so.6", "")}),
    wheel("torch-cpu-only", {"other/lib/libtorch.so": ("libgomp.so.1", "$ORIGIN")}),
]
PREFIX = "cmeel.prefix/lib"
CMEEL = [
    wheel(
        "cmeel-boost",
        {
            f"{PREFIX}/libboost_python311.so.1": ("libstdc++.so.6", "$ORIGIN"),
            f"{PREFIX}/libboost_graph.so.1": ("libboost_regex.so.1", "$ORIGIN"),
            f"{PREFIX}/libboost_regex.so.1": ("", "$ORIGIN"),
        },
    ),
    wheel(
        "eigenpy",
        {
            f"{PREFIX}/libeigenpy.so": ("libboost_python311.so.1", "$ORIGIN"),
            f"{PREFIX}/python3.11/site-packages/eigenpy/eigenpy_pywrap.{EXT}": ("libeigenpy.so", "$ORIGIN/../../.."),
        },
    ),
    wheel("coal", {f"{PREFIX}/python3.11/site-packages/coal/coal.{EXT}": ("libeigenpy.so", "$ORIGIN/../../..")}),
]  # fmt: skip
CMEEL_ALIKE = [wheel("cmeel-octomap", {f"{PREFIX}/liboctomap.so.1": ("libstdc++.so.6", "$ORIGIN")})]
QT = [
    wheel(
        "pyside6-essentials",
        {
            "PySide6/QtCore.abi3.so": (
                "libpyside6.abi3.so.6 libshiboken6.abi3.so.6 libQt6Core.so.6",
                "$ORIGIN/../shiboken6/:$ORIGIN/Qt/lib:$ORIGIN",
            ),
            "PySide6/libpyside6.abi3.so.6": ("libshiboken6.abi3.so.6", "$ORIGIN/../shiboken6/:$ORIGIN"),
            "PySide6/Qt/lib/libQt6Core.so.6": ("libz.so.1", "$ORIGIN"),
        },
    ),
    wheel(
        "shiboken6",
        {
            "shiboken6/Shiboken.abi3.so": ("libshiboken6.abi3.so.6", "$ORIGIN"),
            "shiboken6/libshiboken6.abi3.so.6": ("libstdc++.so.6", ""),
        },
    ),
]
MKL_SERVICE = wheel("mkl-service", {f"mkl/_mkl.{EXT}": ("libmkl_rt.so.2", "$ORIGIN/../../..")})
MKL = wheel("mkl", {"data/lib/libmkl_rt.so.2": ("", ""), "data/lib/libmkl_core.so.2": ("libm.so.6", "")})
SELF_CONTAINED = [
    wheel(
        name,
        {
            f"{name}/core/_multi.{EXT}": ("libopenblas.so libz.so.1", f"$ORIGIN/../../{name}.libs"),
            f"{name}.libs/libopenblas.so": ("libgfortran.so libgcc_s.so.1", "$ORIGIN"),
            f"{name}.libs/libgfortran.so": ("libstdc++.so.6", ""),
        },
    )
    for name in ("numpy", "scipy", "pyarrow")
]


def test_self_contained_wheels_are_not_coupled() -> None:
    assert couple([]) == NOTHING
    assert couple([plan("a"), plan("b", {"b": "b.so"})]) == NOTHING
    assert couple(SELF_CONTAINED) == NOTHING


@pytest.mark.parametrize(
    ("wheels", "others"),
    [(TORCH, TORCH_ALIKE), (CMEEL, CMEEL_ALIKE), (QT, [])],
    ids=["torch", "cmeel", "pyside6"],
)
def test_wheels_whose_libraries_find_each_other_are_one_group(
    wheels: list[EntryPlan], others: list[EntryPlan]
) -> None:
    group = sorted(member.reference.name for member in wheels)
    assert names(couple([*wheels, *others, *SELF_CONTAINED])) == ([group], set())
    # One of them alone is nothing to merge.
    for member in wheels:
        assert couple([member, *others, *SELF_CONTAINED]) == NOTHING


def test_several_groups_stay_apart() -> None:
    found = couple([*QT, *TORCH, *CMEEL, *CMEEL_ALIKE, *SELF_CONTAINED])
    assert names(found) == (
        [
            ["cmeel-boost", "coal", "eigenpy"],
            ["nvidia-cublas-cu12", "nvidia-cudnn-cu12", "torch"],
            ["pyside6-essentials", "shiboken6"],
        ],
        set(),
    )


# --- what cannot be merged


def test_who_looks_into_the_data_scheme_is_unfolded() -> None:
    assert names(couple([MKL, MKL_SERVICE])) == ([], {"mkl-service"})
    assert couple([MKL]) == couple([MKL_SERVICE]) == NOTHING


def test_also_where_it_ships_the_library_itself() -> None:
    both = wheel("both", {f"p/x.{EXT}": ("liby.so", "$ORIGIN/../../.."), "data/lib/liby.so": ("", "")})
    assert names(couple([both])) == ([], {"both"})


def test_a_group_is_unfolded_with_a_member_that_is() -> None:
    looks = plan("looks", needs={"../../../lib": "libmkl_rt.so.2", "a": "a.so"})
    a, b = plan("a", {"a": "a.so"}, {"b": "b.so"}), plan("b", {"b": "b.so"})
    assert names(couple([b, a, looks])) == ([["a", "b", "looks"]], set())
    assert names(couple([b, a, looks, MKL, *QT])) == (
        [["pyside6-essentials", "shiboken6"]],
        {"a", "b", "looks"},
    )


def test_a_copied_distribution_leaves_the_others_of_its_group_unfolded() -> None:
    everything = [*TORCH, *QT, *SELF_CONTAINED]
    assert names(couple(everything, apart=frozenset({"torch", "numpy", "not-there"}))) == (
        [["pyside6-essentials", "shiboken6"]],
        {"nvidia-cublas-cu12", "nvidia-cudnn-cu12"},
    )
    assert names(couple([MKL, MKL_SERVICE], apart=frozenset({"mkl-service"}))) == ([], set())


# --- the rule


def test_only_the_very_directory_and_the_very_name_count() -> None:
    asks = plan("asks", {"p": "p.so"}, {"q/lib": "liba.so"}, "r")
    assert couple([asks, plan("b", {"q": "liba.so", "q/lib": "libb.so", "r/lib": "x.so"})]) == NOTHING
    assert names(couple([asks, plan("b", {"q/lib": "libb.so liba.so"})])) == ([["asks", "b"]], set())
    assert names(couple([asks, plan("b", {"r": "x.so"})])) == ([["asks", "b"]], set())


def test_what_a_wheel_has_itself_couples_it_with_nobody() -> None:
    assert couple([plan("a", {"p": "a.so"}, {"p": "a.so"}), plan("b", {"q": "b.so"})]) == NOTHING


DIRECTORIES = st.sampled_from(["p", "q", "r", "../../../lib"])
NAMES = st.sampled_from(["a.so", "b.so"])
PLANS = st.lists(
    st.builds(
        Libraries,
        st.dictionaries(DIRECTORIES, st.lists(NAMES, min_size=1, unique=True).map(tuple), max_size=2),
        st.lists(st.tuples(DIRECTORIES, NAMES), max_size=2).map(tuple),
        st.lists(DIRECTORIES, max_size=1).map(tuple),
    ),
    max_size=7,
).map(lambda found: [entry(f"w{number}", libraries) for number, libraries in enumerate(found)])
APART = st.frozensets(st.sampled_from(["w0", "w1", "w2"]), max_size=2)


def meets(one: EntryPlan, other: EntryPlan) -> set[str]:
    """The rule, spelled out: the directories where ``other`` has what ``one`` looks for."""
    has = other.libraries.shipped
    found = {directory for directory, name in one.libraries.needs if name in has.get(directory, ())}
    return found | ({*one.libraries.escapes} & {*has} if one is not other else set())


@given(PLANS, APART, st.randoms())
def test_the_order_of_plans_does_not_matter(
    plans: list[EntryPlan], apart: frozenset[str], random: Random
) -> None:
    shuffled = plans[:]
    random.shuffle(shuffled)
    assert couple(shuffled, apart=apart) == couple(plans, apart=apart)


@given(PLANS, APART)
def test_the_result_is_what_the_rule_says(plans: list[EntryPlan], apart: frozenset[str]) -> None:
    together = {one.reference.name: {one.reference.name} for one in plans}
    for one in plans:
        for other in plans:
            if any(not directory.startswith("..") for directory in meets(one, other)):
                whole = together[one.reference.name] | together[other.reference.name]
                together.update(dict.fromkeys(whole, whole))
    outside = {
        one.reference.name
        for one in plans
        for other in plans
        if any(directory.startswith("..") for directory in meets(one, other))
    }
    groups: list[list[str]] = []
    unfolded: set[str] = set()
    for group in {tuple(sorted(group)) for group in together.values()}:
        if outside & {*group} or (len(group) > 1 and apart & {*group}):
            unfolded |= {*group} - apart
        elif len(group) > 1:
            groups.append(list(group))
    assert names(couple(plans, apart=apart)) == (sorted(groups), unfolded)
