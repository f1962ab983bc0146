"""Export in float16 leaves in float32 what float16 cannot hold, and names it; bfloat16 holds all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_checkpoint import SENTENCES, write_small_checkpoint

from albert_fast import AlbertForMaskedLM, engine
from albert_fast.cli import main
from albert_fast.recipe import Recipe, export

PROFILE = "1x1:4x16:8x32"
BEYOND_FLOAT16 = 65504


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose feed-forward grows to some 100,000, as the activations of a few trained models do."""
    folder = write_small_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    model = AlbertForMaskedLM.from_pretrained(folder)
    model.albert.encoder.albert_layer_groups[0].albert_layers[0].ffn.weight.data *= 2e4
    model.save_pretrained(folder)
    return folder


def recipe_of(checkpoint: Path, output: Path, **changes: Any) -> Recipe:
    values = {"model": str(checkpoint), "format": "exported_program", "profile": PROFILE, "precision": "fp16"}
    return Recipe.from_dict({**values, "output": str(output), **changes})


def test_what_float16_cannot_hold_stays_in_float32_and_the_manifest_names_it(checkpoint: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    manifest = export(recipe_of(checkpoint, tmp_path / "e.pt2"), stages.append)
    assert "looking for what float16 cannot hold" in stages
    kept = manifest.notes["float32"]
    assert kept and all(amax > BEYOND_FLOAT16 for amax in kept.values())
    assert all(name.startswith(("linear", "gelu")) for name in kept)


def test_bfloat16_holds_it_and_nothing_is_kept(checkpoint: Path, tmp_path: Path) -> None:
    assert "float32" not in export(recipe_of(checkpoint, tmp_path / "e.pt2", precision="bf16")).notes


def test_text_of_the_users_own_is_looked_at_too(checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "texts.txt"
    words = [word for sentence in SENTENCES for word in sentence.split()]
    text.write_text("".join(" ".join(words[(7 * i + k) % len(words)] for k in range(12)) + "\n" for i in range(100)))
    alone = export(recipe_of(checkpoint, tmp_path / "e.pt2")).notes["float32"]
    both = export(recipe_of(checkpoint, tmp_path / "e.pt2", overflow_text=str(text))).notes["float32"]
    assert set(alone) <= set(both)
    assert all(both[name] >= alone[name] for name in alone)


def test_tensors_are_kept_by_name_on_the_command_line(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write_small_checkpoint(tmp_path_factory.mktemp("plain"))
    model = AlbertForMaskedLM.from_pretrained(plain)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 0.3  # numbers of the size that trained models have
    model.save_pretrained(plain)
    made = tmp_path / "e.pt2"
    words = ["export", str(plain), "--precision", "fp16", "--format", "exported_program", "--profile", PROFILE]
    assert main([*words, "--keep-float32", "gelu*,layer_norm", "-o", str(made)]) == 0, capsys.readouterr().err
    assert engine.read_manifest(made).notes["float32"] == {"gelu*": None, "layer_norm": None}
    assert main([*words, "--keep-float32", "nothing", "-o", str(made)]) == 1
    assert "keep_float32 names nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep_float32": 3}, "keep_float32 is 3, expected names of tensors"),
        ({"overflow_text": "nowhere.txt"}, "overflow_text is 'nowhere.txt', and there is no such file"),
        ({"precision": "fp32", "keep_float32": ["gelu"]}, "are for precisions in 16 bits; precision is fp32"),
    ],
)
def test_what_is_wrong_with_the_words_is_told_before_any_work(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe_of(Path("nowhere"), Path("e.pt2"), **values)
