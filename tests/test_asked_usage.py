"""Engines that answer at asked positions alone, as users meet them: recipe, command, fill-mask, verify, compile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_checkpoint import write_small_checkpoint

from albert_fast import Batch, pipeline
from albert_fast.cli import main
from albert_fast.engine import load, read_manifest
from albert_fast.pipelines.texts import Text
from albert_fast.recipe import Recipe, compile, export
from albert_fast.recipe.verifying import verify

TEXTS = ["a small [MASK] that is kept as a pet", "the [MASK] of moving from one [MASK] to another", "a [MASK]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and an engine of either kind."""
    made = tmp_path_factory.mktemp("asked")
    model = write_small_checkpoint(made / "model")
    for positions in ("all", "asked"):
        export(recipe(model, made / f"{positions}.pt2", positions=positions))
    return made


def recipe(model: Path, output: Path, **changes: Any) -> Recipe:
    values = {"format": "exported_program", "profile": "2x8:2x16:4x32", **changes}
    return Recipe.from_dict({"model": str(model), "output": str(output), **values})


def test_fill_mask_gives_the_same_predictions_with_engines_of_either_kind(folder: Path) -> None:
    answers = [pipeline("fill-mask", folder / f"{kind}.pt2")(TEXTS, top_k=3) for kind in ("all", "asked")]
    whole, asked = ([one for text in found for one in flat(text)] for found in answers)
    assert [one["token"] for one in asked] == [one["token"] for one in whole]
    assert [one["score"] for one in asked] == pytest.approx([one["score"] for one in whole], rel=1e-4)
    assert len(whole) == 3 * 4  # masks


def flat(predictions: Any) -> list[dict[str, Any]]:
    return [one for mask in predictions for one in mask] if isinstance(predictions[0], list) else predictions


def test_fill_mask_asks_an_engine_for_its_masks_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill, asked = pipeline("fill-mask", folder / "asked.pt2"), []
    run = fill.engine._run
    monkeypatch.setattr(fill.engine, "_run", lambda *inputs: asked.append(len(inputs[3])) or run(*inputs))
    fill(TEXTS[1])
    assert asked == [2 * 2]  # the profile wants two rows, so the text is there twice


def test_an_asked_engine_is_verified_at_every_token_of_text(folder: Path) -> None:
    texts = [Text("a small animal"), Text("the act", "of moving"), Text("a")]
    whole, asked = (verify(folder / f"{kind}.pt2", texts) for kind in ("all", "asked"))
    assert asked.beyond == () and asked.tokens == whole.tokens
    assert asked.error.argmax_agreement == 1 and asked.error.max_abs == pytest.approx(whole.error.max_abs, abs=1e-5)


def test_verify_finds_scores_that_are_wrong_at_one_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from albert_fast.recipe import verifying

    true_eager = verifying._eager

    def wrong(model: Any, batch: Any, engine: Any) -> Any:
        answers = true_eager(model, batch, engine)
        answers["logits"][-1, 3] += 0.25
        return answers

    monkeypatch.setattr(verifying, "_eager", wrong)
    assert verify(folder / "asked.pt2", [Text("a small animal"), Text("a")]).worst_max_abs == pytest.approx(
        0.25, abs=1e-3
    )


def test_the_error_in_the_manifest_is_that_at_text(folder: Path) -> None:
    assert read_manifest(folder / "asked.pt2").error.max_abs < 1e-4


def test_the_command_exports_runs_inspects_and_verifies_one(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "engine.pt2")
    words = ["--positions", "asked", "--format", "exported_program", "--profile", "1x1:2x16:4x32", "-o", path]
    assert main(["export", str(folder / "model"), *words]) == 0
    assert "asked: scores over the vocabulary where a batch asks" in capsys.readouterr().out
    assert main(["inspect", path]) == 0
    assert "positions [asked 1..128] int64" in capsys.readouterr().out
    assert main(["run", path, TEXTS[0], "--json", "--top-k", "2"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert [one["token"] for one in result["predictions"]] == [
        one["token"] for one in pipeline("fill-mask", folder / "all.pt2")(TEXTS[0], top_k=2)
    ]
    (tmp_path / "texts.txt").write_text("a small animal\nwho writes books\n")
    assert main(["verify", path, "--data", str(tmp_path / "texts.txt")]) == 0


def test_engines_of_either_kind_are_timed_and_compared_with_each_other(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--shapes", "2x9", "--seconds", "0.05", "--no-ceiling", "--json"]
    assert main(["bench", str(folder / "all.pt2"), str(folder / "asked.pt2"), *words]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[1]["max_abs_difference"] < 1e-4 and rows[1]["within_budget"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "some"}, r"positions is 'some', expected one of all, asked"),
        ({"positions": "asked", "head": "token-classification"}, r"the head 'token-classification' has no scores"),
        (
            {"positions": "asked", "format": "tflite"},
            r"positions is 'asked', but tflite takes no",
        ),
    ],
)
def test_a_recipe_that_cannot_ask_is_refused_whole(folder: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(folder / "model", folder / "never.pt2", **changes)


def test_a_head_of_the_checkpoints_own_that_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    model = write_small_checkpoint(tmp_path / "model", "sequence-classification")
    with pytest.raises(ValueError, match="the head 'sequence-classification' has no scores over the vocabulary"):
        export(recipe(model, tmp_path / "engine.pt2", positions="asked"))
    assert not (tmp_path / "engine.pt2").exists()


def test_compile_keeps_engines_of_either_kind_apart(folder: Path, tmp_path: Path) -> None:
    words: dict[str, Any] = {"format": "exported_program", "profile": "1x1:1x8:2x16", "cache_dir": tmp_path}
    engines = [compile(folder / "model", positions=positions, **words) for positions in ("all", "asked", "asked")]
    assert [engine.asked for engine in engines] == [False, True, True]
    assert len(list(tmp_path.glob("*.pt2"))) == 2


def test_a_loaded_engine_answers_as_the_whole_one_where_it_is_asked(folder: Path) -> None:
    whole, asked = load(folder / "all.pt2"), load(folder / "asked.pt2")
    ids = torch.randint(5, 96, (9, 20))
    masked = torch.rand(9, 20) < 0.15
    expected = whole(Batch(ids))["logits"][masked]
    torch.testing.assert_close(asked(Batch(ids, asked=masked))["logits"], expected, atol=1e-5, rtol=1e-4)
