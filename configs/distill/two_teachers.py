"""A student from two teachers' runs at once, on easy-VQA, as MobileCLIP's on 1B.

kdjax distill --config=configs/distill/two_teachers.py --workdir=runs/student \
    --config.teacher=runs/one,runs/other
"""

from ml_collections import ConfigDict

from kdjax.config import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("configs/distill/easy_vqa.py")
    config.teacher = "runs/one,runs/other"
    # Of each teacher; numbers would be joined by a comma too.
    config.teacher_scale = "match_entropy"
    config.objectives = ConfigDict(
        {"clip": {"weight": 0.25}, "multi_teacher": {"weight": 0.75}}
    )
    return config
