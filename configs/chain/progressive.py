"""A student that shrinks in stages and always learns from the teacher, on easy-VQA.

    kdjax pretrain --config=configs/pretrain/easy_vqa.py --workdir=runs/teacher \
        --config.model=small-8 --config.seed=100
    kdjax chain --config=configs/chain/progressive.py --workdir=runs/shrunk \
        --config.distill.teacher=runs/teacher

TinyCLIP's multi-stage recipe with manual inheritance (Wu et al. 2023,
arXiv:2309.12314) in small: each stage inherits from the one before, and the teacher of
all is the original. Of the 221 thousand parameters of its image tower the stages keep
45 and 16 %. TinyCLIP minimises `affinity` alone; progressive.py:clip adds `clip`.
"""

from ml_collections import ConfigDict

from kdjax.config import load_config


def get_config(added: str = "") -> ConfigDict:
    """Return the config, with the objective that is added to TinyCLIP's, if any."""
    config = ConfigDict()
    config.distill = load_config("configs/distill/easy_vqa.py")
    config.distill.inherit = "magnitude"
    objectives = {"affinity": {"student_scale": 50.0, "teacher_scale": 50.0}}
    if added:
        objectives[added] = {}
    config.distill.objectives = ConfigDict(objectives)
    config.stages = (
        ConfigDict({"student": "mini-8"}),
        ConfigDict({"student": "tiny-8", "inherit_from": "previous"}),
    )
    return config
