"""Question answering on easy-VQA from any vision tower.

kdjax vqa --config=configs/vqa/easy_vqa.py --workdir=runs/answers \
    --config.tower=runs/student
"""

from ml_collections import ConfigDict

from kdjax.config import training_defaults


def get_config() -> ConfigDict:
    """Return the config."""
    config = training_defaults()
    config.data = ConfigDict({"name": "easy_vqa", "blank": False})
    config.tower = "tiny-8"
    config.tower_outputs = "held"
    config.teacher = ""
    config.teacher_sharding = "replicated"
    config.teacher_dtype = "auto"
    config.objectives = ConfigDict({"bce": {}})
    config.tokenizer = "trained"
    config.question_length = 12
    config.questions_per_image = 12
    config.head = ConfigDict(
        {"question_layers": 0, "width": 32, "layers": 2, "num_heads": 2}
    )
    config.steps = 500
    config.batch_size = 32
    config.optimizer.learning_rate = 1.2e-2
    config.optimizer.warmup = 0.2
    # The tower stays as it came: what is scored is what it has learnt before.
    config.optimizer.rates.vision = 0.0
    config.eval.evaluators = ("vqa",)
    return config
