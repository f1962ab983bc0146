"""verify: an engine against its model on texts: what it measures, when it fails, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_checkpoint import small_config, write_small_checkpoint

from albert_fast.cli import main
from albert_fast.engine import manifest_path
from albert_fast.heads import HEADS
from albert_fast.pipelines.texts import Text
from albert_fast.recipe import Recipe, export
from albert_fast.recipe.verifying import read_texts, verify

LINES = "a small animal\nthe act of moving from one place to another\tin a quick way\n\nwho writes books\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, its engine, another model's checkpoint, and texts."""
    made = tmp_path_factory.mktemp("verify")
    export(recipe(write_small_checkpoint(made / "model"), made / "engine.pt2"))
    changed = HEADS["masked-lm"].model_class.from_pretrained(made / "model")
    with torch.no_grad():
        changed.predictions.bias[7] += 0.5
    changed.save_pretrained(made / "changed")
    (made / "texts.txt").write_text(LINES)
    return made


def recipe(model: Path, output: Path, **changes: Any) -> Recipe:
    values = {"format": "exported_program", "profile": "1x1:2x16:4x32", **changes}
    return Recipe.from_dict({"model": str(model), "output": str(output), **values})


def test_an_engine_agrees_with_its_model_on_every_real_token(folder: Path) -> None:
    found = verify(folder / "engine.pt2", read_texts(folder / "texts.txt"))
    assert (found.texts, found.beyond, found.same_weights) == (3, (), True)
    assert found.tokens > 20
    assert found.error.max_abs < 1e-4 and found.error.argmax_agreement == 1
    assert found.worst_max_abs == found.error.max_abs


def test_what_differs_is_measured_and_found_beyond_the_budget(folder: Path) -> None:
    found = verify(folder / "engine.pt2", read_texts(folder / "texts.txt"), against=folder / "changed")
    assert found.error.max_abs == pytest.approx(0.5, abs=1e-3)
    assert found.error.mean_abs == pytest.approx(0.5 / small_config().vocab_size, rel=0.01)
    assert not found.same_weights
    assert "max_abs is 0.5, at most 0.0002 is allowed" in found.beyond[0]


def test_the_worst_text_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from albert_fast.recipe import verifying

    true_eager = verifying._eager

    def shifted(model: Any, batch: Any, names: Any) -> Any:
        answers = true_eager(model, batch, names)
        hit = (batch.input_ids == 2).any() and batch.input_ids.shape[0] == 1  # the last and longest text runs alone
        return {name: value + (0.25 if hit else 0.0) for name, value in answers.items()}

    monkeypatch.setattr(verifying, "_eager", shifted)
    found = verify(folder / "engine.pt2", read_texts(folder / "texts.txt"))
    assert found.worst_text.startswith("the act of moving") and found.worst_max_abs == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_can_be_verified(head: str, tmp_path: Path) -> None:
    export(recipe(write_small_checkpoint(tmp_path / "model", head), tmp_path / "engine.pt2"))
    found = verify(tmp_path / "engine.pt2", [Text("a small animal"), Text("the act", "of moving"), Text("a")])
    assert found.beyond == () and found.texts == 3


def test_the_command_says_its_verdict_by_its_exit_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["verify", str(folder / "engine.pt2"), "--data", str(folder / "texts.txt")]
    assert main(command) == 0
    assert "within the budget" in capsys.readouterr().out
    assert main([*command, "--against", str(folder / "changed")]) == 1
    printed = capsys.readouterr().out
    assert "OTHERS than the engine was built from" in printed and "beyond the budget: max_abs is 0.5" in printed
    assert main([*command, "--max-abs", "1e-12", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is False and document["budget"]["max_abs"] == 1e-12


def test_texts_that_cannot_be_read_are_refused_by_their_place(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    for content, message in (
        (b"a\tb\tc\n", r"line 1 of .* has 3 parts, expected a text, or two with a tab"),
        (b"\n \n", "holds no text; expected one a line"),
        (b"\xff\xfe", "are not UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_texts(path)
    with pytest.raises(ValueError, match=r"absent\.txt cannot be read: No such file"):
        read_texts(tmp_path / "absent.txt")
    path.write_text("one\ntwo\nthree\n")
    assert read_texts(path, limit=2) == [Text("one"), Text("two")]


def test_a_model_that_is_not_the_engines_is_refused(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    HEADS["masked-lm"].model_class(small_config(hidden_size=64)).eval().save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="is not the model of this engine: hidden_size is 64, the engine's 32"):
        verify(folder / "engine.pt2", [Text("a")], against=tmp_path / "other")


def test_a_missing_engine_or_model_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder / "absent.pt2"), "--data", str(folder / "texts.txt")]) == 1
    assert "no engine file at" in capsys.readouterr().err
    assert (
        main(["verify", str(folder / "engine.pt2"), "--data", str(folder / "texts.txt"), "--against", "no/where"]) == 1
    )
    assert "no/where" in capsys.readouterr().err
    assert manifest_path(folder / "engine.pt2").exists()
    assert main(["verify", str(folder / "engine.pt2"), "--data", str(folder / "texts.txt"), "--limit", "0"]) == 1
    assert "--limit is 0, expected at least 1" in capsys.readouterr().err
