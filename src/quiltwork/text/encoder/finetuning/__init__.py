"""Fine-tuning encoders on scored pairs: in steps, by any number of workers, into a sentence-transformers folder."""

from quiltwork.text.encoder.finetuning.config import FineTuning, read_config
from quiltwork.text.encoder.finetuning.training import EncoderTraining, encoder_trainable

__all__ = ["EncoderTraining", "FineTuning", "encoder_trainable", "read_config"]
