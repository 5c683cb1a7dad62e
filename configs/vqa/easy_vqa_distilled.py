"""Question answering on easy-VQA from any vision tower, with a teacher's answers.

    kdjax vqa --config=configs/vqa/easy_vqa_distilled.py --workdir=runs/taught \
        --config.tower=runs/student --config.teacher=runs/answers

The teacher is a finished run of `kdjax vqa`. A set of objectives may be named after
the file, as in easy_vqa_distilled.py:dkd.
"""

from ml_collections import ConfigDict

from kdjax.config import load_config
from kdjax.errors import UserError

SETS = {
    # The targets are half the labels and half the teacher's probabilities.
    "mixed": {
        "bce": {"weight": 0.5},
        "hinton": {"weight": 0.5, "temperature": 1.0, "form": "sigmoid"},
    },
    "hinton": {"bce": {}, "hinton": {}},
    "dkd": {"bce": {}, "dkd": {}},
}


def get_config(objectives: str = "mixed") -> ConfigDict:
    """Return the config with the objectives of that name.

    Raises:
        UserError: there are none.
    """
    if objectives not in SETS:
        raise UserError(
            f"there is no set of objectives {objectives!r}; give one of "
            f"{', '.join(SETS)}"
        )
    config = load_config("configs/vqa/easy_vqa.py")
    config.teacher = "runs/answers"
    config.objectives = ConfigDict(SETS[objectives])
    return config
