"""A narrow model made wide: the same answers, other gradients, and no silence about what does not fit."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from gloss_examples import IGNORED, TrainingBatch
from gloss_model import GlossModel, losses
from gloss_training import Plan, Training
from widening import widen_into

from albert_fast.precision import PRECISIONS

NARROW = Plan(vocab_size=100, hidden_size=64, num_hidden_layers=3, initializer_range=0.2)
WIDE = replace(NARROW, hidden_size=192)
TOLERANCE = PRECISIONS["fp32"].budget.max_abs


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights, biases and LayerNorms too, in place of trained ones."""
    torch.manual_seed(3)
    model = GlossModel(NARROW.config())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("narrow")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def batch() -> TrainingBatch:
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(5, 100, (4, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    types = torch.zeros_like(ids)
    types[2, 5:] = 1
    masked = torch.where(torch.rand(ids.shape, generator=generator) < 0.3, ids, IGNORED)
    return TrainingBatch(ids, mask, types, torch.arange(4), masked)


def wide_model(folder: Path, *, spread: float = 0.5, noise: float = 0.0) -> GlossModel:
    model = GlossModel(WIDE.config())
    widen_into(model, folder, spread=spread, noise=noise, seed=1)
    return model.eval()


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_a_widened_model_answers_as_the_narrow_one(narrow: Path, batch: TrainingBatch, spread: float) -> None:
    small, wide = GlossModel.from_pretrained(narrow), wide_model(narrow, spread=spread)
    with torch.no_grad():
        expected, found = small.hidden(batch, 3), wide.hidden(batch, 3)
        torch.testing.assert_close(found, expected.repeat(1, 1, 3), atol=TOLERANCE, rtol=0)
        for head in ("class_logits", "predictions"):
            torch.testing.assert_close(
                getattr(wide, head)(found), getattr(small, head)(expected), atol=5 * TOLERANCE, rtol=0
            )


def test_unequal_shares_give_the_copies_unlike_gradients(narrow: Path, batch: TrainingBatch) -> None:
    for spread, alike in ((0.0, True), (0.5, False)):
        model = wide_model(narrow, spread=spread)
        found = losses(model, batch, passes=3, rows=4, label_smoothing=0.0)
        (found.masked_lm + found.classification).backward()
        gradient = model.get_parameter("albert.encoder.embedding_hidden_mapping_in.weight").grad
        assert gradient is not None
        first, second, _ = gradient.chunk(3)
        assert torch.allclose(first, second, rtol=1e-3, atol=1e-3 * float(first.abs().max())) == alike


def test_noise_parts_the_copies_of_a_hidden_vector(narrow: Path, batch: TrainingBatch) -> None:
    with torch.no_grad():
        copies = wide_model(narrow, noise=0.3).hidden(batch, 3).unflatten(-1, (3, 64))
    apart = (copies - copies.mean(-2, keepdim=True)).square().sum() / copies.square().sum()
    assert apart > 0.01


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (replace(WIDE, hidden_size=128 + 32), "hidden_size 160 is no multiple of 64.*give --hidden-size 128 or 192"),
        (replace(WIDE, vocab_size=101), "made 3 times as wide, has another config: vocab_size 100 -> 101"),
        (replace(WIDE, num_hidden_layers=4), "num_hidden_layers 3 -> 4"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_a_model_that_is_not_the_narrow_one_made_wider_is_refused(narrow: Path, plan: Plan, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Training(replace(plan, widen_from=str(narrow)))


def test_a_widened_model_makes_all_its_passes_from_the_start(narrow: Path) -> None:
    assert Plan().passes(0) == 4
    assert replace(Plan(), widen_from=str(narrow)).passes(0) == 12
