from dataclasses import replace

import numpy as np
import pytest

from kdjax.data.scenes import Scenes
from kdjax.data.scenes.drawing import draw
from kdjax.data.scenes.world import COLOURS, SHAPES, TEXTURES, Scene, Thing

CIRCLE = Thing("circle", "red", "large", "solid", 0.3, 0.6, 0.15, 1.0)
GROUND = (0.9, 0.9, 0.9, 0.9)


def inked(thing, size=256):
    image = draw(Scene((thing,), GROUND), size).astype(int)
    return np.abs(image - round(0.9 * 255)).sum(axis=2) > 30


def test_an_image_is_rgb_bytes_of_the_size_asked_for():
    image = draw(Scene((CIRCLE,), GROUND), 48)
    assert image.shape == (48, 48, 3)
    assert image.dtype == np.uint8
    assert image.flags["C_CONTIGUOUS"]


def test_the_ground_runs_from_corner_to_corner():
    image = draw(Scene((), (0.2, 0.4, 0.6, 0.8)), 1000)
    corners = image[[0, 0, -1, -1], [0, -1, 0, -1], 0] / 255
    np.testing.assert_allclose(corners, (0.2, 0.4, 0.6, 0.8), atol=0.004)


def test_a_circle_has_its_area_place_and_colour():
    image = draw(Scene((CIRCLE,), GROUND), 256)
    rows, columns = np.nonzero(inked(CIRCLE))
    assert rows.mean() / 256 == pytest.approx(0.6, abs=0.005)
    assert columns.mean() / 256 == pytest.approx(0.3, abs=0.005)
    assert len(rows) / 256**2 == pytest.approx(np.pi * 0.141**2, rel=0.03)
    red, green, blue = image[int(0.6 * 256), int(0.3 * 256)].tolist()
    assert red > 180
    assert green < 60
    assert blue < 60


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_stays_in_its_circle_and_has_a_body(shape):
    ink = inked(replace(CIRCLE, shape=shape))
    rows, columns = (np.nonzero(ink)[axis] / 256 for axis in (0, 1))
    far = np.hypot(rows - 0.6, columns - 0.3).max()
    assert 0.12 < far < 0.158
    assert ink.mean() > 0.25 * np.pi * 0.15**2


def test_shapes_differ_from_each_other():
    inks = [inked(replace(CIRCLE, shape=shape)) for shape in SHAPES]
    for place, ink in enumerate(inks):
        for other in inks[:place]:
            assert (ink & other).sum() / (ink | other).sum() < 0.82


def test_colours_are_far_apart_in_either_shade():
    means = {
        (colour, shade): draw(
            Scene((replace(CIRCLE, colour=colour, shade=shade),), GROUND), 64
        )[38, 19].astype(int)
        for colour in COLOURS
        for shade in (0.93, 1.07)
    }
    for (colour, _), first in means.items():
        for (other, _), second in means.items():
            if colour != other:
                assert np.abs(first - second).max() > 40


def test_textures_cover_different_shares():
    images = {
        texture: draw(Scene((replace(CIRCLE, texture=texture),), GROUND), 64)
        for texture in TEXTURES
    }
    redness = {
        texture: float((image[..., 0].astype(int) - image[..., 1]).clip(0).sum())
        for texture, image in images.items()
    }
    assert redness["solid"] > redness["dotted"] > redness["striped"]
    assert redness["striped"] > redness["outlined"] > 0.2 * redness["solid"]


def test_edges_are_smooth():
    values = np.unique(draw(Scene((CIRCLE,), GROUND), 64)[..., 1])
    assert len(values) > 20


def test_another_size_is_the_same_picture():
    small = draw(Scene((CIRCLE,), GROUND), 32).astype(float)
    large = draw(Scene((CIRCLE,), GROUND), 128).astype(float)
    pooled = large.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    assert np.abs(pooled - small).mean() < 1.0


def test_coarse_pixels_are_the_mean_of_fine_ones():
    for index in range(100):
        scene = Scenes().scene(index)
        coarse, fine = draw(scene, 16).astype(float), draw(scene, 256).astype(float)
        pooled = fine.reshape(16, 16, 16, 16, 3).mean(axis=(1, 3))
        assert np.abs(pooled - coarse).mean() < 6


def test_things_that_overlap_do_not_overflow():
    yellow = replace(CIRCLE, colour="yellow")
    image = draw(Scene((yellow, replace(yellow, x=0.4)), GROUND), 64)
    # Twice (244, 218, 42) less the ground once, which is 229.5, held in a byte.
    assert image[38, 22].tolist() == [255, 207, 0]
