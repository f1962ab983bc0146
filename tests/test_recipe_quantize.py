"""The table [quantize] of a recipe: what it may say, and that export follows it and says so in the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_checkpoint import LABELS, SENTENCES, write_small_checkpoint

import albert_fast
from albert_fast import AlbertForMaskedLM, engine
from albert_fast.capture import capture
from albert_fast.cli import main
from albert_fast.engine import FORMATS, machine
from albert_fast.precision import Scales
from albert_fast.precision.calibration import collect
from albert_fast.recipe import Recipe, export
from albert_fast.recipe.exporting import source_of
from albert_fast.recipe.quantizing import Quantize, rest_of
from albert_fast.recipe.references import reference_batches

PROFILE = "1x1:4x16:8x32"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def scales(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Recipe.from_dict({"model": str(checkpoint), "profile": PROFILE})
    source, profile = source_of(recipe), recipe.profiles[0]
    batches = reference_batches(source.model.config, "masked-lm", profile, source.tokenizer)
    path = tmp_path_factory.mktemp("scales") / "model.scales.json"
    collect(capture(source.model, profile), batches).scales("max").save(path)
    return path


def recipe_of(checkpoint: Path, output: Path, **quantize: Any) -> Recipe:
    values = {"model": str(checkpoint), "format": "exported_program", "profile": PROFILE, "precision": "int8"}
    return Recipe.from_dict({**values, "output": str(output), "quantize": quantize})


def test_a_toml_table_becomes_words(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        'model = "a/b"\nprecision = "int8"\n[quantize]\nscales = "m.scales.json"\nparts = ["encoder", "heads"]\n'
        'rest = "fp32"\nkeep = ["ffn.input@3"]\n'
    )
    expected = Quantize(Path("m.scales.json"), parts=("encoder", "heads"), rest="fp32", keep=("ffn.input@3",))
    assert Recipe.read(path).quantize == expected


def test_what_is_given_beside_a_recipe_takes_the_place_of_its_keys_and_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('model = "a/b"\nprecision = "int8"\n[quantize]\nscales = "m.scales.json"\nrest = "fp32"\n')
    assert Recipe.read(path, quantize={"rest": "bf16"}).quantize == Quantize(Path("m.scales.json"), rest="bf16")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"precision": "int8"}, "precision int8 needs ranges found on text of yours: name a scales file"),
        ({"precision": "fp32", "quantize": {"scales": "x"}}, "precision fp32 does not quantize"),
        ({"precision": "fp8", "quantize": {"calibration": "x", "max_drop": 1}, "format": "exported_program"},
         "max_drop searches in int8, precision is fp8"),
        ({"precision": "int8", "quantize": 3}, "quantize is 3, expected a table"),
        ({"precision": "int8", "quantize": {"scals": "x"}}, "quantize has the unknown key 'scals'"),
        ({"precision": "int8", "quantize": {"scales": "x", "parts": ["tail"]}}, "quantize.parts is tail, expected"),
        ({"precision": "int8", "quantize": {"scales": "x", "parts": []}}, "quantize.parts is empty"),
        ({"precision": "int8", "quantize": {"scales": "x", "keep": 3}}, "quantize.keep is 3, expected names"),
        ({"precision": "int8", "quantize": {"scales": "x", "rest": "int8"}}, "quantize.rest is 'int8', expected"),
        ({"precision": "int8", "quantize": {"scales": "x", "calibration": "y"}}, "names both scales and calibration"),
        ({"precision": "int8", "quantize": {"scales": "x", "max_drop": 0.5}}, "max_drop measures on text"),
        ({"precision": "int8", "quantize": {"calibration": "x", "max_drop": -1}}, "max_drop is -1, expected points"),
        (
            {"precision": "int8", "attention": "sdpa", "quantize": {"scales": "x", "parts": ["attention"]}},
            "attention, whose products sdpa does not show",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_it_is_told_before_any_work(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="this recipe cannot be followed: .*" + message.replace(".", r"\.")):
        Recipe.from_dict({"model": "a/b", **values})


def test_export_follows_it_and_the_manifest_says_so(checkpoint: Path, scales: Path, tmp_path: Path) -> None:
    recipe = recipe_of(checkpoint, tmp_path / "engine.pt2", scales=str(scales), parts=["encoder", "heads"], rest="fp32")
    manifest = export(recipe)
    assert (manifest.precision, manifest.scales_digest) == ("int8", Scales.read(scales).digest)
    noted = manifest.notes["quantization"]
    assert noted["parts"] == ["encoder", "heads"]
    assert (noted["rest"], noted["kept"], noted["method"]) == ("fp32", [], "max")
    assert noted["calibration"]["texts"] == Scales.read(scales).text.texts
    plain = export(recipe.replace(precision="fp32", quantize=None, output=tmp_path / "plain.pt2"))
    assert manifest.weight_bytes < 0.7 * plain.weight_bytes
    assert manifest.error.max_abs > 0
    assert engine.load(tmp_path / "engine.pt2") is not None


def test_attention_is_quantized_in_the_eager_graph_that_auto_then_means(checkpoint: Path, tmp_path: Path) -> None:
    source = source_of(Recipe.from_dict({"model": str(checkpoint), "profile": PROFILE}))  # eager attention
    profile = Recipe.from_dict({"model": "-", "profile": PROFILE}).profiles[0]
    batches = reference_batches(source.model.config, "masked-lm", profile)
    collect(capture(source.model, profile), batches).scales("max").save(tmp_path / "eager.scales.json")
    recipe = recipe_of(
        checkpoint, tmp_path / "e.pt2", scales=str(tmp_path / "eager.scales.json"), parts=["encoder", "attention"]
    )
    assert export(recipe).attention == "eager"


def test_a_broken_scales_file_and_scales_of_another_model_stop_the_export(
    checkpoint: Path, scales: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.scales.json"
    broken.write_text("{")
    with pytest.raises(ValueError, match=r"broken\.scales\.json is not JSON"):
        export(
            recipe_of(Path("nowhere"), tmp_path / "engine.pt2", scales=str(broken))
        )  # before the model is looked for
    with pytest.raises(ValueError, match=r"calibration text .*nothing\.txt is not there"):
        export(recipe_of(Path("nowhere"), tmp_path / "engine.pt2", calibration=str(tmp_path / "nothing.txt")))
    other = write_small_checkpoint(tmp_path / "other")
    changed = AlbertForMaskedLM.from_pretrained(other)
    changed.albert.encoder.albert_layer_groups[0].albert_layers[0].ffn.weight.data += 0.01
    changed.save_pretrained(other)
    with pytest.raises(ValueError, match="these scales are of another model"):
        export(recipe_of(other, tmp_path / "engine.pt2", scales=str(scales)))
    assert not (tmp_path / "engine.pt2").exists()


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 120 texts that the small checkpoint's vocabulary knows, and their classes."""
    words = [word for sentence in SENTENCES for word in sentence.split()]
    rows = [" ".join(words[(7 * i + 3 * k) % len(words)] for k in range(4 + i % 9)) for i in range(120)]
    path = tmp_path_factory.mktemp("texts") / "texts.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{row}\t{LABELS[i % 3]}\n" for i, row in enumerate(rows)))
    return path


def test_calibration_text_gives_the_scales_that_lie_beside_the_engine(
    checkpoint: Path, texts: Path, tmp_path: Path
) -> None:
    manifest = export(recipe_of(checkpoint, tmp_path / "e.pt2", calibration=str(texts), column="text", method="max"))
    kept = Scales.read(tmp_path / "e.pt2.scales.json")
    assert manifest.scales_digest == kept.digest
    assert (kept.text.source, kept.method) == (str(texts), "max")
    again = export(recipe_of(checkpoint, tmp_path / "again.pt2", scales=str(tmp_path / "e.pt2.scales.json")))
    assert (again.scales_digest, again.error) == (manifest.scales_digest, manifest.error)
    assert not (tmp_path / "again.pt2.scales.json").exists()
    page = (tmp_path / "e.pt2.html").read_text()
    assert "engine file, exported_program" in page and "int8, passes merged" in page
    assert not (tmp_path / "again.pt2.html").exists(), "there is no text to compare on"


def test_max_drop_keeps_what_it_needs_and_says_what_it_tried(checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    words = {"calibration": str(texts), "column": "text", "method": "max"}
    generous = export(recipe_of(checkpoint, tmp_path / "e.pt2", **words, max_drop=100))
    assert generous.notes["quantization"]["kept"] == []
    found = generous.notes["quantization"]["search"]
    assert (found["measure"], len(found["steps"])) == ("answers", 1)
    drop = found["drop"]
    assert drop > 0, "random weights leave every answer open"
    strict = export(recipe_of(checkpoint, tmp_path / "e.pt2", **words, max_drop=0.8 * drop))
    assert strict.notes["quantization"]["kept"]
    assert strict.notes["quantization"]["search"]["drop"] <= 0.8 * drop


def test_labels_make_max_drop_count_accuracy(texts: Path, tmp_path: Path) -> None:
    classifier = write_small_checkpoint(tmp_path / "classifier", "sequence-classification")
    words = {"calibration": str(texts), "column": "text", "label_column": "label", "method": "max", "max_drop": 50}
    words["report"] = False
    noted = export(recipe_of(classifier, tmp_path / "e.pt2", **words)).notes["quantization"]
    assert noted["search"]["measure"] == "accuracy"
    assert noted["search"]["float32_accuracy"] is not None
    assert not (tmp_path / "e.pt2.html").exists(), "it was not asked for"


def test_labels_that_the_model_does_not_know_are_named(checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    words = {"calibration": str(texts), "column": "text", "max_drop": 1}
    with pytest.raises(ValueError, match="label_column is for sequence-classification, the head is masked-lm"):
        export(recipe_of(checkpoint, tmp_path / "e.pt2", **words, label_column="label"))
    classifier = write_small_checkpoint(tmp_path / "classifier", "sequence-classification")
    strange = tmp_path / "strange.tsv"
    strange.write_text(texts.read_text().replace("\tverb", "\tvreb"))
    with pytest.raises(ValueError, match=r"labels in the column label that the model does not know: 'vreb'; it knows"):
        export(
            recipe_of(classifier, tmp_path / "e.pt2", **{**words, "calibration": str(strange)}, label_column="label")
        )


def test_a_compiled_engine_is_found_again_by_what_its_scales_hold(
    checkpoint: Path, scales: Path, tmp_path: Path
) -> None:
    def made(quantize: dict[str, Any]) -> Any:
        stages: list[str] = []
        found = albert_fast.compile(
            checkpoint, format="exported_program", profile=PROFILE, precision="int8", quantize=quantize,
            cache_dir=tmp_path, progress=stages.append,
        )  # fmt: skip
        return found, bool(stages)

    first, built = made({"scales": scales})
    assert built and first.manifest.scales_digest == Scales.read(scales).digest
    copied = tmp_path / "copy.scales.json"
    copied.write_text(scales.read_text())
    assert not made({"scales": copied})[1], "the same numbers in another file"
    assert not made({"scales": Scales.read(scales)})[1]
    assert made({"scales": Scales.read(scales).merged()})[1]
    assert made({"scales": scales, "keep": ["ffn.input@1"]})[1]


def test_the_rest_is_what_suits_format_and_device_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rest_of(FORMATS["aotinductor"], "fp32", "cpu") == "fp32"
    assert rest_of(FORMATS["onnx"], "auto", "cpu") == "fp32"
    assert rest_of(FORMATS["tensorrt-rtx"], "auto", "cuda") == "fp16"
    for flags, expected in ((("avx2", "avx512_bf16"), "bf16"), (("avx2",), "fp32")):
        monkeypatch.setattr(machine, "cpu_flags", lambda flags=flags: flags)
        assert rest_of(FORMATS["aotinductor"], "auto", "cpu") == expected


def test_the_command_line_names_scales_and_what_to_keep(
    checkpoint: Path, scales: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(checkpoint), "--precision", "int8", "--format", "exported_program", "--profile", PROFILE]
    made = tmp_path / "engine.pt2"
    words += ["--scales", str(scales), "--keep", "ffn.input@1,attention.input", "--rest", "bf16", "-o", str(made)]
    assert main(words) == 0, capsys.readouterr().err
    noted = engine.read_manifest(made).notes["quantization"]
    assert (noted["kept"], noted["rest"]) == (["ffn.input@1", "attention.input"], "bf16")
    assert main([*words[:8], "-o", str(made)]) == 1
    assert "needs ranges found on text of yours" in capsys.readouterr().err
