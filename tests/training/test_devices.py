"""The same training on one device and on eight simulated ones."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("run_on_devices.py")


def trained(*sizes):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, sizes)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def alone():
    return trained(1, 1, 1, 1)


@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 2, 2)])
def test_a_mesh_has_the_losses_of_one_device(alone, mesh):
    many = trained(8, *mesh)
    for texts in ("learning", "frozen"):
        found, expected = many["losses"][texts], alone["losses"][texts]
        assert found[0] == pytest.approx(expected[0], rel=1e-5)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert many["losses"]["learning"][-1] != many["losses"]["frozen"][-1]
    assert many["shards"] == [None, "fsdp", "tensor"]
