"""Training a small model of experts as an ``Elastic``: any number of workers share a step, and it resumes exactly."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.core.memory import physical_bytes
from quiltwork.core.result_folder import ResultFolder
from quiltwork.core.servable import Json
from quiltwork.core.trainable import Arrays, Gradients, Setup, State, StepReport
from quiltwork.layers.descent import Descent, Ids, Loss, device_named
from quiltwork.layers.order import Order
from quiltwork.moe.balance import balance_counts, balance_loss
from quiltwork.moe.control.levels import COLUMNS
from quiltwork.moe.curriculum.costs import cost_model
from quiltwork.moe.curriculum.learned import LearnedOrder, Plan
from quiltwork.moe.curriculum.orders import RANDOM
from quiltwork.moe.curriculum.shares import arranged
from quiltwork.moe.flops import BACKWARD, forward_flops
from quiltwork.moe.models.build import CLASSIFY, LM, MOST_SEED, build_model, moe_layers
from quiltwork.moe.models.packed import Packed
from quiltwork.moe.models.saving import save_model
from quiltwork.moe.models.size import require_memory
from quiltwork.moe.training.checking import read_settings
from quiltwork.moe.training.classes import Classes
from quiltwork.moe.training.course import Course, read_course
from quiltwork.moe.training.gating import Gating, gates_of
from quiltwork.moe.training.language import Language
from quiltwork.moe.training.objective import TEST, TRAIN, VALID, Objective, Run, side_of_layers
from quiltwork.moe.training.schedule import rate_factor
from quiltwork.moe.training.settings import BY_LENGTH, EVEN, STEP, WHERE, TrainingSettings
from quiltwork.moe.training.steered import steering_of
from quiltwork.moe.training.translation import Translation

_FREE = ("out", "steps", "micro_batch", "batch", "shares", "rate", "validate_every", "validate_on")
"""Settings that a state may be gone on from with others."""
_FILES = ("corpus", "valid", "test")
"""What is in them counts, not where they are."""


def moe_trainable() -> MoETraining:
    """What is registered as the trainable ``moe``."""
    return MoETraining()


class MoETraining(Descent):
    """A language model, a classifier or a translator; the settings are those of ``TrainingSettings``.

    Nothing about a sample is random. For any split of a step among workers its gradient is the same up to rounding, if
    the gate decides by a token's own logits (or, as expert choice, by its sequence's) and ``balance_over`` is ``step``.
    Random second experts are drawn among the tokens that are computed together: their number is then the same up to
    rounding, but not their choice.
    """

    DATA = "corpus"

    def __init__(self, cpu_clock: Callable[[], float] = time.process_time) -> None:
        self._clock = cpu_clock
        self.curriculum: LearnedOrder | None = None

    def setup(self, setup: Setup) -> None:
        """Read the corpus and make the model. Raises BadInputError, NotFoundError or ConflictError naming what is
        wrong."""
        self.settings = settings = read_settings(setup.config)
        seed = setup.seed if settings.seed is None else settings.seed
        if not 0 <= seed <= MOST_SEED:
            raise BadInputError(f"{seed} is not from 0 to {MOST_SEED}", where="seed")
        device = device_named(setup.device)
        self.objective = objective_of(settings, device)
        shape = settings.shape(self.objective.codec.size, len(self.objective.classes))
        self.gating = Gating(gates_of(settings), seed)
        lengths = self.objective.lengths(TRAIN)
        at_once = min(settings.batch, settings.micro_batch or settings.batch)
        tokens = round(at_once * sum(float(side.mean()) for side in lengths))
        require_memory(settings.task, shape, self.gating.gates, tokens, physical_bytes(), where=WHERE)
        self.model = build_model(settings.task, shape, self.gating.gates, seed, device)
        self.gating.watch(self.model)
        self.steering = steering_of(settings, self.model, self.gating.gates, lengths)
        self._device = device
        self._of: dict[str, Json] = {"seed": seed, "corpus_digest": self.objective.digest}
        self._of |= {name: value for name, value in settings.told().items() if name not in (*_FREE, "seed", *_FILES)}
        told = json.dumps([settings.told(), self._of], sort_keys=True)
        self._run = hashlib.blake2b(told.encode(), digest_size=16).hexdigest()
        self._result = ResultFolder(Path(settings.out), where=f"{WHERE}: out")
        self._result.require_free(self._run)
        layers = moe_layers(self.model)
        self._widths = len(layers), layers[0].router.shape[0] if layers else 0, settings.experts
        self._counted = np.zeros(self._widths[:2], np.float32)
        self.course = Course()
        self._tokens = [float(side.mean()) for side in side_of_layers(lengths, len(layers))]
        parameters = dict(self.model.named_parameters())
        self.begin(settings, parameters, self.objective.count(TRAIN), seed, self.make_order(seed))

    def make_order(self, seed: int) -> Order | None:
        """Which sample comes when, if not in an order that is drawn; a ``LearningOrder`` is told of every sample how
        many experts its tokens had beyond their first, by layer."""
        settings = self.settings
        if settings.order == RANDOM and settings.buckets == 1 and settings.shares == EVEN:
            return None
        lengths = self.objective.lengths(TRAIN)
        sides = side_of_layers(lengths, self._widths[0])
        tokens = np.stack(sides, 1) if sides else np.zeros((len(lengths[0]), 0), np.int64)
        costs = cost_model(self.model, lengths, tokens)
        plan = Plan(np.sum(lengths, axis=0), tokens, costs, settings.buckets, settings.batch, settings.frozen, seed)
        self.curriculum = LearnedOrder(settings.order, plan)
        return self.curriculum

    def _arranged(self, ids: Ids) -> Ids:
        if self.curriculum is None or self.settings.shares == EVEN:
            return ids
        by_length = self.settings.shares == BY_LENGTH
        costs = np.sum(self.objective.lengths(TRAIN), axis=0) if by_length else self.curriculum.costs
        return arranged(ids, costs[ids], self._workers, self.settings.micro_batch)

    # ---- a step

    def gradients(self, sample_ids: Ids) -> Gradients:
        """See ``Descent``."""
        begun = self._clock()
        found = super().gradients(sample_ids)
        spent = np.array([(self._clock() - begun) / max(1, found.count)], np.float32)
        return Gradients({**found.arrays, "means/cpu_s": spent}, found.count, found.metrics)

    def apply(self, mean: Gradients) -> StepReport:
        """See ``Descent``. Before the first step, and then every so many, the validation loss is taken."""
        if not self.course.curve:
            self.course.point(0, 0, self.valid_loss())
        self._begun = self._clock()
        return super().apply(mean)

    def _loss_of(self, ids: Ids) -> Loss:
        self.gating.moment = (self._done, int(ids[0]))
        run, settings = self.objective.run(self.model, TRAIN, ids), self.settings
        count, layers = len(ids), self._widths[0]
        means = {name: np.zeros(shape, np.float32) for name, shape in self._mean_shapes().items()}
        records = np.zeros((count, layers), np.float32)
        balance = run.losses.new_zeros(())
        for layer, routed in enumerate(run.outcome.routed):
            routing, counted = routed.routing, balance_counts(routed.routing, settings.balanced_of)
            if settings.balance_over == STEP:
                # Of the step before, and as many tokens as so many samples have in the mean: any split is the same.
                before = torch.from_numpy(self._counted[layer]).to(self._device)
                balance = balance + balance_loss(routing, before, count * self._tokens[layer])
            else:
                balance = balance + balance_loss(routing, counted)
            extras = (routing.experts_per_token() - 1).clamp_min(0).float()
            records[:, layer] = _numbers(extras.new_zeros(count).index_add(0, routed.packed.sequence, extras))
            means["tokens"][layer] = routing.tokens / count
            means["second"][layer] = float((extras > 0).sum()) / count
            means["load"][layer] = _numbers(routing.load) / count
            means["counted"][layer] = _numbers(counted) / count
        if self.steering is not None:
            means["tally"][:] = self.steering.count([routed.routing for routed in run.outcome.routed]) / count
        task = run.losses.mean()
        means["task"][0], means["balance"][0] = float(task.detach()), float(balance.detach())
        means["flops"][:] = self._flops(run, means["load"].sum(1) * count)
        means["flops"] /= count
        return Loss(task + settings.balance * balance, means, records)

    def _flops(self, run: Run, rows: np.ndarray) -> tuple[float, float]:
        """Forward and backward: the experts', and all others."""
        taken = [round(float(one)) for one in rows] if self._widths[0] else None
        flops = forward_flops(self.model, run.packed, taken)
        return BACKWARD * flops.experts, BACKWARD * (flops.total - flops.experts)

    def _mean_shapes(self) -> Mapping[str, tuple[int, ...]]:
        layers, width, experts = self._widths
        by_layer = {"tokens": (layers,), "second": (layers,), "load": (layers, experts), "counted": (layers, width)}
        tally = {} if self.steering is None else {"tally": (layers, COLUMNS)}
        return {"task": (1,), "balance": (1,), "flops": (2,), **by_layer, **tally}

    def _told(self, means: Arrays, count: int) -> Mapping[str, float]:
        self._counted = np.array(means["counted"], np.float32)
        self._means, self._count = means, count
        loads, tokens = means["load"].sum(1), means["tokens"]
        metrics = {"loss": float(means["task"][0]), "balance": float(means["balance"][0])}
        if len(tokens):
            metrics["experts_per_token"] = float(loads.sum() / tokens.sum())
        metrics |= {f"experts_per_token/{at}": float(loads[at] / tokens[at]) for at in range(len(tokens))}
        return metrics if self.steering is None else metrics | self.steering.follow(means["tally"])

    def _stepped(self) -> Mapping[str, float]:
        own = (self._clock() - self._begun) * self._workers  # every worker takes this step
        self.course.add(self._means, self._count, float(self._means["cpu_s"][0]) * self._count + own)
        told = {"cpu_s": self.course.cpu_s}
        if self._done % self.settings.validate_every and self._done < self.settings.steps:
            return told
        loss = self.valid_loss()
        self.course.point(self._done, self._taken, loss)
        return told | {"valid_loss": loss}

    def _rate_factor(self, done: int) -> float:
        return rate_factor(done, self.settings)

    # ---- measures

    def valid_loss(self) -> float:
        """Nats per token, or per text of a classifier, without the load-balance loss; over ``validate_on`` samples,
        evenly taken."""
        count = self.objective.count(VALID)
        on = min(self.settings.validate_on or count, count)
        places = np.arange(on) * count // on
        self.gating.moment = (0, 0)
        return self._mean_loss(on, lambda ids: self.objective.run(self.model, VALID, places[ids]).losses.mean())

    def expert_share(self) -> float:
        """How much of a forward's FLOPs is the experts', if each token has ``most`` of them."""
        ids = np.arange(min(self.settings.batch, self.objective.count(VALID)))
        packed = [Packed(torch.from_numpy(lengths[ids])) for lengths in self.objective.lengths(VALID)]
        return forward_flops(self.model, packed).expert_share

    # ---- state and result

    def _identity(self) -> Mapping[str, Json]:
        return self._of

    def _kept(self) -> State:
        kept = self.course.state()
        steering = {} if self.steering is None else self.steering.arrays()
        return State({**kept.arrays, "counted": self._counted.copy(), **steering}, kept.meta)

    def _load_kept(self, state: State) -> None:
        counted = state.arrays.get("counted")
        if counted is None or counted.shape != self._counted.shape:
            raise BadInputError("is not of these experts", where="state: counted")
        if self.steering is not None:
            self.steering.load(state.arrays)
        self.course = read_course(state)
        self._counted = np.array(counted, np.float32)

    def _deliver(self) -> tuple[float, float]:
        told = self._result.report(self._run)
        if told is None:
            told = self._report_of()
            self._result.write(self._run, told, self._write)
        return told["held_out"]["before"], told["held_out"]["after"]

    def _report_of(self) -> dict[str, Json]:
        settings, curve = self.settings, self.course.curve
        size = settings.micro_batch or settings.batch
        return {
            "held_out": {"before": curve[0]["valid_loss"], "after": curve[-1]["valid_loss"]},
            "test": dict(self.objective.scores(self.model, TEST, size)),
            "curve": list(curve),
            "steps": self._done,
            "samples": self._taken,
            "parameters": self._weights.count,
            "parts": {part: self.objective.count(part) for part in (TRAIN, VALID, TEST)},
            "blank_rows": self.objective.blank,
            "expert_share_of_flops": self.expert_share(),
            "settings": settings.told(),
            "seed": self._of["seed"],
            "corpus_digest": self.objective.digest,
        }

    def _write(self, folder: Path) -> None:
        settings, classes = self.settings, self.objective.classes
        gates, asked = self.gating.gates, settings.gate_settings()
        save_model(folder, self.model, settings.task, gates, classes=classes, settings=asked)
        self.objective.codec.save(folder)


def objective_of(settings: TrainingSettings, device: torch.device) -> Objective:
    """What is learned and measured. Raises BadInputError or NotFoundError naming a file."""
    kinds: Mapping[str, type[Language | Classes]] = {LM: Language, CLASSIFY: Classes}
    made: Objective = (
        kinds[settings.task](settings, device) if settings.task in kinds else Translation(settings, device)
    )
    return made


def _numbers(one: Tensor) -> np.ndarray:
    return one.detach().float().cpu().numpy()
