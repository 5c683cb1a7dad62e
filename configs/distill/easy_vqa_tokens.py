"""A student that learns its teacher's patch tokens too, on easy-VQA.

kdjax distill --config=configs/distill/easy_vqa_tokens.py --workdir=runs/student \
    --config.teacher=runs/teacher
"""

from ml_collections import ConfigDict

from kdjax.config import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("configs/distill/easy_vqa.py")
    growing = {"start": 0.1, "end": 1.0, "until": 0.5}
    config.objectives = ConfigDict(
        {
            "clip": {"weight": 1.0},
            "crd": {"weight": 1.0},
            "tokens": {"weight": 1.0, "form": "phi_s"},
            "hidden": {"weight": 1.0, "layers": "1:1"},
            "principal": {"weight": 3.9, "components": growing},
        }
    )
    return config
