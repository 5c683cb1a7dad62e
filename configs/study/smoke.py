"""The smallest study: every room of the house in a minute; learns next to nothing.

kdjax study --config=configs/study/smoke.py --workdir=runs/smoke
"""

from ml_collections import ConfigDict

from kdjax.config import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = ConfigDict()
    config.title = "Does a stronger teacher make a better student?"
    config.pretrain = load_config("configs/pretrain/easy_vqa.py")
    config.distill = load_config("configs/distill/easy_vqa.py")
    config.vqa = load_config("configs/vqa/easy_vqa.py")
    config.vqa_teacher = load_config("configs/vqa/easy_vqa.py")
    for part in ("pretrain", "distill", "vqa", "vqa_teacher"):
        config[part].steps = 8
        config[part].batch_size = 16
        config[part].log_every = 4
        config[part].checkpoint.every_steps = 4
    config.pretrain.model = "nano-16"
    config.pretrain.seed = 100
    config.teachers = ConfigDict({"weak": {"steps": 4}, "strong": {"steps": 12}})
    config.students = ("nano-16",)
    config.objectives = ConfigDict(
        {"clip_kd": {"clip": {}, "crd": {}, "icl": {}, "fd": {}}}
    )
    for part in ("vqa", "vqa_teacher"):
        config[part].head.update({"width": 16, "layers": 1, "num_heads": 1})
    config.seeds = (0, 1)
    config.bootstrap_draws = 500
    return config
