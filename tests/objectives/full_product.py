"""Every form of every objective on every mesh, for `make test-full`."""

import pytest
from objectives.forms import combinations, has_blocks
from objectives.on_devices import BLOCK_ROWS, Case, ask, distances, wrong

# Seconds for what a test asks.
LIMIT = 1800
COMBINATIONS = combinations()
MESHES = [(8, 1, 1), (1, 8, 1), (2, 4, 1), (2, 2, 2)]
WAYS = {"dense": None, "blocks": BLOCK_ROWS}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    cases = [Case(spec) for spec in COMBINATIONS]
    return ask(cases, tmp_path_factory.mktemp("alone"), 1, 1, LIMIT)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_mesh_says_what_one_device_says(alone, tmp_path, processes, mesh, way):
    specs = [
        {k: v for k, v in spec.items() if way == "dense" or has_blocks(k)}
        for spec in COMBINATIONS
    ]
    cases = [Case(spec, mesh, WAYS[way]) for spec in specs]
    found = ask(cases, tmp_path, processes, 8 // processes, LIMIT)
    for spec, ours, theirs in zip(specs, found, alone, strict=True):
        assert not list(wrong(ours, theirs)), spec
        far = [
            (distance, name, leaf)
            for name, leaves in distances(ours, theirs).items()
            for leaf, distance in leaves.items()
        ]
        distance, *place = max(far)
        print(f"largest distance {distance:.1e} at {' '.join(place)}")
