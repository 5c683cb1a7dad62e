from collections import Counter

import pytest

from kdjax.data.scenes.chance import Dice


def test_the_key_alone_decides_what_is_drawn():
    first, again = Dice(7, 1, 5, 0), Dice(7, 1, 5, 0)
    assert [first.uniform() for _ in range(300)] == [
        again.uniform() for _ in range(300)
    ]


def test_the_numbers_stay_the_same_over_hosts_and_releases():
    dice = Dice(7, 1, 5, 0)
    assert [round(dice.uniform(), 6) for _ in range(4)] == [
        0.093883,
        0.701654,
        0.573851,
        0.559956,
    ]


@pytest.mark.parametrize(
    "key", [(8, 1, 5, 0), (7, 2, 5, 0), (7, 1, 6, 0), (7, 1, 5, 1)]
)
def test_another_key_draws_other_numbers(key):
    dice, other = Dice(7, 1, 5, 0), Dice(*key)
    drawn = {dice.uniform() for _ in range(300)}
    assert drawn.isdisjoint(other.uniform() for _ in range(300))


@pytest.mark.parametrize("drawn", [0, 1, 127, 128, 300])
def test_turning_to_a_stream_is_the_same_as_new_dice(drawn):
    turned, new = Dice(7, 1, 5, 0), Dice(7, 1, 5, 2)
    for _ in range(drawn):
        turned.uniform()
    turned.turn_to(2)
    assert [turned.uniform() for _ in range(300)] == [new.uniform() for _ in range(300)]


def test_draws_are_uniform():
    dice = Dice(0, 0, 0, 0)
    counts = Counter(dice.below(4) for _ in range(8000))
    assert sorted(counts) == [0, 1, 2, 3]
    assert all(abs(count - 2000) < 200 for count in counts.values())
    mean = sum(dice.uniform(2.0, 4.0) for _ in range(8000)) / 8000
    assert mean == pytest.approx(3, abs=0.03)


def test_weighted_follows_its_weights():
    dice = Dice(0, 0, 0, 0)
    counts = Counter(dice.weighted("abc", (1.0, 0.0, 3.0)) for _ in range(8000))
    assert counts["b"] == 0
    assert counts["c"] / 8000 == pytest.approx(0.75, abs=0.02)


def test_shuffled_gives_every_order_alike():
    dice = Dice(0, 0, 0, 0)
    counts = Counter("".join(dice.shuffled("abc")) for _ in range(6000))
    assert len(counts) == 6
    assert all(abs(count - 1000) < 150 for count in counts.values())
