"""What becomes of each kind of image file: what `transformers` makes of it."""

import io
import warnings

import numpy as np
import pytest
from data.pictures import FILES, encoded, noise, turned
from etils import epath
from PIL import Image

from kdjax.data.images import open_image
from kdjax.errors import UserError


def theirs(file, tmp_path):
    from transformers.image_utils import load_image

    path = tmp_path / "image"
    path.write_bytes(file)
    with warnings.catch_warnings():
        # Pillow advises against dropping the alpha of palettes.
        warnings.simplefilter("ignore")
        return np.asarray(load_image(str(path)))


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_opened_as_transformers_opens_it(kind, tmp_path):
    expected = theirs(FILES[kind], tmp_path)
    for file in (FILES[kind], tmp_path / "image", str(tmp_path / "image")):
        np.testing.assert_array_equal(open_image(file), expected)


def test_alpha_is_dropped_and_what_lies_beneath_is_seen():
    values = noise(channels=4)
    opened = open_image(encoded(Image.fromarray(values)))
    np.testing.assert_array_equal(opened, values[..., :3])
    grey = noise(channels=2)
    opened = open_image(encoded(Image.fromarray(grey)))
    np.testing.assert_array_equal(opened, np.repeat(grey[..., :1], 3, axis=-1))


def test_greys_of_sixteen_bits_are_white_above_255():
    values = np.array([[0, 1, 100, 255, 256, 257, 40_000, 65_535]], np.uint16)
    opened = np.asarray(open_image(encoded(Image.fromarray(values))))
    assert opened[0, :, 0].tolist() == [0, 1, 100, 255, 255, 255, 255, 255]


def test_one_bit_is_black_and_white():
    assert set(np.unique(open_image(FILES["one bit"]))) == {0, 255}


def test_of_an_animation_the_first_frame_is_taken():
    with Image.open(io.BytesIO(FILES["animated"])) as image:
        image.seek(0)
        np.testing.assert_array_equal(
            open_image(FILES["animated"]), image.convert("RGB")
        )


def test_a_camera_that_was_turned_is_turned_back():
    assert open_image(turned(1)).size == open_image(turned(3)).size == (31, 23)
    assert open_image(turned(6)).size == open_image(turned(8)).size == (23, 31)


def test_a_file_in_any_place_that_etils_knows_is_opened(tmp_path):
    path = epath.Path(tmp_path / "image.png")
    path.write_bytes(FILES["RGB"])
    assert open_image(path).size == (31, 23)


@pytest.mark.parametrize("kind", ["RGB", "JPEG", "WebP", "CMYK", "16 bit"])
@pytest.mark.parametrize("kept", [0, 10, 0.5])
def test_a_file_that_is_cut_off_is_named(tmp_path, kind, kept):
    path = tmp_path / "half.png"
    content = FILES[kind]
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    with pytest.raises(UserError, match=r"half\.png cannot be read as an image"):
        open_image(path)


def test_what_is_no_image_or_not_there_is_named(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no image at all")
    with pytest.raises(UserError, match=r"notes\.txt cannot be read as an image"):
        open_image(text)
    with pytest.raises(UserError, match=r"cat\.png is missing"):
        open_image(tmp_path / "cat.png")
    with pytest.raises(UserError, match="image of 4 bytes cannot be read"):
        open_image(b"none")
