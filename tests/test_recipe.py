"""Recipes: what they may say, and that following one writes a proved engine with all that belongs to it, or nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_checkpoint import small_config, write_small_checkpoint

from albert_fast import EngineError, ShapeProfile, engine
from albert_fast.engine import Manifest, read_manifest
from albert_fast.heads import HEADS
from albert_fast.pipelines import pipeline
from albert_fast.pipelines.sources import tokenizer_folder
from albert_fast.recipe import Recipe, export, exporting
from albert_fast.recipe.references import answers, reference_batches
from albert_fast.tokenizer import AlbertTokenizer

REPOSITORY = Path(__file__).parents[1]
RECIPES = sorted((REPOSITORY / "export").glob("*.toml"))
PROFILE = "1x1:4x16:8x32"


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, list[str]]:
    """A folder that one export has written to, what it returned, and the stages that it named."""
    stages: list[str] = []
    folder = tmp_path_factory.mktemp("exported") / "made"
    manifest = export(recipe_for(checkpoint, folder / "engine.pt2"), stages.append)
    return folder, manifest, stages


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def recipe_for(checkpoint: Path, output: Path, **changes: Any) -> Recipe:
    values = {"format": "exported_program", "profile": PROFILE, **changes}
    return Recipe.from_dict({"model": str(checkpoint), "output": str(output), **values})


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_are_recipes_for_the_published_and_the_embedded_model_in_every_file_format() -> None:
    found = {(recipe.model, recipe.format) for recipe in map(Recipe.read, RECIPES)}
    formats = [name for name, row in engine.FORMATS.items() if row.kind == "file"]
    assert found >= {(m, f) for m in ("albert/albert-base-v2", "albert-fast/wordnet") for f in formats}


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_every_recipe_of_the_project_can_be_read_and_writes_a_file_of_its_name(path: Path) -> None:
    recipe = Recipe.read(path)
    assert recipe.output is not None
    assert recipe.output.stem == path.stem


def test_no_two_recipes_write_the_same_file() -> None:
    outputs = [Recipe.read(path).output for path in RECIPES]
    assert len(set(outputs)) == len(outputs)


def test_a_recipe_says_what_its_toml_says(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('model = "a/b"\nhead = "masked-lm"\nprofile = "1x16:8x128:32x512"\noutput = "x/engine.pt2"\n')
    recipe = Recipe.read(path)
    assert recipe == Recipe(
        "a/b", head="masked-lm", profile=ShapeProfile(1, 8, 32, 16, 128, 512), output=Path("x/engine.pt2")
    )
    assert (recipe.precision, recipe.attention, recipe.device_name) == ("fp32", "auto", "cpu")


def test_all_problems_of_a_recipe_are_told_at_once_with_the_nearest_names() -> None:
    with pytest.raises(ValueError) as caught:
        Recipe.from_dict(
            {
                "fromat": "aotinductor",
                "wholly_else": 1,
                "head": "maskedlm",
                "precision": "int3",
                "profile": "big",
                "attention": 4,
                "device": "tpu",
                "output": "engine.onnx",
                "format": "exported_progam",
            }
        )
    for part in (
        "unknown key 'fromat', did you mean 'format'?",
        "unknown key 'wholly_else', expected one of model",
        "the key 'model' is missing",
        "head is 'maskedlm', expected one of base",
        "did you mean 'masked-lm'?",
        "precision is 'int3', expected one of fp32",
        "profile: 'big' is no profile",
        "attention is 4, expected one of auto",
        "did you mean 'exported_program'?",
    ):
        assert part in str(caught.value)


def test_output_and_device_must_fit_the_format() -> None:
    with pytest.raises(
        ValueError, match=r"device is 'tpu'.*cpu, cuda; .*'engine.onnx', expected a name that ends in \.pt2"
    ):
        Recipe("a/b", device="tpu", output=Path("engine.onnx"))


@pytest.mark.parametrize(
    ("text", "message"), [("model = ", "is not TOML"), ("\xff", "is not TOML"), (None, "cannot be read: No such file")]
)
def test_what_is_no_toml_file_is_refused_by_its_name(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"broken\.toml {message}"):
        Recipe.read(path)


def test_the_engine_is_named_after_model_head_and_format_unless_the_recipe_names_it() -> None:
    assert Recipe("albert/albert-base-v2").output_for("base") == Path("albert-base-v2-base-aotinductor-fp32.pt2")
    assert Recipe(".").output_for("base") == Path(f"{Path.cwd().name}-base-aotinductor-fp32.pt2")
    assert Recipe(".", output=Path("engine.pt2")).output_for("base") == Path("engine.pt2")


def test_export_writes_engine_manifest_and_tokenizer_that_run_alone(
    checkpoint: Path, exported: tuple[Path, Manifest, list[str]]
) -> None:
    folder, manifest, stages = exported
    assert manifest == read_manifest(folder / "engine.pt2")
    assert (manifest.head, manifest.attention, manifest.profile) == ("masked-lm", "sdpa", PROFILE)
    assert manifest.notes["tokenizer"] == "engine.pt2.tokenizer"
    assert len(manifest.checkpoint_sha256 or "") == 64
    written = {path.name for path in folder.iterdir()}
    assert written == {"engine.pt2", "engine.pt2.manifest.json", "engine.pt2.tokenizer"}
    assert len(stages) >= 5
    text = "a small [MASK] that is kept"
    from_file = pipeline("fill-mask", folder / "engine.pt2")(text)
    from_model = pipeline("fill-mask", checkpoint)(text)
    assert [one["token"] for one in from_file] == [one["token"] for one in from_model]


@pytest.mark.parametrize("head", HEADS)
def test_the_head_is_the_one_that_the_checkpoint_was_saved_with(head: str) -> None:
    config = small_config(architectures=[HEADS[head].model_class.__name__])
    assert exporting.head_of_checkpoint(config, "it") == head


def test_a_model_without_a_tokenizer_gives_an_engine_without_one(tmp_path: Path) -> None:
    checkpoint = write_small_checkpoint(tmp_path / "checkpoint", "multiple-choice", vocabulary=False)
    manifest = export(recipe_for(checkpoint, tmp_path / "engine.pt2"))
    assert manifest.head == "multiple-choice"
    assert manifest.notes["tokenizer"] is None
    assert not tokenizer_folder(tmp_path / "engine.pt2").exists()


def test_a_second_export_replaces_the_first_as_a_whole(
    checkpoint: Path, exported: tuple[Path, Manifest, list[str]], tmp_path: Path
) -> None:
    shutil.copytree(exported[0], tmp_path, dirs_exist_ok=True)
    output = tmp_path / "engine.pt2"
    (tokenizer_folder(output) / "stale").write_text("of the first export")
    export(recipe_for(checkpoint, output, profile="2x8"))
    assert str(engine.load(output).profile) == "2x8:2x8:2x8"
    assert not (tokenizer_folder(output) / "stale").exists()
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("stage", ["capture", "engines.build", "engines.load"])
def test_a_failure_at_any_stage_leaves_what_was_there(
    stage: str,
    checkpoint: Path,
    exported: tuple[Path, Manifest, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(exported[0], tmp_path, dirs_exist_ok=True)
    before = content(tmp_path)

    def fail(*arguments: Any, **options: Any) -> Any:
        raise EngineError("made to fail")

    owner, _, name = stage.rpartition(".")
    monkeypatch.setattr(getattr(exporting, owner) if owner else exporting, name, fail)
    with pytest.raises(EngineError, match="made to fail"):
        export(recipe_for(checkpoint, tmp_path / "engine.pt2", profile="2x8"))
    assert content(tmp_path) == before


def test_an_engine_that_answers_otherwise_when_loaded_is_not_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_load = engine.load

    def load_shifted(*arguments: Any, **options: Any) -> Any:
        loaded = true_load(*arguments, **options)
        run = loaded._run
        loaded._run = lambda *inputs: {name: value + 1 for name, value in run(*inputs).items()}
        return loaded

    monkeypatch.setattr(exporting.engines, "load", load_shifted)
    with pytest.raises(EngineError, match="beyond the error budget of fp32: max_abs is 1"):
        export(recipe_for(checkpoint, tmp_path / "engine.pt2"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("architectures", [None, ["AlbertForEverything"], ["AlbertModel", "AlbertForMaskedLM"]])
def test_a_checkpoint_that_does_not_name_its_head_asks_for_one(architectures: list[str] | None) -> None:
    with pytest.raises(ValueError, match=r"the config of it does not say which head .*--head .*masked-lm"):
        exporting.head_of_checkpoint(small_config(architectures=architectures), "it")


def test_an_output_that_cannot_be_written_is_refused_before_any_work(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(ValueError, match=r"folder\.pt2 is a folder; name the engine file"):
        export(recipe_for(checkpoint, tmp_path / "folder.pt2"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file is no folder that you may write to"):
        export(recipe_for(checkpoint, tmp_path / "file" / "engine.pt2"))


def test_a_profile_longer_than_the_model_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="asks for length 512, but the model has 40 positions"):
        export(recipe_for(checkpoint, tmp_path / "engine.pt2", profile="1x1:8x128:32x512"))


@pytest.mark.parametrize("profile", ["1x1:8x128:32x512", "4x16", "2x3:3x5:3x7", "1x1"])
@pytest.mark.parametrize("head", ["masked-lm", "multiple-choice"])
def test_reference_batches_lie_within_the_profile_and_are_the_same_every_time(profile: str, head: str) -> None:
    config, shapes = small_config(max_position_embeddings=512), ShapeProfile.parse(profile)
    batches = reference_batches(config, head, shapes)
    again = reference_batches(config, head, shapes)
    for batch, other in zip(batches, again, strict=True):
        shapes.check(batch.input_ids.shape[0], batch.input_ids.shape[-1])
        assert batch.input_ids.dim() == HEADS[head].ids_rank
        assert all(torch.equal(one, two) for one, two in zip(batch.tensors(), other.tensors(), strict=True))


def test_reference_batches_hold_pairs_padded_rows_and_text(checkpoint: Path) -> None:
    tokenizer = AlbertTokenizer.from_pretrained(str(checkpoint))
    config, shapes = small_config(), ShapeProfile.parse("1x1:4x16:8x40")
    random = reference_batches(config, "masked-lm", shapes)
    batches = reference_batches(config, "masked-lm", shapes, tokenizer)
    assert len(batches) == len(random) + 1
    for batch in (batches[0], batches[-1]):
        _, mask, types = batch.tensors()
        assert mask.min() == 0
        assert (types.max(dim=1).values == 1).any()
        assert (types * (1 - mask)).sum() == 0
    assert {tuple(batch.input_ids.shape) for batch in random} == {(4, 24), (1, 1), (1, 40)}


def test_a_tokenizer_of_another_model_is_found_out(checkpoint: Path) -> None:
    tokenizer = AlbertTokenizer.from_pretrained(str(checkpoint))
    with pytest.raises(ValueError, match="the model has vocab_size 9; they do not belong together"):
        reference_batches(small_config(vocab_size=9), "base", ShapeProfile.parse("1x1:4x16:8x40"), tokenizer)


def test_references_are_what_the_model_answers(checkpoint: Path) -> None:
    model = HEADS["masked-lm"].model_class.from_pretrained(checkpoint, attn_implementation="eager")
    batches = reference_batches(model.config, "masked-lm", ShapeProfile.parse("2x8"))
    for batch, found in answers(model, batches):
        assert torch.equal(found["logits"], model(*batch.tensors()).logits)
