"""What a training is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from quiltwork.core.servable import Json
from quiltwork.moe.balance import FIRST, SINGLE
from quiltwork.moe.curriculum.orders import RANDOM
from quiltwork.moe.models.build import CLASSIFY, LM, TRANSLATE
from quiltwork.moe.models.shape import ModelShape

WHERE = "config"
"""What errors call it: ``config: rate: must be a number``."""
ADAPTIVE, CONTROLLED, DENSE = "adaptive", "controlled_top_p", "dense"
GATES = (ADAPTIVE, "top1", "top2", "random2", "top_p", "null", "expert_choice", CONTROLLED, DENSE)
GATE_SETTINGS = ("gate", "threshold", "reading", "weights", "most", "p", "nulls", "mean_experts")
STEERED = (ADAPTIVE, CONTROLLED)
"""Gates whose thresholds a controller can set."""
SCHEDULES = CONSTANT, COSINE = ("constant", "cosine")
BALANCED_OF = ("", SINGLE, FIRST)
BALANCED_OVER = STEP, TOGETHER = ("step", "together")
SHARES = EVEN, BALANCED, BY_LENGTH = ("even", "balanced", "length")
HEADERS = KEEP, STRIP = ("keep", "strip")
BYTE = "byte"


@dataclass(frozen=True)
class TrainingSettings:
    """A training of a small model whose feed-forward layers are experts. Tokens, texts and pairs are its samples."""

    task: str
    """lm, classify or translate."""
    corpus: tuple[str, ...]
    """The files to learn from. lm: texts. classify: one table, or a file of texts for each class. translate: source
    and target, a sentence a line."""
    out: str
    """The folder that the result is written to."""
    steps: int
    valid: tuple[str, ...] = ()
    """As ``corpus``, to be measured on while training; a share of the corpus where empty."""
    test: tuple[str, ...] = ()
    """As ``corpus``, to be measured on at the end; a share of the corpus where empty."""
    valid_share: float = 0.05
    test_share: float = 0.05
    split_seed: int = 0
    """Of which rows go aside, where no files are given: apart from ``seed``, so that seeds are measured alike."""
    encoding: str = "utf-8"
    """Of all files."""
    header: str = STRIP
    """lm: whether what Project Gutenberg puts before and behind a book is stripped, or kept."""
    text_column: str = ""
    """classify: the name of a column, or its number from 1 where a table has no header; found out where empty."""
    label_column: str = ""
    tokenizer: str = BYTE
    """byte, or bpe:N for N tokens learnt from the training part."""
    length: int = 128
    """Tokens of a sample, at most; a window of running text has just so many."""
    gate: str = "adaptive"
    threshold: float = 0.1
    """adaptive: a further expert is taken while R_1 - R_m is at most that."""
    reading: str = "softmax"
    weights: str = "sum_to_one"
    most: int = 2
    """Experts of a token, at most; a dense layer does as much work."""
    p: float = 0.4
    """top_p and controlled_top_p: the probability that a token's experts are to have together."""
    nulls: int = 8
    """null: experts that do nothing."""
    mean_experts: tuple[float, ...] = (1.25,)
    """controlled_top_p, random2, expert_choice: experts of a token, in the mean; one number, or one for each layer."""
    target_experts: tuple[float, ...] = ()
    """Thresholds follow a mean of so many experts per token: one number over all layers, or one for each."""
    budget_flops: float | None = None
    """Thresholds follow so many FLOPs per token, forward, all of the model."""
    budget_bytes: float | None = None
    """Thresholds follow so many bytes per token that experts exchange, forward, all layers."""
    assignment_bytes: int = 0
    """What one token sends for one expert; a row of float32 there and back where 0."""
    controller: str = "quantile"
    """How thresholds follow: quantile, or pi."""
    width: int = 128
    inner: int = 224
    """Of an expert."""
    layers: int = 4
    heads: int = 4
    kv_heads: int = 0
    """Heads of keys and values; as many as ``heads`` where 0."""
    experts: int = 8
    batch: int = 16
    """Samples of a step, all workers together."""
    micro_batch: int | None = None
    """Samples that a worker computes at once; all of its share where None."""
    order: str = RANDOM
    """Which samples are trained on together, from the second epoch on: random; those that needed about as many experts
    in the epoch before (cosine or mean), or are predicted to cost as much (cost); or, from the first one on, are about
    as long (length)."""
    buckets: int = 1
    """Of samples of alike length: only samples of one come together; 1 for no regard to length."""
    frozen: bool = False
    """Whether steps come from simple to complex, bucket by bucket, as the order has them; shuffled else."""
    shares: str = EVEN
    """even: every worker gets as many samples of a step; balanced: those with which all have as much to do, by their
    recorded routing; length: those with which all have as many tokens."""
    rate: float = 2e-3
    """AdamW's, after ``warm_up`` steps."""
    warm_up: int = 50
    """Steps in which the rate rises to its full height."""
    schedule: str = CONSTANT
    """constant, or cosine: down to 0 along half a cosine."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """The largest norm of a step's gradient; 0 for any."""
    balance: float = 0.01
    """How much the load-balance loss counts."""
    balance_of: str = ""
    """Whose experts are counted for it: tokens with a single expert (``single``), or the first choice of all tokens
    (``first``). ``single`` for an adaptive gate where empty, else ``first``."""
    balance_over: str = STEP
    """Where the share of each expert is counted: over all workers' tokens of the step before (``step``), so that the
    step is the same however it is split; or over the tokens that are computed together."""
    validate_every: int = 50
    """Steps between two points of the validation curve."""
    validate_on: int = 0
    """Samples of a point; all that are set aside where 0."""
    seed: int | None = None
    """Of weights and order; that of the set-up where None."""

    @property
    def balanced_of(self) -> str:
        """``balance_of``, found out."""
        return self.balance_of or (SINGLE if self.gate == ADAPTIVE else FIRST)

    def shape(self, vocabulary: int, classes: int = 0) -> ModelShape:
        """Of the model."""
        return ModelShape(
            vocabulary=vocabulary,
            width=self.width,
            inner=self.inner,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads or self.heads,
            experts=0 if self.gate == DENSE else self.experts,
            active=self.most,
            classes=classes,
        )

    def gate_settings(self) -> dict[str, Json]:
        """What makes its gates."""
        return {name: value for name, value in self.told().items() if name in GATE_SETTINGS}

    def told(self) -> dict[str, Json]:
        """Its fields as JSON gives them back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


TASK_DEFAULTS: Mapping[str, Mapping[str, Json]] = {
    LM: {"validate_on": 128},
    CLASSIFY: {"tokenizer": "bpe:4000", "length": 64, "inner": 208, "batch": 32, "rate": 1e-3, "validate_every": 40},
    TRANSLATE: {"tokenizer": "bpe:2000", "length": 64, "batch": 48, "inner": 320, "layers": 6, "validate_on": 500},
}
"""What is taken for a task where nothing is said: its experts do 60 to 70 % of a top-2 step's work."""
