"""The search for the smallest machine, by plans of stated sizes."""

import pytest

from kdjax.commands import smallest as searching
from kdjax.commands.plan import Plan
from kdjax.commands.reporter import Reporter
from kdjax.commands.smallest import Setting, candidates, settings, smallest
from kdjax.config import load_config
from kdjax.errors import UserError
from kdjax.parallel.chips import CHIPS
from kdjax.parallel.roofline import Roofline
from kdjax.parallel.topology import count

QUIET = Reporter(quiet=True)


def one(*overrides):
    return load_config("configs/distill/scenes.py", overrides)


def test_settings_hold_less_and_less():
    assert settings(256, 4) == [
        Setting(0, "none"),
        Setting(0, "dots"),
        Setting(0, "full"),
        Setting(128, "full"),
        Setting(64, "full"),
    ]
    assert candidates("v5e:2x4") == ["v5e:1x1", "v5e:2x2", "v5e:2x4"]
    assert candidates("h100")[-1] == "h100:256"


def planning(tried):
    """Return what makes plans of stated sizes: from remat full on half as large."""

    def plan_of(plan, config, name, slices, reporter):
        tried.append(name)
        ladder = settings(config.batch_size, count(name))
        place = ladder.index(Setting(config.microbatch, config.remat.vision))
        return Plan(
            topology=name,
            compiled_for_it=False,
            mesh={"data": count(name), "fsdp": 1, "tensor": 1},
            config=config,
            models={},
            model_flops=0,
            state=0,
            needed=2.0 ** (38 if place < 2 else 37) / count(name),
            limit=float(CHIPS["h100"].memory),
            memory=None,
            roofline=Roofline(CHIPS["h100"], 1.0, 1, ()),
            seconds=0.0,
        )

    return plan_of


def test_the_smallest_that_fits_is_found_with_few_tries(monkeypatch):
    tried = []
    monkeypatch.setattr(searching, "apart", planning(tried))
    found = smallest(one("--config.batch_size=64"), "h100", QUIET)
    # One needs 2^37 bytes at least, which is more than it has.
    assert (found.topology, found.config.remat.vision) == ("h100:2", "full")
    assert found.fits and len(tried) == 4
    with pytest.raises(UserError, match="of data 3, fsdp 1, tensor 1 over which"):
        smallest(one("--config.mesh.data=3"), "h100:4", QUIET)
    with pytest.raises(UserError, match="there is no chip 'v7'; give one of v4, v5e"):
        smallest(one(), "v7", QUIET)
    with pytest.raises(UserError, match="fits on no topology up to h100:1"):
        smallest(one("--config.batch_size=64"), "h100:1", QUIET)
