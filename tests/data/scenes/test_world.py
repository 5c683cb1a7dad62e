from collections import Counter
from itertools import combinations
from math import dist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdjax.data.scenes.chance import Dice
from kdjax.data.scenes.world import (
    COLOURS,
    HELD_OUT,
    OPPOSITE,
    PAIRS,
    SEEN,
    SHAPES,
    Thing,
    clearly_not,
    relations,
    sample_scene,
)

SCENES = [sample_scene(Dice(0, 0, i, 0), held_out=False) for i in range(1500)]
COMPOSED = [sample_scene(Dice(0, 3, i, 0), held_out=True) for i in range(500)]


def thing(x, y):
    return Thing("circle", "red", "small", "solid", x, y, 0.1, 1.0)


def test_every_shape_and_colour_is_held_out_once_and_seen_seven_times():
    assert len(PAIRS) == 64
    assert sorted(shape for shape, _ in HELD_OUT) == sorted(SHAPES)
    assert sorted(colour for _, colour in HELD_OUT) == sorted(COLOURS)
    assert set(Counter(shape for shape, _ in SEEN).values()) == {7}
    assert set(Counter(colour for _, colour in SEEN).values()) == {7}


def test_held_out_pairs_are_in_the_compositional_scenes_alone():
    shown = {t.pair for scene in SCENES for t in scene.things}
    assert shown == set(SEEN)
    assert all(any(t.pair in HELD_OUT for t in scene.things) for scene in COMPOSED)
    assert {t.pair for scene in COMPOSED for t in scene.things} == set(PAIRS)


@pytest.mark.parametrize("scenes", [SCENES, COMPOSED])
def test_things_lie_inside_and_do_not_touch(scenes):
    for scene in scenes:
        for t in scene.things:
            assert t.radius < t.x < 1 - t.radius
            assert t.radius < t.y < 1 - t.radius
        for t, other in combinations(scene.things, 2):
            assert dist((t.x, t.y), (other.x, other.y)) > t.radius + other.radius


@pytest.mark.parametrize("scenes", [SCENES, COMPOSED])
def test_a_fifth_shows_one_thing_and_the_rest_two_to_six(scenes):
    counts = Counter(len(scene.things) for scene in scenes)
    assert counts[1] / len(scenes) == pytest.approx(0.2, abs=0.05)
    for many in range(2, 7):
        assert counts[many] / len(scenes) == pytest.approx(0.16, abs=0.05)


def test_attributes_are_spread_evenly():
    things = [t for scene in SCENES for t in scene.things]
    for name, share in (("shape", 1 / 8), ("colour", 1 / 8), ("texture", 1 / 4)):
        counts = Counter(getattr(t, name) for t in things)
        for count in counts.values():
            assert count / len(things) == pytest.approx(share, abs=0.025)
    large = sum(t.size == "large" for t in things) / len(things)
    assert 0.35 < large < 0.5


def test_relations_need_a_clear_distance():
    assert relations(thing(0.2, 0.2), thing(0.4, 0.2)) == ["left of"]
    assert relations(thing(0.4, 0.2), thing(0.2, 0.5)) == ["right of", "above"]
    assert relations(thing(0.5, 0.5), thing(0.4, 0.6)) == []


def test_clearly_not_leaves_the_doubtful_out():
    assert clearly_not(thing(0.4, 0.2), "left of", thing(0.2, 0.2))
    assert not clearly_not(thing(0.39, 0.2), "left of", thing(0.4, 0.2))


@given(*[st.floats(0, 1) for _ in range(4)])
def test_a_relation_seen_from_the_other_side_is_the_opposite(x, y, u, v):
    there, back = (
        relations(thing(x, y), thing(u, v)),
        relations(thing(u, v), thing(x, y)),
    )
    assert [OPPOSITE[word] for word in there] == back
    for word in there:
        assert clearly_not(thing(u, v), word, thing(x, y))
