"""Who ought to have which partition: fair, sticky, the same for whoever computes it, and soon at rest."""

from collections import Counter
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from eventlog.subscribers.fleet import Place, shares

SUBSCRIBERS = ("board", "count", "mail")
WORKERS = tuple("abcde")

able = st.dictionaries(
    st.sampled_from(WORKERS), st.frozensets(st.sampled_from(SUBSCRIBERS), min_size=1), min_size=1, max_size=5
)
sizes = st.fixed_dictionaries({name: st.integers(0, 9) for name in SUBSCRIBERS})
owners = st.lists(st.one_of(st.none(), st.sampled_from(WORKERS)), min_size=27, max_size=27)


def places_of(sizes: Mapping[str, int], owners: list[str | None]) -> list[Place]:
    coming = iter(owners)
    return [
        Place(subscriber=name, partition=number, owner=next(coming))
        for name, size in sizes.items()
        for number in range(size)
    ]


def spread(share: Mapping[tuple[str, int], str], able: Mapping[str, frozenset[str]], subscriber: str) -> int:
    """By how much the most and the least loaded of those who can run a subscriber differ."""
    counts = Counter({owner: 0 for owner, can in able.items() if subscriber in can})
    counts.update(owner for (name, _), owner in share.items() if name == subscriber)
    return max(counts.values(), default=0) - min(counts.values(), default=0)


@given(able=able, sizes=sizes, owners=owners)
def test_every_partition_that_somebody_can_run_is_somebodys_who_can(
    able: dict[str, frozenset[str]], sizes: dict[str, int], owners: list[str | None]
) -> None:
    share = shares(able, places_of(sizes, owners))

    for name, size in sizes.items():
        for number in range(size):
            owner = share.get((name, number))
            assert (owner is None) == all(name not in can for can in able.values())
            assert owner is None or name in able[owner]


@given(able=able, sizes=sizes, owners=owners)
def test_nobody_has_two_partitions_of_a_subscriber_more_than_another_who_can_run_it(
    able: dict[str, frozenset[str]], sizes: dict[str, int], owners: list[str | None]
) -> None:
    share = shares(able, places_of(sizes, owners))

    assert all(spread(share, able, name) <= 1 for name in SUBSCRIBERS)


@given(workers=st.integers(1, 5), sizes=sizes, owners=owners)
def test_in_total_it_is_even_among_workers_that_can_run_everything(
    workers: int, sizes: dict[str, int], owners: list[str | None]
) -> None:
    able = {name: frozenset(SUBSCRIBERS) for name in WORKERS[:workers]}
    share = shares(able, places_of(sizes, owners))
    totals = [sum(owner == name for owner in share.values()) for name in able]

    assert max(totals) - min(totals) <= 1


@given(able=able, sizes=sizes, owners=owners)
def test_once_everybody_has_his_share_nothing_moves_any_more(
    able: dict[str, frozenset[str]], sizes: dict[str, int], owners: list[str | None]
) -> None:
    share = shares(able, places_of(sizes, owners))
    settled = [
        Place(subscriber=name, partition=number, owner=share.get((name, number)))
        for name, size in sizes.items()
        for number in range(size)
    ]

    assert shares(able, settled) == share


@given(able=able, sizes=sizes, owners=owners)
def test_giving_up_before_taking_comes_to_the_same(
    able: dict[str, frozenset[str]], sizes: dict[str, int], owners: list[str | None]
) -> None:
    """Between the one who lets go and the one who takes, a partition is free: everybody still agrees whose it is."""
    places = places_of(sizes, owners)
    for _ in range(4):
        share = shares(able, places)
        places = [
            Place(
                subscriber=one.subscriber,
                partition=one.partition,
                owner=_after_a_round(one, share.get((one.subscriber, one.partition))),
            )
            for one in places
        ]

    assert {(one.subscriber, one.partition): one.owner for one in places if one.owner} == shares(able, places)


def _after_a_round(place: Place, ought: str | None) -> str | None:
    if place.owner is None or place.owner == ought:
        return ought
    return None


@given(size=st.integers(0, 20), workers=st.integers(1, 4))
def test_a_newcomer_takes_its_share_and_nothing_else_moves(size: int, workers: int) -> None:
    can = frozenset({"mail"})
    able = dict.fromkeys(WORKERS[:workers], can)
    before = shares(able, [Place(subscriber="mail", partition=number) for number in range(size)])
    places = [Place(subscriber=name, partition=number, owner=owner) for (name, number), owner in before.items()]

    after = shares({**able, "new": can}, places)

    assert {after[key] for key in after if after[key] != before[key]} <= {"new"}


def test_the_order_in_which_rows_come_does_not_matter() -> None:
    everything = frozenset({"mail"})
    places = [Place(subscriber="mail", partition=number) for number in range(7)]
    forward = shares(dict.fromkeys("abc", everything), places)

    assert shares(dict.fromkeys("cab", everything), places[::-1]) == forward
    assert sorted(Counter(forward.values()).values()) == [2, 2, 3]
