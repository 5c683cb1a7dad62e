"""A student from a teacher's run, on easy-VQA.

kdjax distill --config=configs/distill/easy_vqa.py --workdir=runs/student \
    --config.teacher=runs/teacher
"""

from ml_collections import ConfigDict

from kdjax.config import training_defaults


def get_config() -> ConfigDict:
    """Return the config."""
    config = training_defaults()
    config.data = ConfigDict({"name": "easy_vqa"})
    config.student = "tiny-8"
    config.parts = "all"
    config.teacher = "runs/teacher"
    config.teacher_sharding = "replicated"
    config.teacher_dtype = "auto"
    config.inherit = "none"
    config.inherit_from = "teacher"
    config.text_tower = "own"
    config.teacher_outputs = "held"
    config.teacher_scale = "match_entropy"
    config.teacher_entropy = 1.8
    config.tokenizer = "trained"
    config.caption_length = 8
    weights = {"clip": 1.0, "crd": 1.0, "icl": 1.0, "fd": 3.9}  # CLIP-KD's
    config.objectives = ConfigDict({k: {"weight": w} for k, w in weights.items()})
    config.steps = 450
    config.batch_size = 32
    config.optimizer.rates.text = 1.0
    config.remat.text = "none"
    config.optimizer.learning_rate = 8e-3
    config.optimizer.warmup = 0.25
    config.eval.evaluators = ("zero_shot",)
    return config
