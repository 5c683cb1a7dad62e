"""A student by way of a teacher's assistant, on easy-VQA.

    kdjax pretrain --config=configs/pretrain/easy_vqa.py --workdir=runs/teacher \
        --config.model=small-8 --config.seed=100
    kdjax chain --config=configs/chain/assistant.py --workdir=runs/assisted \
        --config.distill.teacher=runs/teacher

Mirzadeh et al. 2020 (arXiv:1902.03393): where a teacher is much larger than its
student, a model between them learns from the one and teaches the other.
"""

from ml_collections import ConfigDict

from kdjax.config import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = ConfigDict()
    config.distill = load_config("configs/distill/easy_vqa.py")
    config.stages = (
        ConfigDict({"student": "mini-8"}),
        ConfigDict({"student": "tiny-8", "teacher": "previous"}),
    )
    return config
