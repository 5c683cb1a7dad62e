"""A student whose teacher falls silent after 60 % of the steps, on easy-VQA.

kdjax distill --config=configs/distill/early_stop.py --workdir=runs/student \
    --config.teacher=runs/teacher
"""

from ml_collections import ConfigDict

from kdjax.config import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("configs/distill/easy_vqa.py")
    # ESKD (Cho & Hariharan 2019, arXiv:1910.01348).
    stop = {"end": 0.0, "shape": "step", "until": 0.6}
    config.objectives = ConfigDict(
        {
            "clip": {"weight": 1.0},
            "crd": {"weight": {"start": 1.0, **stop}},
            "icl": {"weight": {"start": 1.0, **stop}},
            "fd": {"weight": {"start": 3.9, **stop}},
        }
    )
    return config
