"""A CLIP model from the captions of easy-VQA's 3,600 training images.

kdjax pretrain --config=configs/pretrain/easy_vqa.py --workdir=runs/teacher
"""

from ml_collections import ConfigDict

from kdjax.config import training_defaults


def get_config() -> ConfigDict:
    """Return the config."""
    config = training_defaults()
    config.data = ConfigDict({"name": "easy_vqa"})
    config.model = "tiny-8"
    config.parts = "all"
    config.tokenizer = "trained"
    config.caption_length = 8
    config.objectives = ConfigDict({"clip": {}})
    config.steps = 1200
    config.batch_size = 32
    config.optimizer.rates.text = 1.0
    config.remat.text = "none"
    config.optimizer.learning_rate = 5e-3
    config.optimizer.warmup = 0.2
    config.eval.evaluators = ("zero_shot",)
    return config
