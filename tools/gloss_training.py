"""The training itself: the plan, the optimisers, the step, and what must be kept to go on after a break.

One shared layer serves any number of passes, so it starts with 4 and grows to the config's 12: the early steps cost a
third of the late ones. A model widened from a trained one (``widening.py``) makes all its passes from the start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from gloss_examples import Examples, TrainingBatch, mask_tokens, training_batches
from gloss_model import GlossModel, losses
from muon import Muon
from torch import distributed
from widening import widen_into
from wordnet import LEXNAMES

from albert_fast.config import AlbertConfig

BATCHES_PER_STEP = 2  # shared out among the workers, so one worker and two take the same steps
GROWTH = ((0.0, 4), (0.46, 6), (0.76, 8), (0.88, 12))
"""From which share of the training on how many passes are made."""


@dataclass(frozen=True)
class Plan:
    """Every number the result depends on, beside the text itself.

    Attributes:
        minutes: the schedule ends after so many minutes where it has not ended after ``steps``; 0 is no such limit.
            A result with it depends on how busy the machine was.
        dtype: what the forward pass's and Muon's matrix products are computed in; the weights stay float32.
        widen_from: folder of a narrower trained model to start from; "" starts from random weights.
        widen_spread, widen_noise: how unequal its copies are made, see ``widening.widen_into``.
    """

    seed: int = 1
    steps: int = 3500
    minutes: float = 0.0
    dtype: str = "float32"
    widen_from: str = ""
    widen_spread: float = 0.5
    widen_noise: float = 0.7
    vocab_size: int = 10000
    hidden_size: int = 256
    num_hidden_layers: int = 12
    tokens_per_batch: int = 1024
    max_length: int = 64
    pair_share: float = 0.25
    long_every: int = 40
    long_length: int = 512
    learning_rate: float = 2e-3
    matrix_learning_rate: float = 2e-3
    weight_decay: float = 0.01
    initializer_range: float = 0.05
    warmup: float = 0.03943
    decay: float = 0.343
    clip: float = 1.0
    label_smoothing: float = 0.05
    clean_from: float = 0.76
    clean_share: float = 0.7
    average: float = 0.99

    def config(self) -> AlbertConfig:
        return AlbertConfig(
            vocab_size=self.vocab_size,
            embedding_size=128,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.hidden_size // 64,
            intermediate_size=4 * self.hidden_size,
            initializer_range=self.initializer_range,
            id2label=dict(enumerate(LEXNAMES)),
        )

    def place(self, step: int, seconds: float) -> float:
        """Where in the schedule, from 0 to ``steps``, a training is after ``step`` steps and so many seconds."""
        return max(step, self.steps * seconds / (60 * self.minutes)) if self.minutes else step

    def passes(self, step: float) -> int:
        """How many passes step ``step`` makes."""
        if self.widen_from or step >= GROWTH[-1][0] * self.steps:
            return self.num_hidden_layers
        return min(self.num_hidden_layers, max(passes for share, passes in GROWTH if step >= share * self.steps))

    def rate(self, step: float) -> float:
        """The factor on both learning rates: up, level, and down to 0 in a straight line."""
        return min(1.0, (step + 1) / (self.warmup * self.steps + 1), (self.steps - step) / (self.decay * self.steps))

    def clean(self, step: float) -> float:
        """The share of rows without masks: none at first, ``clean_share`` at the end."""
        progress = (step / self.steps - self.clean_from) / (1 - self.clean_from)
        return self.clean_share * max(0.0, progress)


class Training:
    """Model, optimisers, running average of the weights, and the step they are at."""

    def __init__(self, plan: Plan) -> None:
        torch.manual_seed(plan.seed)
        self.plan = plan
        self.step = 0
        self.seconds = 0.0
        self.model = GlossModel(plan.config())
        if plan.widen_from:
            widen_into(self.model, plan.widen_from, spread=plan.widen_spread, noise=plan.widen_noise, seed=plan.seed)
        self.parameters = list(self.model.parameters())
        matrices = [p for name, p in self.model.named_parameters() if is_matrix(name, p)]
        others = [p for name, p in self.model.named_parameters() if not is_matrix(name, p)]
        self.optimizers: list[tuple[torch.optim.Optimizer, float]] = [
            (
                Muon(matrices, lr=plan.matrix_learning_rate, weight_decay=plan.weight_decay),
                plan.matrix_learning_rate,
            ),
            (
                torch.optim.AdamW(others, lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=plan.weight_decay),
                plan.learning_rate,
            ),
        ]
        self.average = [p.detach().clone() for p in self.parameters]

    @property
    def place(self) -> float:
        """Where in the plan's schedule the training is; it is over at ``plan.steps``."""
        return self.plan.place(self.step, self.seconds)

    def autocast(self) -> torch.autocast:
        """A new context in which matrix products are computed in the plan's dtype."""
        return torch.autocast("cpu", dtype=getattr(torch, self.plan.dtype), enabled=self.plan.dtype != "float32")

    def take_step(
        self, batches: list[tuple[int, TrainingBatch]], *, workers: int, seconds: float = 0.0
    ) -> dict[str, float]:
        """One optimiser step from this worker's share of the batches; returns the mean losses over all workers.

        Args:
            seconds: what the training has taken before this step, by this worker's clock; the workers take the mean.
        """
        plan, place = self.plan, self.place
        self.model.train()
        sums = torch.zeros(3)
        sums[2] = seconds / workers
        rows = plan.tokens_per_batch / 22  # an average row has 22 tokens
        for number, batch in batches:
            torch.manual_seed(plan.seed * 2**32 + number)  # dropout is the same after a resume and for any workers
            with self.autocast():
                loss = losses(
                    self.model, batch, passes=plan.passes(place), rows=rows, label_smoothing=plan.label_smoothing
                )
            ((loss.masked_lm + loss.classification) / BATCHES_PER_STEP).backward()
            sums[:2] += torch.stack([loss.masked_lm.detach(), loss.classification.detach()]) / BATCHES_PER_STEP
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        flat = torch.cat([sums, *(g.flatten() for g in gradients)])
        if workers > 1:
            distributed.all_reduce(flat)
        self.seconds = float(flat[2])
        start = len(sums)
        for parameter in self.parameters:
            parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, plan.clip)
        for optimizer, learning_rate in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * plan.rate(place)
            with self.autocast():
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(plan.average, self.step / (self.step + 20))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        return {"masked_lm": float(flat[0]), "classification": float(flat[1]), "gradient": float(norm)}

    def averaged(self) -> GlossModel:
        """A model that holds the running average of the weights."""
        model = GlossModel(self.plan.config())
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), self.average, strict=True):
                parameter.copy_(value)
        return model.eval()

    def save(self, path: Path) -> None:
        """Write everything ``resume`` needs, whole or not at all."""
        state = {
            "plan": asdict(self.plan),
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
        }
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def resume(self, path: Path) -> None:
        """Continue from ``save``; ValueError when it was made under another plan."""
        state = torch.load(path, weights_only=True)
        if state["plan"] != asdict(self.plan):
            theirs, ours = state["plan"], asdict(self.plan)
            changed = [f"{k} {theirs.get(k)} -> {ours[k]}" for k in ours if theirs.get(k) != ours[k]]
            raise ValueError(f"{path} was made under another plan ({', '.join(changed)}); give the same options")
        self.step, self.seconds = state["step"], state["seconds"]
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        for (optimizer, _), saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def is_matrix(name: str, parameter: torch.Tensor) -> bool:
    """Whether Muon trains it: the encoder's dense weights. Tables, heads, biases and LayerNorms are AdamW's."""
    return parameter.ndim == 2 and not name.startswith("classifier") and "embeddings." not in name


def masked_batches(
    plan: Plan,
    examples: Examples,
    *,
    first_step: int,
    worker: int,
    workers: int,
    place: Callable[[int], float] = float,
) -> Iterator[list[tuple[int, TrainingBatch]]]:
    """For each step from ``first_step`` on, this worker's masked batches and their numbers in the whole training.

    Args:
        place: where in the plan's schedule a step is; asked when the step's batches are made.
    """
    first = first_step * BATCHES_PER_STEP
    unmasked = training_batches(
        examples,
        seed=plan.seed,
        first=first,
        tokens=plan.tokens_per_batch,
        pair_share=plan.pair_share,
        max_length=plan.max_length,
        long_every=plan.long_every,
        long_length=plan.long_length,
    )
    for step in range(first_step, plan.steps):
        mine = []
        for turn, batch in enumerate(islice(unmasked, BATCHES_PER_STEP)):
            if turn % workers == worker:
                number = step * BATCHES_PER_STEP + turn
                rng = np.random.default_rng([plan.seed, number, 2])
                share = plan.clean(place(step)) if (batch.labels >= 0).any() else 0.0
                mine.append((number, mask_tokens(batch, rng, vocab_size=plan.vocab_size, clean_share=share)))
        yield mine
