"""Evaluators between the steps of a run, and in the end."""

import json

import numpy as np
from safetensors.numpy import load_file

from kdjax.cli import run
from kdjax.config import load_config

SCENES = {"name": "scenes", "size": 64, "eval_size": 32}


def trained(command, folder, every_steps, **changes):
    """The lines, the results and the tensors of a run of six steps."""
    config = load_config(f"configs/{command}/easy_vqa.py")
    config.steps, config.batch_size, config.log_every = 6, 8, 100
    config.data = SCENES
    config.eval.every_steps = every_steps
    config.update_from_flattened_dict(changes)
    results = run(command, config, str(folder), quiet=True)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (tensors,) = (folder / "model").glob("*.safetensors")
    return [json.loads(line) for line in lines], results, load_file(tensors)


def test_scores_are_in_the_metrics_and_the_last_are_the_results(tmp_path):
    rows, results, _ = trained("pretrain", tmp_path / "run", 4, model="nano-16")
    key = "validation/zero_shot_accuracy"
    assert [row["step"] for row in rows if key in row] == [4, 6]
    assert rows[-1][key] == results["zero_shot_accuracy"]


def test_they_change_nothing_of_what_is_trained(tmp_path):
    """And they say what the command `eval` says in the end."""
    never, plain, expected = trained("vqa", tmp_path / "never", 0, tower="nano-16")
    rows, results, found = trained("vqa", tmp_path / "often", 4, tower="nano-16")
    key = "validation/vqa_accuracy"
    assert [row["step"] for row in rows if key in row] == [4, 6]
    assert not any(key in row for row in never)
    assert expected.keys() == found.keys()
    for tensor, values in expected.items():
        np.testing.assert_array_equal(values, found[tensor])
    score = load_config("configs/eval/easy_vqa.py")
    score.data, score.model = SCENES, "often"
    scored = run("eval", score, str(tmp_path / "score"), quiet=True)
    accuracies = [x["vqa_accuracy"] for x in (plain, results, scored)]
    assert accuracies == [rows[-1][key]] * 3
