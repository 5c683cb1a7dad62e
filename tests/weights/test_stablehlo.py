"""The exported image tower says what the original says, and needs no kdjax to run."""

import subprocess
import sys

import jax.export
import numpy as np
import pytest
from weights.golden_models import (
    CASES,
    GOLDEN,
    name_the_timm_tower,
    outputs,
    relative_error,
)

import kdjax
from kdjax.errors import UserError
from kdjax.weights import image_tower_program, stablehlo

ALONE = """
import sys
import numpy as np
from jax import export
with open(sys.argv[1], "rb") as file:
    tower = export.deserialize(bytearray(file.read()))
np.save(sys.argv[3], tower.call(np.load(sys.argv[2])))
assert not [name for name in sys.modules if name.split(".")[0] in ("kdjax", "flax")]
"""


def normalized(embeddings):
    return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def programs():
    with pytest.MonkeyPatch.context() as patch:
        name_the_timm_tower(patch)
        yield {
            case: image_tower_program(kdjax.load_clip(str(GOLDEN / case)))
            for case in CASES
        }


@pytest.mark.parametrize("case", CASES)
def test_its_embeddings_equal_the_originals(programs, case):
    golden = outputs(case)
    tower = jax.export.deserialize(bytearray(programs[case]))
    embeddings = tower.call(golden["images"])
    assert relative_error(normalized(embeddings), golden["image_embeds"]) < 1e-5


def test_a_batch_may_have_any_size(programs):
    case = CASES[0]
    images = outputs(case)["images"]
    tower = jax.export.deserialize(bytearray(programs[case]))
    whole = tower.call(images)
    for rows in (1, len(images) - 1):
        np.testing.assert_allclose(
            tower.call(images[:rows]), whole[:rows], rtol=1e-4, atol=1e-6
        )


def test_it_is_for_every_platform(programs):
    tower = jax.export.deserialize(bytearray(programs[CASES[0]]))
    assert set(tower.platforms) >= {"cpu", "cuda", "tpu"}


def test_it_runs_where_there_is_only_jax(programs, tmp_path):
    case = CASES[0]
    golden = outputs(case)
    (tmp_path / "program").write_bytes(programs[case])
    np.save(tmp_path / "images.npy", golden["images"])
    files = [tmp_path / name for name in ("program", "images.npy", "embeddings.npy")]
    subprocess.run([sys.executable, "-c", ALONE, *map(str, files)], check=True)
    embeddings = normalized(np.load(tmp_path / "embeddings.npy"))
    assert relative_error(embeddings, golden["image_embeds"]) < 1e-5


def test_a_tower_that_no_file_holds_is_refused(monkeypatch):
    monkeypatch.setattr(stablehlo, "MOST_BYTES", 10_000)
    clip = kdjax.load_clip(str(GOLDEN / CASES[0]))
    with pytest.raises(UserError, match="one StableHLO file holds"):
        image_tower_program(clip)
