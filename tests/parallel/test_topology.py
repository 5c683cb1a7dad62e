"""Which machines there are; nothing of them is opened."""

import pytest

from kdjax.errors import UserError
from kdjax.parallel.topology import LARGEST, count, names_of, parse, simulated


@pytest.mark.parametrize("chip", ["v4", "v5e", "v5p", "v6e", "a100-80", "h100"])
def test_what_is_listed_of_a_chip_is_there_from_small_to_large(chip):
    counts = [count(name) for name in names_of(chip)]
    assert counts == sorted(set(counts))
    # Every power of two from the first to the last.
    least = 4 if chip in LARGEST else 1
    powers = {2**i for i in range(10)}
    missing = {2} if chip in ("v5e", "v6e") else set()
    assert set(counts) == {x for x in powers if least <= x <= counts[-1]} - missing


@pytest.mark.parametrize(
    "name", ["v5p:4x4x12", "v5p:16x16x24", "v4:12x12x12", "h100:3", "h100:24"]
)
def test_what_is_put_together_is_there_too(name):
    assert parse(name) == tuple(name.split(":"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5e:16x32", "shapes of v5e are 1x1, 2x2, 2x4, 4x4, "),
        ("v6e:32x32", "shapes of v6e are 1x1, 2x2, 2x4, 4x4, "),
        ("v5e:2x2x2", "8x16, 16x16"),
        ("v5e:3x5", "8x16, 16x16"),
        ("v5e:4x2", "8x16, 16x16"),
        ("v5e:4", "8x16, 16x16"),
        ("v5p:4x4", "shapes of v5p are 2x2x1, 2x2x2, 2x2x4, 2x4x4, "),
        ("v5p:8x4x4", "other multiples of 4, the smallest first, of up to 6144 chips"),
        ("v5p:16x16x28", "up to 6144 chips"),
        ("v4:16x16x20", "up to 4096 chips"),
        ("h100:8x2", "give a number of h100, up to 8 or a multiple of 8 up to 1024"),
        ("h100:12", "or a multiple of 8 up to 1024"),
        ("h100:100000", "or a multiple of 8 up to 1024"),
    ],
)
def test_what_is_not_rented_is_refused_and_what_is_named(name, said):
    for asked in (parse, simulated):
        with pytest.raises(UserError, match=f"there is no topology '{name}': ") as told:
            asked(name)
        assert said in str(told.value)
