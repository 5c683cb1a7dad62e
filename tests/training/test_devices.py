"""Fifty steps on one device and on meshes of eight, with the same global batches."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("run_on_devices.py")
ALONE, MESHES = "(1, 1, 1)", ("(8, 1, 1)", "(2, 4, 1)", "(2, 2, 2)")


@pytest.fixture(scope="module")
def trained():
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("mesh", MESHES)
def test_a_mesh_has_the_losses_of_one_device(trained, mesh):
    expected, found = trained[ALONE]["losses"], trained[mesh]["losses"]
    assert len(found) == 50
    assert found[-1] < 0.7 * found[0]
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("mesh", MESHES)
def test_a_compiled_step_leaves_the_state_where_the_table_says_and_donates_it(
    trained, mesh
):
    found = trained[mesh]
    assert found["elsewhere"] == []
    assert found["donated"] == found["arrays"]
    assert found["shards"] == [None, "fsdp", "tensor"]


def test_devices_that_share_weights_gather_them_and_no_activations(trained):
    """Rows stay where their batch is; products of split weights would be reduced."""
    assert trained["(2, 4, 1)"]["forward"] == ["all-gather"]


def test_the_teacher_lives_by_rules_of_its_own(trained):
    found = [trained[mesh]["teacher"] for mesh in MESHES]
    assert found == [[None] * 3, [None, "fsdp", None], [None, None, "tensor"]]
