"""A CLIP model from the captions of procedural scenes.

kdjax pretrain --config=configs/pretrain/scenes.py --workdir=runs/teacher
"""

from ml_collections import ConfigDict

from kdjax.config import training_defaults


def get_config() -> ConfigDict:
    """Return the config."""
    config = training_defaults()
    config.data = ConfigDict(
        {
            "name": "scenes",
            "seed": 0,
            "size": 10_000,
            "eval_size": 1000,
            "image_size": 64,
        }
    )
    config.model = "tiny-8"
    config.parts = "all"
    config.tokenizer = "trained"
    config.caption_length = 40
    config.objectives = ConfigDict({"clip": {}})
    config.steps = 600
    config.batch_size = 64
    config.optimizer.rates.text = 1.0
    config.remat.text = "none"
    config.optimizer.learning_rate = 4e-3
    config.eval.evaluators = ("zero_shot",)
    return config
