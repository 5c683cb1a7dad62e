"""Does a stronger teacher make a better student? On easy-VQA, in six minutes.

    kdjax study --config=configs/study/quickstart.py --workdir=runs/quickstart

Three teachers of one size, trained for longer and longer; one student; two sets of
objectives; two seeds. Sizes and steps were chosen on the validation split.
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
    # Teachers start elsewhere than students, or one would begin at its teacher's start.
    config.pretrain.seed = 100
    # The fair teacher learns for no longer than a student.
    config.teachers = ConfigDict(
        {"weak": {"steps": 150}, "fair": {"steps": 400}, "strong": {"steps": 1600}}
    )
    config.students = ("tiny-8",)
    config.objectives = ConfigDict(
        {
            "clip_kd": {"clip": {}, "crd": {}, "icl": {}, "fd": {}},
            "fd": {"fd": {}},
        }
    )
    config.seeds = (0, 1)
    config.bootstrap_draws = 2000
    for part in ("pretrain", "distill", "vqa", "vqa_teacher"):
        config[part].eval.split = "test"
        # Runs take seconds: one checkpoint at their end is enough.
        config[part].checkpoint.every_steps = 1000
    return config
