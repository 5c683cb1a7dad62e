"""Question answering on easy-VQA from any vision tower, with a teacher's answers.

kdjax vqa --config=configs/vqa/easy_vqa_distilled.py --workdir=runs/taught \
        --config.tower=runs/student --config.teacher=runs/answers

The teacher is a finished run of `kdjax vqa`.
"""

from ml_collections import ConfigDict

from kdjax.config import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("configs/vqa/easy_vqa.py")
    config.teacher = "runs/answers"
    # Beside the labels, half of what the targets are: the teacher's own probabilities.
    config.objectives = ConfigDict(
        {
            "bce": {"weight": 0.5},
            "hinton": {"weight": 0.5, "temperature": 1.0, "form": "sigmoid"},
        }
    )
    return config
