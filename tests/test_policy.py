"""What a collection removes: a graph of a few letters for every rule, and laws over random graphs.

``E F G`` are environments, ``a b c d`` entries, ``K L M`` locks, ``q r`` request memos and ``x y`` input memos.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrfstore.gc.policy import Collection, EnvironmentState, Policy, Room, Snapshot, decide, excess

NOW = 1_000_000.0
OLD = 0.0
POLICY = Policy(max_age=1000, grace=100)
NOTHING = Collection(environments=(), entries=(), inputs=(), requests=(), locks=())

_Value = TypeVar("_Value")


def environment(
    entries: str | None,
    *,
    lock: str | None = None,
    used: float = NOW,
    made: float = OLD,
    readable: bool = True,
    superseded: bool = False,
) -> EnvironmentState:
    return EnvironmentState(
        last_use=used,
        made=made,
        entries=None if entries is None else frozenset(entries),
        lock=lock,
        readable=readable and entries is not None,
        superseded=superseded,
    )


def snapshot(
    environments: Mapping[str, EnvironmentState] | None = None,
    entries: str = "",
    *,
    locks: str = "",
    requests: Mapping[str, tuple[str, float]] | None = None,
    inputs: Mapping[str, str] | None = None,
    kept: Mapping[str, tuple[str, ...]] | None = None,
    keep_before: Mapping[str, float] | None = None,
    keep_all: tuple[str, ...] = (),
) -> Snapshot:
    """What was found, where all entries and locks are old."""
    return Snapshot(
        began=NOW,
        environments=environments or {},
        entries=dict.fromkeys(entries, OLD),
        locks=dict.fromkeys(locks, OLD),
        requests=requests or {},
        inputs={name: (leads_to, NOW, 0.0) for name, leads_to in (inputs or {}).items()},
        kept=kept or {},
        keep_before=keep_before or {},
        keep_all=keep_all,
    )


class Weights:
    """A ledger of made-up sizes: ten bytes for an environment, a hundred for an entry."""

    def __init__(self) -> None:
        self.freed = 0
        self.added: list[str] = []

    def add(self, name: str) -> None:
        self.added.append(name)
        self.freed += 10 if name.startswith("environments/") else 100


def removed(found: Snapshot, policy: Policy = POLICY) -> Collection:
    """What goes, without the reasons for the rest."""
    return replace(decide(found, policy), reasons={})


# --- every rule


def test_of_an_empty_store_nothing_goes() -> None:
    assert decide(snapshot(), POLICY) == NOTHING


def test_a_used_environment_keeps_its_entries_its_lock_and_its_memos() -> None:
    found = snapshot(
        {"E": environment("ab", lock="K")}, "ab", locks="K", requests={"q": ("K", OLD)}, inputs={"x": "E"}
    )
    assert removed(found) == NOTHING


def test_an_unused_environment_goes_with_all_that_only_it_refers_to() -> None:
    found = snapshot(
        {"E": environment("ab", lock="K", used=OLD), "F": environment("bc", lock="L")},
        "abcd",
        locks="KLM",
        requests={"q": ("K", OLD), "r": ("L", OLD)},
        inputs={"x": "E", "y": "F"},
    )
    assert removed(found) == Collection(
        environments=("E",), entries=("a", "d"), inputs=("x",), requests=("q",), locks=("K", "M")
    )


def test_environments_go_in_the_order_of_their_last_use() -> None:
    ages = {"E": 30.0, "F": 10.0, "G": 20.0, "H": 10.0}
    found = snapshot({name: environment("", used=used) for name, used in ages.items()})
    assert removed(found).environments == ("F", "H", "G", "E")


@pytest.mark.parametrize(
    ("unused", "stays"),
    [(0, True), (999, True), (1000, True), (1000.5, False), (-5, True)],
)
def test_an_environment_goes_when_it_was_unused_for_longer_than_max_age(unused: float, stays: bool) -> None:
    found = snapshot({"E": environment("", used=NOW - unused)})
    assert removed(found).environments == (() if stays else ("E",))


@pytest.mark.parametrize("unused", [0, -0.001, -3600])
def test_what_was_used_since_the_scan_began_stays_at_an_age_of_zero(unused: float) -> None:
    found = snapshot({"E": environment("a", used=NOW - unused)}, "a")
    assert removed(found, Policy(max_age=0, grace=0)) == NOTHING


@pytest.mark.parametrize(("age", "stays"), [(0, True), (100, True), (100.5, False), (-5, True)])
def test_an_entry_and_a_lock_go_when_nothing_refers_to_them_for_longer_than_the_grace(
    age: float, stays: bool
) -> None:
    found = replace(snapshot(), entries={"a": NOW - age}, locks={"K": NOW - age})
    assert removed(found) == (NOTHING if stays else replace(NOTHING, entries=("a",), locks=("K",)))


@pytest.mark.parametrize(("age", "stays"), [(1000, True), (1000.5, False)])
def test_a_request_memo_goes_with_its_lock_when_it_is_older_than_max_age(age: float, stays: bool) -> None:
    found = snapshot(locks="K", requests={"q": ("K", NOW - age)})
    assert removed(found) == (NOTHING if stays else replace(NOTHING, requests=("q",), locks=("K",)))


def test_an_input_memo_goes_when_its_environment_is_not_there() -> None:
    assert removed(snapshot(inputs={"x": "E"})).inputs == ("x",)


@pytest.mark.parametrize(
    "kept", ["environments/E", "entries/a", "locks/K"], ids=["environment", "entry", "lock"]
)
def test_what_a_root_or_a_lease_names_stays_and_nothing_else(kept: str) -> None:
    found = snapshot({"E": environment("b", used=OLD)}, "ab", locks="K", kept={kept: ("root film",)})
    everything = Collection(environments=("E",), entries=("a", "b"), inputs=(), requests=(), locks=("K",))
    expected = {
        "environments/E": replace(everything, environments=(), entries=("a",)),
        "entries/a": replace(everything, entries=("b",)),
        "locks/K": replace(everything, locks=()),
    }
    assert removed(found) == expected[kept]


def test_an_environment_that_tells_nothing_stays_and_so_does_every_older_entry_and_lock() -> None:
    found = snapshot({"E": environment(None, used=OLD, made=10), "F": environment("a", used=OLD)}, "ab")
    found = replace(found, entries={"a": 9.0, "b": 10.0, "c": 11.0}, locks={"K": 10.0, "L": 11.0})
    result = decide(found, POLICY)
    assert (result.environments, result.entries, result.locks) == (("F",), ("c",), ("L",))
    assert result.reasons == {"E": ("its record cannot be read",)}


def test_an_environment_whose_record_cannot_be_read_stays_with_what_its_links_tell() -> None:
    found = snapshot({"E": environment("a", used=OLD, made=10, readable=False)}, "ab")
    found = replace(found, locks={"K": 10.0, "L": 11.0})
    result = decide(found, POLICY)
    assert (result.environments, result.entries, result.locks) == ((), ("b",), ("L",))


def test_where_a_root_cannot_be_read_every_environment_stays_and_what_is_older_than_the_root() -> None:
    found = snapshot({"E": environment("", used=OLD)}, keep_before={"root film is damaged": 10.0})
    found = replace(found, entries={"a": 10.0, "b": 11.0}, locks={"K": 10.0, "L": 11.0})
    result = decide(found, POLICY)
    assert (result.environments, result.entries, result.locks) == ((), ("b",), ("L",))
    assert result.reasons == {"E": ("root film is damaged",)}


@pytest.mark.parametrize(("unused", "stays"), [(6, True), (8, False)])
def test_a_generation_that_is_not_handed_out_any_more_goes_after_a_week(unused: float, stays: bool) -> None:
    day = 86400.0
    found = snapshot({"E": environment("", used=NOW - unused * day, superseded=True)})
    assert removed(found, Policy(max_age=30 * day, grace=day)).environments == (() if stays else ("E",))


def test_of_the_recipes_that_come_to_one_lock_the_newest_hundred_stay() -> None:
    many = {f"q{number:03}": ("K", OLD + number) for number in range(102)}
    found = snapshot(
        {"E": environment("", lock="K")}, locks="K", requests={**many, "r": ("K", OLD - 1), "s": ("L", NOW)}
    )
    assert removed(found).requests == ()
    assert removed(replace(found, recipes=frozenset({*many, "s"}))).requests == ("q000", "q001")


def test_of_the_memos_that_lead_to_one_environment_the_newest_hundred_stay() -> None:
    found = replace(
        snapshot({"E": environment("")}), inputs={f"{n:03}": ("E", float(n), 0.0) for n in range(103)}
    )
    assert removed(found).inputs == ("000", "001", "002")


@pytest.mark.parametrize(("until", "stays"), [(0, True), (NOW + 1, True), (NOW - 1, False)])
def test_an_input_memo_goes_when_it_is_stale(until: float, stays: bool) -> None:
    found = replace(snapshot({"E": environment("")}), inputs={"x": ("E", OLD, until)})
    assert removed(found).inputs == (() if stays else ("x",))


@pytest.mark.parametrize(("age", "stays"), [(100, True), (101, False)])
def test_a_probe_that_nobody_can_use_goes_after_the_grace(age: float, stays: bool) -> None:
    found = replace(snapshot(), probes={"p.json": NOW - age})
    assert removed(found).probes == (() if stays else ("p.json",))


# --- budgets

RECENT = {
    "E": environment("ab", used=NOW - 300),
    "F": environment("bc", used=NOW - 200),
    "G": environment("d", used=NOW - 50),
}
"""The first two are older than the grace; all are used within max_age. ``b`` is shared."""


@pytest.mark.parametrize(
    ("wanted", "environments", "entries"),
    [
        (0, (), ("e",)),
        (100, (), ("e",)),  # what nothing refers to is enough
        (101, ("E",), ("a", "e")),
        (210, ("E",), ("a", "e")),
        (211, ("E", "F"), ("a", "b", "c", "e")),
        (10_000, ("E", "F"), ("a", "b", "c", "e")),  # what was used within the grace stays
    ],
)
def test_for_a_budget_environments_go_least_recently_used_first_with_what_only_they_have(
    wanted: int, environments: tuple[str, ...], entries: tuple[str, ...]
) -> None:
    ledger = Weights()
    result = decide(snapshot(RECENT, "abcde"), POLICY, ledger=ledger, wanted=wanted)
    assert (result.environments, result.entries) == (environments, entries)
    assert set(ledger.added) == {
        *(f"environments/{name}" for name in environments),
        *(f"entries/{name}" for name in entries),
    }


def test_no_budget_is_worth_what_somebody_keeps() -> None:
    found = snapshot(RECENT, "abcd", kept={"environments/E": ("leased",)})
    result = decide(found, POLICY, ledger=Weights(), wanted=10_000)
    assert (result.environments, result.entries) == (("F",), ("c",))


@pytest.mark.parametrize(
    ("most", "environments", "entries", "enough"),
    [
        (0, (), (), True),
        (1, (), ("e",), True),
        (101, ("H",), ("e", "f"), True),
        (211, ("H", "E"), ("a", "e", "f"), True),
        (10_000, ("H", "E", "F"), ("a", "b", "c", "e", "f"), False),
    ],
)
def test_a_run_that_may_free_so_much_stops_there(
    most: int, environments: tuple[str, ...], entries: tuple[str, ...], enough: bool
) -> None:
    found = snapshot({**RECENT, "H": environment("f", used=OLD)}, "abcdef")
    policy = replace(POLICY, max_freed=most)
    result = decide(found, policy, ledger=Weights(), wanted=10_000)
    assert (result.environments, result.entries, result.enough) == (environments, entries, enough)
    assert found.environments.keys() == {*result.environments, *result.reasons}


GIB = 1 << 30


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, 0),
        ({"max_size": 70 * GIB}, 0),
        ({"max_size": 50 * GIB}, 10 * GIB),
        ({"min_free": Room(20 * GIB)}, 0),
        ({"min_free": Room(30 * GIB)}, 10 * GIB),
        ({"min_free": Room(10, relative=True)}, 0),
        ({"min_free": Room(30, relative=True)}, 40 * GIB),
        ({"min_free": Room(30, relative=True), "target_free": Room(35, relative=True)}, 50 * GIB),
        ({"min_free": Room(30 * GIB), "target_free": Room(25 * GIB)}, 10 * GIB),
        ({"min_free": Room(10 * GIB), "target_free": Room(90 * GIB)}, 0),
        ({"min_free": Room(25 * GIB), "max_size": 40 * GIB}, 20 * GIB),
    ],
)
def test_what_has_to_come_back_is_what_is_over_either_budget(policy: dict[str, Any], expected: int) -> None:
    asked = Policy(max_age=0, grace=0, **policy)
    assert excess(asked, used=60 * GIB, free=20 * GIB, total=200 * GIB) == expected


def test_where_a_reference_cannot_be_read_everything_stays() -> None:
    found = snapshot({"E": environment("a", used=OLD)}, "ab", locks="K", keep_all=("root film is damaged",))
    result = decide(found, POLICY)
    assert replace(result, reasons={}) == NOTHING
    assert result.reasons == {"E": ("root film is damaged",)}


def test_reasons_are_all_that_keep_an_environment() -> None:
    found = snapshot(
        {"E": environment(""), "F": environment("", used=OLD)},
        kept={"environments/E": ("root film", "lease of process 7")},
    )
    assert decide(found, POLICY).reasons == {"E": ("root film", "lease of process 7")}


@pytest.mark.parametrize(
    ("unused", "text"),
    [
        (-5, "used 0 seconds ago"),
        (0, "used 0 seconds ago"),
        (1.2, "used 1 second ago"),
        (119, "used 119 seconds ago"),
        (120, "used 2 minutes ago"),
        (7199, "used 120 minutes ago"),
        (7200, "used 2 hours ago"),
        (2 * 86400, "used 2 days ago"),
        (29.6 * 86400, "used 30 days ago"),
    ],
)
def test_a_recent_use_is_a_reason(unused: float, text: str) -> None:
    found = snapshot({"E": environment("", used=NOW - unused)})
    assert decide(found, Policy(max_age=30 * 86400, grace=0)).reasons == {"E": (text,)}


# --- laws

TIMES = st.sampled_from([NOW + 5, NOW, NOW - 1, NOW - 50, NOW - 100, NOW - 500, NOW - 1000, NOW - 5000, OLD])
SPANS = st.sampled_from([0.0, 1.0, 50.0, 100.0, 1000.0, 6000.0, 2 * NOW])
ENVIRONMENTS, ENTRIES, LOCKS = "EFGH", "abcdef", "KLM"
STATES = st.builds(
    EnvironmentState,
    last_use=TIMES,
    made=TIMES,
    entries=st.frozensets(st.sampled_from(ENTRIES)),
    lock=st.sampled_from(LOCKS) | st.none(),
    readable=st.sampled_from([True, True, True, False]),
    superseded=st.booleans(),
) | st.builds(
    EnvironmentState, last_use=TIMES, made=TIMES, entries=st.none(), lock=st.none(), readable=st.just(False)
)
NAMED = [f"environments/{name}" for name in ENVIRONMENTS]
NAMED += [f"entries/{name}" for name in ENTRIES]
NAMED += [f"locks/{name}" for name in LOCKS]
SNAPSHOTS = st.builds(
    Snapshot,
    began=st.just(NOW),
    environments=st.dictionaries(st.sampled_from(ENVIRONMENTS), STATES),
    entries=st.dictionaries(st.sampled_from(ENTRIES), TIMES),
    locks=st.dictionaries(st.sampled_from(LOCKS), TIMES),
    requests=st.dictionaries(st.sampled_from("qrs"), st.tuples(st.sampled_from(LOCKS), TIMES)),
    inputs=st.dictionaries(
        st.sampled_from("xyz"), st.tuples(st.sampled_from(ENVIRONMENTS), TIMES, TIMES | st.just(0.0))
    ),
    kept=st.dictionaries(st.sampled_from(NAMED), st.just(("root film",)), max_size=4),
    keep_before=st.dictionaries(st.just("a root cannot be read"), TIMES),
    keep_all=st.sampled_from([(), (), (), ("a lease cannot be read",)]),
)
POLICIES = st.builds(Policy, max_age=SPANS, grace=SPANS)
WANTED = st.sampled_from([0, 0, 50, 250, 10_000])


def parts(result: Collection) -> Mapping[str, frozenset[str]]:
    return {
        "environments": frozenset(result.environments),
        "entries": frozenset(result.entries),
        "inputs": frozenset(result.inputs),
        "requests": frozenset(result.requests),
        "locks": frozenset(result.locks),
    }


def without(found: Mapping[str, _Value], gone: tuple[str, ...]) -> Mapping[str, _Value]:
    return {name: value for name, value in found.items() if name not in gone}


def unread(found: Snapshot, result: Collection) -> float:
    """Up to when whatever was published may be something that an unreadable environment needs."""
    states = without(found.environments, result.environments).values()
    return max((state.made for state in states if state.entries is None), default=-1.0)


@given(found=SNAPSHOTS, policy=POLICIES, wanted=WANTED)
def test_nothing_that_is_referred_to_ever_goes(found: Snapshot, policy: Policy, wanted: int) -> None:
    result = decide(found, policy, ledger=Weights(), wanted=wanted)
    staying = without(found.environments, result.environments)
    assert set(staying) == set(result.reasons)
    for state in staying.values():
        assert not (state.entries or frozenset()) & set(result.entries)
        assert state.lock not in result.locks
    for name in result.entries:
        assert found.entries[name] > unread(found, result)
    for part, gone in parts(result).items():
        assert not {f"{part}/{name}" for name in gone} & set(found.kept)
    for lock, _ in without(found.requests, result.requests).values():
        assert lock not in result.locks
    # A memo leads a hit to its environment, so that it goes with it and never without.
    for name in result.inputs:
        leads_to, _, until = found.inputs[name]
        assert leads_to not in staying or 0 < until < NOW
    # What cannot be read may refer to anything, or to anything that is older.
    assert not found.keep_all or not (result.environments or result.entries or result.locks)
    for time in found.keep_before.values():
        assert not result.environments
        assert all(found.entries[name] > time for name in result.entries)
        assert all(found.locks[name] > time for name in result.locks)


@given(found=SNAPSHOTS, policy=POLICIES, wanted=WANTED)
def test_nothing_goes_that_is_not_there_or_that_is_younger_than_the_scan(
    found: Snapshot, policy: Policy, wanted: int
) -> None:
    result = decide(found, policy, ledger=Weights(), wanted=wanted)
    for name in result.environments:
        patience = min(policy.max_age, policy.grace) if wanted else policy.max_age
        assert found.environments[name].last_use < NOW - min(patience, 7 * 86400)
    for name in result.entries:
        assert found.entries[name] < NOW - policy.grace
    for name in result.locks:
        assert found.locks[name] < NOW - policy.grace
    for name in result.requests:
        assert found.requests[name][1] < NOW - policy.max_age


@given(found=SNAPSHOTS, policy=POLICIES)
def test_what_nothing_keeps_goes(found: Snapshot, policy: Policy) -> None:
    result = decide(found, policy)
    staying = without(found.environments, result.environments)
    for name, state in staying.items():
        assert (
            found.keep_all
            or found.keep_before
            or not state.readable
            or f"environments/{name}" in found.kept
            or NOW - state.last_use <= policy.max_age
        )
    used = frozenset[str]().union(*(state.entries or frozenset() for state in staying.values()))
    for name, published in without(found.entries, result.entries).items():
        assert (
            found.keep_all
            or any(published <= time for time in found.keep_before.values())
            or published <= unread(found, result)
            or name in used
            or f"entries/{name}" in found.kept
            or NOW - published <= policy.grace
        )
    left = without(found.inputs, result.inputs).values()
    assert {leads_to for leads_to, _, _ in left} <= set(staying)


@given(found=SNAPSHOTS, policy=POLICIES, wanted=WANTED)
def test_a_budget_is_kept_or_nothing_more_may_go(found: Snapshot, policy: Policy, wanted: int) -> None:
    ledger = Weights()
    result = decide(found, policy, ledger=ledger, wanted=wanted)
    without_budget = decide(found, policy)
    assert set(without_budget.environments) <= set(result.environments)
    for name in set(found.environments) - set(result.environments):
        assert (
            ledger.freed >= wanted
            or found.environments[name].last_use >= NOW - policy.grace
            or "used" not in result.reasons[name][0]
        )


@given(found=SNAPSHOTS, policy=POLICIES)
def test_a_second_collection_finds_nothing_more(found: Snapshot, policy: Policy) -> None:
    first = decide(found, policy)
    left = replace(
        found,
        environments=without(found.environments, first.environments),
        entries=without(found.entries, first.entries),
        inputs=without(found.inputs, first.inputs),
        requests=without(found.requests, first.requests),
        locks=without(found.locks, first.locks),
    )
    second = decide(left, policy)
    assert replace(second, reasons={}) == NOTHING
    assert second.reasons == first.reasons


@given(found=SNAPSHOTS, policy=POLICIES, max_age=SPANS, grace=SPANS)
def test_more_patience_never_removes_more(
    found: Snapshot, policy: Policy, max_age: float, grace: float
) -> None:
    patient = Policy(max_age=max(policy.max_age, max_age), grace=max(policy.grace, grace))
    less, more = parts(decide(found, patient)), parts(decide(found, policy))
    assert all(less[part] <= more[part] for part in more)


@given(found=SNAPSHOTS, policy=POLICIES, name=st.sampled_from(NAMED))
def test_one_more_root_never_removes_more(found: Snapshot, policy: Policy, name: str) -> None:
    rooted = replace(found, kept={**found.kept, name: ("root second",)})
    less, more = parts(decide(rooted, policy)), parts(decide(found, policy))
    assert all(less[part] <= more[part] for part in more)


@given(found=SNAPSHOTS, policy=POLICIES, data=st.data())
def test_the_order_in_which_things_were_found_does_not_matter(
    found: Snapshot, policy: Policy, data: st.DataObject
) -> None:
    def shuffled(mapping: Mapping[str, _Value]) -> dict[str, _Value]:
        return dict(data.draw(st.permutations(list(mapping.items()))))

    other = replace(
        found,
        environments=shuffled(found.environments),
        entries=shuffled(found.entries),
        locks=shuffled(found.locks),
        requests=shuffled(found.requests),
        inputs=shuffled(found.inputs),
        kept=shuffled(found.kept),
    )
    assert decide(other, policy) == decide(found, policy)
