"""A student from a teacher's run, on procedural scenes.

kdjax distill --config=configs/distill/scenes.py --workdir=runs/student \
    --config.teacher=runs/teacher
"""

from ml_collections import ConfigDict

from kdjax.config import training_defaults


def get_config() -> ConfigDict:
    """Return the config."""
    config = training_defaults()
    config.data = ConfigDict(
        {
            "name": "scenes",
            "seed": 0,
            "size": 10_000,
            "eval_size": 1000,
            "image_size": 64,
        }
    )
    config.student = "tiny-8"
    config.parts = "all"
    config.teacher = "runs/teacher"
    config.teacher_sharding = "replicated"
    config.teacher_dtype = "auto"
    config.inherit = "none"
    config.inherit_from = "teacher"
    config.text_tower = "own"
    config.teacher_outputs = "computed"
    config.teacher_scale = "match_entropy"
    config.teacher_entropy = 2.5
    config.tokenizer = "trained"
    config.caption_length = 40
    weights = {"clip": 1.0, "crd": 1.0, "icl": 1.0, "fd": 3.9}  # CLIP-KD's
    config.objectives = ConfigDict({k: {"weight": w} for k, w in weights.items()})
    config.steps = 300
    config.batch_size = 64
    config.optimizer.rates.text = 1.0
    config.remat.text = "none"
    config.optimizer.learning_rate = 4e-3
    config.eval.evaluators = ("zero_shot",)
    return config
