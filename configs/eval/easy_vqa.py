"""Score a run, or any CLIP model, on a split of easy-VQA.

kdjax eval --config=configs/eval/easy_vqa.py --workdir=runs/score \
    --config.model=runs/answers
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the config."""
    config = ConfigDict()
    config.data = ConfigDict({"name": "easy_vqa"})
    config.model = "runs/answers"
    config.dtype = "auto"
    config.attention = "xla"
    config.eval = ConfigDict({"split": "validation"})
    return config
