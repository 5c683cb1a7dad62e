"""How sharp a teacher's run speaks about easy-VQA, set and stored with its model.

kdjax calibrate --config=configs/calibrate/easy_vqa.py --workdir=runs/calibration \
    --config.teacher=runs/teacher
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the config."""
    config = ConfigDict()
    config.data = ConfigDict({"name": "easy_vqa"})
    config.teacher = "runs/teacher"
    # Those of the distil runs that will take the stored scale.
    config.teacher_entropy = 1.8
    config.batch_size = 32
    config.dtype = "auto"
    config.attention = "xla"
    config.eval = ConfigDict({"split": "validation"})
    return config
