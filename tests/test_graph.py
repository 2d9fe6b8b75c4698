"""Who keeps what and until when: a graph of a few letters for every kind of keeper, and laws that tie it to ``decide``.

Letters as in ``test_policy``: ``E F G`` are environments, ``a b c`` entries, ``K L`` locks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from test_policy import NOW, OLD, POLICIES, POLICY, SNAPSHOTS, environment, parts, snapshot
from vrfstore.gc.graph import Graph, Keeper, Kind, distribution
from vrfstore.gc.outlook import due
from vrfstore.gc.policy import Collection, Policy, Room, Snapshot, decide

NOTHING_YOUNG = Policy(max_age=0, grace=0)


def keeper(kind: Kind = "root", name: str = "film", until: float | None = None) -> Keeper:
    return Keeper(kind=kind, name=name, words=f"{kind} {name}", until=until)


def graph(
    found: Snapshot, keepers: Mapping[str, Iterable[Keeper]] | None = None, policy: Policy = POLICY
) -> Graph:
    listed = {name: tuple(each) for name, each in (keepers or {}).items()}
    kept = {name: tuple(each.words for each in several) for name, several in listed.items()}
    return Graph(replace(found, kept={**found.kept, **kept}), policy, listed)


def shown(found: Graph, name: str) -> list[str]:
    return [" ─▶ ".join((chain.keeper.words, *chain.names)) for chain in found.chains(name)]


# --- chains


def test_a_chain_leads_from_each_keeper_to_what_is_asked_about() -> None:
    found = graph(
        snapshot(
            {"E": environment("ab", used=OLD), "F": environment("b", used=NOW - 300), "G": environment("c")},
            "abc",
        ),
        {
            "environments/E": [keeper(), keeper("process", "7")],
            "entries/b": [keeper("external", "/srv/film")],
        },
    )
    assert shown(found, "entries/b") == [
        "external /srv/film ─▶ entries/b",
        "root film ─▶ environments/E ─▶ entries/b",
        "process 7 ─▶ environments/E ─▶ entries/b",
        "used 5 minutes ago, due in 12 minutes ─▶ environments/F ─▶ entries/b",
    ]
    assert shown(found, "environments/F") == ["used 5 minutes ago, due in 12 minutes ─▶ environments/F"]


def test_what_nothing_keeps_has_no_chain_though_something_dead_refers_to_it() -> None:
    found = graph(snapshot({"E": environment("a", lock="K", used=OLD)}, "a", locks="K"))
    for name in found:
        assert (found.chains(name), found.due(name)) == ((), NOW)
    assert found.referrers("entries/a") == ("environments/E",)


@pytest.mark.parametrize(
    ("made", "expected"),
    [(NOW - 60, ["published 60 seconds ago, due in 40 seconds ─▶ entries/a"]), (NOW - 101, [])],
)
def test_an_entry_stays_by_itself_until_the_grace_is_over(made: float, expected: list[str]) -> None:
    assert shown(graph(replace(snapshot(), entries={"a": made})), "entries/a") == expected


def test_a_lock_stays_with_a_memo_that_still_counts() -> None:
    found = graph(snapshot(locks="K", requests={"q": ("K", NOW - 400), "r": ("K", NOW - 4000)}))
    assert shown(found, "locks/K") == ["request memo q, written 7 minutes ago, due in 10 minutes ─▶ locks/K"]


def test_what_cannot_be_read_keeps_whatever_it_may_refer_to() -> None:
    states = {
        "E": environment("a", used=OLD, made=NOW - 500, readable=False),
        "F": environment(None, used=OLD, made=NOW - 500),
    }
    found = graph(
        replace(snapshot(states, "ab"), entries={"a": OLD, "b": OLD, "c": NOW - 400}, locks={"K": OLD})
    )
    why = "its record cannot be read"
    assert shown(found, "entries/a") == [
        f"{why} ─▶ environments/E ─▶ entries/a",
        f"{why} ─▶ environments/F ─▶ entries/a",
    ]
    assert shown(found, "entries/b") == [f"{why} ─▶ environments/F ─▶ entries/b"]
    assert shown(found, "entries/c") == []
    assert shown(found, "locks/K") == [
        f"{why} ─▶ environments/E ─▶ locks/K",
        f"{why} ─▶ environments/F ─▶ locks/K",
    ]
    unread = graph(snapshot(states, "b", keep_before={"a root cannot be read": NOW}))
    assert "a root cannot be read ─▶ entries/b" in shown(unread, "entries/b")


def test_a_budget_is_mentioned_where_it_may_come_first() -> None:
    found = snapshot({"E": environment("", used=NOW - 500), "F": environment("", used=NOW - 50)})
    told = graph(found, policy=replace(POLICY, min_free=Room(1)))
    (first,), (second,) = shown(told, "environments/E"), shown(told, "environments/F")
    assert "when the budget asks for it" in first
    assert "budget" not in second


# --- when


def test_something_is_due_when_the_last_that_keeps_it_ends() -> None:
    states = {"E": environment("a", used=NOW - 500), "F": environment("ab", used=NOW - 200)}
    found = graph(snapshot(states, "ab"), {"environments/E": [keeper("lease", "x", until=NOW + 5000)]})
    assert found.due("environments/E") == NOW + 5000
    assert found.due("environments/F") == NOW + 800
    assert found.due("entries/a") == NOW + 5000
    assert found.due("entries/b") == NOW + 800


def test_nobody_can_tell_when_a_pin_ends() -> None:
    found = graph(snapshot({"E": environment("a", used=OLD)}, "a"), {"environments/E": [keeper()]})
    assert found.due("environments/E") is found.due("entries/a") is None


def test_the_soonest_comes_first_and_what_somebody_keeps_last() -> None:
    states = {
        "E": environment("a", used=NOW - 1),
        "F": environment("", used=NOW - 200),
        "G": environment("", used=NOW - 500),
        "H": environment("", used=OLD),
    }
    found = graph(snapshot(states, "ab"), {"environments/E": [keeper()], "entries/b": [keeper(name="song")]})
    assert [(each.name, each.due, each.why) for each in due(found, {"environments/H"})] == [
        ("environments/G", NOW + 500, ("used 8 minutes ago, due in 8 minutes",)),
        ("environments/F", NOW + 800, ("used 3 minutes ago, due in 13 minutes",)),
        ("entries/b", None, ("root song",)),
        ("environments/E", None, ("root film",)),
    ]


# --- what goes alone


def test_with_a_root_goes_what_only_it_keeps() -> None:
    states = {"E": environment("ab", lock="K", used=OLD), "F": environment("b", lock="L", used=NOW)}
    found = graph(
        replace(
            snapshot(states, "abc", locks="KL", requests={"q": ("K", OLD), "r": ("L", OLD)}),
            inputs={"x": ("E", OLD, 0.0), "y": ("F", OLD, 0.0)},
        ),
        {"environments/E": [keeper()], "entries/c": [keeper(), keeper("lease", "x")]},
    )
    assert found.alone(sources=[("root", "film")]) == {
        "environments/E", "entries/a", "locks/K", "requests/q", "inputs/x",
    }  # fmt: skip
    assert found.alone(environments=["environments/F"]) == {
        "environments/F", "locks/L", "requests/r", "inputs/y",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("52a0-numpy-2.4.1", ("numpy", "2.4.1")),
        ("52a0-scikit_learn-1.9.1", ("scikit_learn", "1.9.1")),
        ("52a0-composite-3", ("composite", "3")),
    ],
)
def test_an_entry_says_what_it_is_of(entry: str, expected: tuple[str, str]) -> None:
    assert distribution(entry) == expected


# --- laws


def removed(result: Collection) -> set[str]:
    return {f"{part}/{name}" for part, names in parts(result).items() for name in names}


@given(found=SNAPSHOTS, policy=POLICIES)
def test_something_has_a_chain_exactly_if_a_collection_leaves_it(found: Snapshot, policy: Policy) -> None:
    for asked in (policy, NOTHING_YOUNG):
        whole = graph(found, policy=asked)
        gone = removed(decide(found, asked))
        for name in whole:
            assert bool(whole.chains(name)) is (name not in gone), name


@given(found=SNAPSHOTS, policy=POLICIES, later=st.sampled_from([0.0, 1.0, 60.0, 700.0, 5000.0]))
def test_a_collection_takes_something_exactly_when_it_is_due(
    found: Snapshot, policy: Policy, later: float
) -> None:
    whole = graph(found, policy=policy)
    gone = removed(decide(replace(found, began=NOW + later), policy))
    for name in whole:
        when = whole.due(name)
        assume(when is None or abs(when - NOW - later) > 1e-3)
        assert (name in gone) is (when is not None and when < NOW + later), (name, when)


ROOTS = st.dictionaries(
    st.sampled_from(
        ["environments/E", "environments/F", "environments/G", "entries/a", "entries/b", "locks/K", "locks/L"]
    ),
    st.lists(st.builds(keeper, name=st.sampled_from(["film", "song"])), min_size=1, max_size=2, unique=True),
)


def old(found: Snapshot) -> Snapshot:
    """The same, where everything is of age."""
    return replace(
        found,
        environments={
            name: replace(state, last_use=OLD, made=OLD) for name, state in found.environments.items()
        },
        entries=dict.fromkeys(found.entries, OLD),
        locks=dict.fromkeys(found.locks, OLD),
        requests={name: (lock, OLD) for name, (lock, _) in found.requests.items()},
        inputs={name: (leads_to, OLD, 0.0) for name, (leads_to, _, _) in found.inputs.items()},
        keep_before={},
        keep_all=(),
        kept={},
    )


def with_keepers(found: Snapshot, keepers: Mapping[str, list[Keeper]]) -> Snapshot:
    return replace(found, kept={name: tuple(each.words for each in held) for name, held in keepers.items()})


def less(found: Snapshot, gone: set[str]) -> Snapshot:
    """What is left when some things have gone."""

    def left(part: str) -> dict[str, object]:
        return {name: each for name, each in getattr(found, part).items() if f"{part}/{name}" not in gone}

    names = ("environments", "entries", "locks", "requests", "inputs")
    return replace(found, **{part: left(part) for part in names})  # type: ignore[arg-type]


@given(found=SNAPSHOTS, keepers=ROOTS)
def test_what_goes_with_a_root_is_what_a_collection_takes_without_it(
    found: Snapshot, keepers: dict[str, list[Keeper]]
) -> None:
    aged = with_keepers(old(found), keepers)
    settled = less(aged, removed(decide(aged, NOTHING_YOUNG)))
    rest = {name: [each for each in held if each.name != "film"] for name, held in keepers.items()}
    without = with_keepers(settled, {name: held for name, held in rest.items() if held})
    expected = removed(decide(without, NOTHING_YOUNG))
    assert graph(settled, keepers, NOTHING_YOUNG).alone(sources=[("root", "film")]) == expected


@given(found=SNAPSHOTS, keepers=ROOTS)
def test_what_goes_with_an_environment_is_what_a_collection_takes_after_it(
    found: Snapshot, keepers: dict[str, list[Keeper]]
) -> None:
    aged = with_keepers(old(found), keepers)
    settled = less(aged, removed(decide(aged, NOTHING_YOUNG)))
    assume("E" in settled.environments)
    expected = removed(decide(less(settled, {"environments/E"}), NOTHING_YOUNG))
    gone = graph(settled, keepers, NOTHING_YOUNG).alone(environments=["environments/E"])
    assert gone == {"environments/E", *expected}
