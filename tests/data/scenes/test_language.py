import re
from collections import Counter

import pytest

from kdjax.data.scenes import Scenes
from kdjax.data.scenes.language import (
    NUMBER_WORDS,
    Description,
    a,
    captions,
    class_prompt,
    descriptions,
    noun,
    where,
)
from kdjax.data.scenes.world import COLOURS, SHAPES, SIZES, TEXTURES, Thing

STAR = Thing("star", "orange", "small", "striped", 0.1, 0.5, 0.1, 1.0)
CROSS = Thing("cross", "red", "large", "solid", 0.8, 0.9, 0.15, 1.0)
SOURCE = Scenes(size=200, image_size=16, questions_per_image=0)


def attributes(phrase):
    words = [re.sub("(?<=cross)es$|s$", "", w) if w != "cross" else w for w in phrase]
    sets = (SIZES, TEXTURES, COLOURS, SHAPES)
    return tuple(next((w for w in words if w in each), None) for each in sets)


def fits(thing, wanted):
    own = (thing.size, thing.texture, thing.colour, thing.shape)
    return all(w is None or w == o for w, o in zip(wanted, own, strict=True))


def phrases(caption):
    body = re.sub(r"^.*?(?:showing|there is|of (?=an? )|: )", "", caption)
    return [part.split() for part in re.split(", | and ", body)]


def test_a_thing_has_sixteen_descriptions():
    found = descriptions(STAR)
    assert len(set(found)) == 16
    assert found[0] == Description()
    assert found[-1] == Description("small", "striped", "orange", "star")


def test_noun_phrases():
    assert noun(Description()) == "object"
    assert noun(Description(colour="red", shape="cross"), plural=True) == "red crosses"
    assert a(Description(colour="orange", shape="star")) == "an orange star"
    assert a(Description("small", "solid", "red")) == "a small solid red object"
    assert class_prompt("circle", "red") == "a red circle"


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (0.1, 0.1, "at the top left"),
        (0.5, 0.9, "at the bottom"),
        (0.8, 0.5, "on the right"),
        (0.5, 0.5, "in the middle"),
    ],
)
def test_where(x, y, words):
    assert where(Thing("star", "red", "small", "solid", x, y, 0.1, 1.0)) == words


def test_listings_name_every_thing_once():
    for index in range(200):
        things = SOURCE.scene(index).things
        for caption in SOURCE[index].captions[:2]:
            named = Counter(attributes(phrase) for phrase in phrases(caption))
            assert named.total() == len(things)
            for wanted, many in named.items():
                assert sum(fits(thing, wanted) for thing in things) >= many


def test_tallies_count_right():
    for index in range(200):
        things = SOURCE.scene(index).things
        caption = SOURCE[index].captions[2]
        total = re.search(r"(\w+) objects?: ", caption)
        assert total is None or NUMBER_WORDS.index(total[1]) == len(things)
        for phrase in phrases(caption):
            many = 1 if phrase[0] in ("a", "an") else NUMBER_WORDS.index(phrase[0])
            assert many == sum(fits(thing, attributes(phrase)) for thing in things)


def test_close_ups_and_arrangements_are_true():
    seen = Counter()
    for index in range(200):
        things = SOURCE.scene(index).things
        for caption in SOURCE[index].captions[3:]:
            link = re.search(" (left of|right of|above|below) ", caption)
            if link is None:
                wanted = attributes(caption.split())
                assert any(
                    fits(t, wanted) and caption.endswith(where(t)) for t in things
                )
                seen["place"] += 1
                continue
            ends = (caption[: link.start()], caption[link.end() :])
            first, second = (attributes(end.split()) for end in ends)
            sign = -1 if link[1] in ("left of", "above") else 1
            axis = "x" if link[1] in ("left of", "right of") else "y"
            gaps = [
                sign * (getattr(t, axis) - getattr(o, axis))
                for t in things
                for o in things
                if fits(t, first) and fits(o, second)
            ]
            assert max(gaps) >= 0.15
            seen[link[1]] += 1
    assert set(seen) == {"place", "left of", "right of", "above", "below"}


def test_there_are_five_captions_of_growing_detail():
    lengths = [[len(c.split()) for c in SOURCE[i].captions] for i in range(200)]
    assert {len(each) for each in lengths} == {5}
    assert sum(each[0] <= each[1] for each in lengths) > 150


def test_captions_depend_on_the_dice_alone():
    scene = SOURCE.scene(3)
    assert captions(scene, SOURCE._dice(3, 1)) == captions(scene, SOURCE._dice(3, 1))
