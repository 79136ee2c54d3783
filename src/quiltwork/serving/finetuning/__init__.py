"""Fine-tuning language models: in steps, by any number of workers, into what a zoo takes in and serving serves."""

from quiltwork.serving.finetuning.config import FineTuning, read_config
from quiltwork.serving.finetuning.training import LanguageTraining, language_trainable

__all__ = ["FineTuning", "LanguageTraining", "language_trainable", "read_config"]
