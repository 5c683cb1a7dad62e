"""Models by name: what is downloaded, kept, and found again without a network.

Each test is a process of its own, for `huggingface_hub` reads its environment once.
"""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hub_server import serving
from weights.golden_models import GOLDEN
from weights.test_loading import shard

import kdjax

NAME = "somebody/model"
ORIGINAL = GOLDEN / "huggingface_clip/gelu_odd_sizes"
LOAD = """
import json, sys
import kdjax
from kdjax.errors import UserError
name, options = sys.argv[1], json.loads(sys.argv[2])
try:
    clip = kdjax.load_clip(name, **options)
    print(float(clip.logit_scale[...]), clip.config.embed_dim)
except UserError as error:
    print(error)
"""


@pytest.fixture
def folder(tmp_path):
    """A model with files that nobody needs, or that nobody should open."""
    folder = tmp_path / "published"
    shutil.copytree(ORIGINAL, folder)
    for name in ("pytorch_model.bin", "tf_model.h5", "picture.png", "merges.txt"):
        (folder / name).write_bytes(b"\x80\x04.")
    return folder


@pytest.fixture
def load(tmp_path):
    """Load in a process with a cache of its own; return what it says."""

    def load(name=NAME, url="http://127.0.0.1:9", options=None, **environment):
        process = subprocess.run(
            [sys.executable, "-c", LOAD, name, json.dumps(options or {})],
            env={
                **os.environ,
                "HF_HOME": str(tmp_path / "hub"),
                "HF_ENDPOINT": url,
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "NO_PROXY": "127.0.0.1",
                "no_proxy": "127.0.0.1",
                **environment,
            },
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout.strip().splitlines()[-1]

    return load


def said_of(folder):
    clip = kdjax.load_clip(str(folder))
    return f"{float(clip.logit_scale[...])} {clip.config.embed_dim}"


def test_only_what_is_read_is_downloaded_and_once(folder, load):
    with serving({NAME: {"main": folder}}) as hub:
        assert load(url=hub.url, HF_TOKEN="hf_mine") == said_of(ORIGINAL)
        files = sorted(file for file, _ in hub.asked)
        assert {token for _, token in hub.asked} == {"Bearer hf_mine"}
        assert "model.safetensors" in files
        assert not {"pytorch_model.bin", "tf_model.h5", "picture.png"} & {*files}
        assert len(files) == len({*files})
        before = len(hub.asked)
        assert load(url=hub.url) == said_of(ORIGINAL)
        assert len(hub.asked) == before
    # The hub is gone; the cache is not.
    assert load(HF_HUB_OFFLINE="1") == said_of(ORIGINAL)


def test_flax_weights_are_fetched_where_there_are_no_others(load):
    flax = GOLDEN / "flax_clip/small"
    with serving({NAME: {"main": flax}}) as hub:
        assert load(url=hub.url) == said_of(flax)


def test_a_revision_is_the_one_that_was_asked_for(folder, load, tmp_path):
    other = tmp_path / "other"
    clip = kdjax.load_clip(str(ORIGINAL))
    clip.logit_scale[...] = np.float32(0.25)
    kdjax.save_clip(clip, other)
    with serving({NAME: {"main": folder, "v2": other}}) as hub:
        assert load(url=hub.url) == said_of(ORIGINAL)
        said = load(url=hub.url, options={"revision": "v2"})
        assert said.startswith("0.25 ")
        wrong = load(url=hub.url, options={"revision": "v3"})
        assert "at revision 'v3'" in wrong
    assert load(HF_HUB_OFFLINE="1", options={"revision": "v2"}).startswith("0.25 ")


def test_a_revision_can_be_part_of_a_name(folder, load, tmp_path):
    other = tmp_path / "other"
    clip = kdjax.load_clip(str(ORIGINAL))
    clip.logit_scale[...] = np.float32(0.25)
    kdjax.save_clip(clip, other)
    with serving({NAME: {"main": folder, "v2": other}}) as hub:
        assert load(f"{NAME}@v2", url=hub.url).startswith("0.25 ")


def test_an_interrupted_download_is_completed(folder, load, tmp_path):
    shard(folder, 2)
    with serving({NAME: {"main": folder}}) as hub:
        assert load(url=hub.url) == said_of(ORIGINAL)
        (lost,) = (tmp_path / "hub").glob("**/snapshots/*/model-00002-*")
        lost.resolve().unlink()
        lost.unlink()
        assert load(url=hub.url) == said_of(ORIGINAL)


def test_pickles_alone_are_refused_and_not_downloaded(folder, load):
    (folder / "model.safetensors").unlink()
    with serving({NAME: {"main": folder}}) as hub:
        said = load(url=hub.url)
        assert "only a pickle, such as pytorch_model.bin, which is neither" in said
        assert "pytorch_model.bin" not in {file for file, _ in hub.asked}


def test_a_name_that_is_not_in_the_cache_is_said_offline(load):
    said = load(HF_HUB_OFFLINE="1")
    assert f"{NAME!r} is neither a directory here nor a model that the hub" in said
