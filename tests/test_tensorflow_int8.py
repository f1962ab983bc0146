"""int8 in LiteRT files: every weight int8 and once, a scale a pass, the numbers, the accuracy on real text."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_samples import PROFILE, batch_of, build_small, facts, references, small_model
from quantized_samples import ALL_PARTS, answers_of, batches, exact_program, quantized, scales_of
from tensorflow_engine_samples import in_a_process_without_torch, saved
from tensorflow_samples import tf  # noqa: F401  skips in words where TensorFlow is missing

from albert_fast import AlbertForSequenceClassification, AlbertTokenizer, Batch
from albert_fast.capture import capture
from albert_fast.engine import FORMATS, build, load, read_manifest, tflite
from albert_fast.engine.signature import distinct_weight_bytes
from albert_fast.precision import PRECISIONS, Quantization, prepare
from albert_fast.precision.calibration import collect

_no_litert = FORMATS["tflite"].missing()
pytestmark = pytest.mark.skipif(_no_litert is not None, reason=_no_litert or "")
either = pytest.mark.parametrize("activations", ["dynamic", "static"])
PASSES = 6
LAYER = "encoder.albert_layer_groups.0.albert_layers.0"
DATA = Path(__file__).parent / "data"
_folder = tempfile.TemporaryDirectory(prefix="albert-fast-int8-")


def smoothed_and_kept() -> Any:
    """The factors that divide a kept pass's input could be folded into a copy of its weight, and must not be."""
    factors = {f"{LAYER}.ffn.input": tuple(1 + index % 5 for index in range(64))}
    scales = dataclasses.replace(scales_of("base"), smoothing=factors)
    return prepare(exact_program("base"), "int8", quantization=Quantization(scales, keep=("ffn.input@2",)))


def write(program: Any, path: Path, **options: Any) -> Any:
    return tflite.write(program, path, device="cpu", profiles=(PROFILE,), options=options, tell=lambda words: None)


@cache
def engine_file(activations: str) -> Path:
    """An engine file and its manifest; to be read only."""
    model, path = small_model("base"), Path(_folder.name) / f"{activations}.tflite"
    build(
        quantized("base"), path, format="tflite", facts=dataclasses.replace(facts(model), precision="int8"),
        references=references(model), budget=PRECISIONS["int8"].budget, options={"activations": activations},
    )  # fmt: skip
    return path


def run(path: Path, batch: Batch) -> dict[str, torch.Tensor]:
    read = tflite.read(path, device="cpu", profiles=(PROFILE,), notes={"ids": "int32"})
    return dict(read(*batch.tensors()))


def model_in(path: Path) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))


def operators(path: Path) -> list[tuple[str, list[Any], list[Any]]]:
    """Every operator: its name, the tensors that it reads, the tensors that it makes."""
    from ai_edge_litert import schema_py_generated as schema

    model = model_in(path)
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    tensors = model.subgraphs[0].tensors
    return [
        (
            names[model.operatorCodes[operator.opcodeIndex].builtinCode],
            [tensors[index] for index in operator.inputs if index >= 0],
            [tensors[index] for index in operator.outputs],
        )
        for operator in model.subgraphs[0].operators
    ]


INT8 = 9  # of the schema's TensorType


@either
def test_each_weight_is_int8_and_once_in_the_file(activations: str, tmp_path: Path) -> None:
    program = quantized("base", parts=ALL_PARTS)
    write(program, tmp_path / "e.tflite", activations=activations)
    weights = {name: tensor for name, tensor in program.state_dict.items() if tensor.dtype == torch.int8}
    buffers = Counter(
        bytes(buffer.data) for buffer in model_in(tmp_path / "e.tflite").buffers if buffer.data is not None
    )
    assert {name: buffers[tensor.numpy().tobytes()] for name, tensor in weights.items()} == dict.fromkeys(weights, 1)
    assert tflite.stored_weight_bytes(tmp_path / "e.tflite", {}) <= 1.02 * distinct_weight_bytes(program)


def test_static_keeps_the_scale_of_every_tensor_and_pass() -> None:
    found = [out[0].quantization.scale for kind, _, out in operators(engine_file("static")) if kind == "QUANTIZE"]
    amax = scales_of("base").amax
    places = [f"{LAYER}.{name}.input" for name in ("attention", "attention.dense", "ffn", "ffn_output")]
    expected = [amax[place][index] / 127 for index in range(PASSES) for place in places]
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-6)
    assert len({round(scale, 9) for scale in expected}) == len(expected)  # or passes could be swapped unseen


def test_static_reads_rounded_inputs_and_dynamic_leaves_the_rounding_to_litert() -> None:
    dynamic, static = operators(engine_file("dynamic")), operators(engine_file("static"))
    int8_weights = [read[1] for kind, read, _ in dynamic if kind == "FULLY_CONNECTED" and read[1].type == INT8]
    assert len(int8_weights) == 6 * PASSES
    assert all(len(weight.quantization.scale) == weight.shape[0] for weight in int8_weights)
    assert not {"QUANTIZE", "DEQUANTIZE"} & {kind for kind, _, _ in dynamic}
    pairs = Counter(kind for kind, _, _ in static)
    assert pairs["QUANTIZE"] == 4 * PASSES
    assert pairs["DEQUANTIZE"] == 4 * PASSES + 6  # of each weight once, for all passes


@pytest.mark.parametrize(
    "settings",
    [
        {"head": "masked-lm", "parts": ALL_PARTS},
        {"head": "base", "attention": "eager", "parts": ("encoder", "attention")},
        {"head": "base", "keep": ("ffn_output.input@5", "attention.input@0")},
        {"head": "multiple-choice"},
        {},
    ],
    ids=["tied decoder", "attention", "kept passes", "choices", "smoothed and kept"],
)
@either
def test_the_numbers_are_those_of_the_program(activations: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """What LiteRT rounds by rows may be nearer to float32 than the program is; both stay within the same error."""
    program = quantized(**settings) if settings else smoothed_and_kept()
    exact = exact_program(settings.get("head", "base"), settings.get("attention", "sdpa"))
    write(program, tmp_path / "e.tflite", activations=activations)
    batch = batches(settings.get("head", "base"))[1]
    found, expected, truth = run(tmp_path / "e.tflite", batch), answers_of(program, batch), answers_of(exact, batch)
    for name, tensor in expected.items():
        error = float((tensor - truth[name]).abs().mean())
        assert float((found[name] - truth[name]).abs().mean()) <= 1.5 * error
        assert float((found[name] - tensor).abs().mean()) <= (2 if activations == "dynamic" else 0.5) * error


def test_a_word_table_that_is_the_decoder_too_is_stored_once(tmp_path: Path) -> None:
    program = quantized("masked-lm", parts=ALL_PARTS)
    write(program, tmp_path / "e.tflite")
    found = operators(tmp_path / "e.tflite")
    lookups = {read[0].buffer for kind, read, _ in found if kind == "GATHER" and read[0].type == INT8}
    decoders = {read[1].buffer for kind, read, _ in found if kind == "FULLY_CONNECTED" and read[1].shape[0] == 97}
    assert lookups == decoders and len(lookups) == 1


def test_a_pass_that_was_kept_reads_its_input_unrounded_and_the_shared_int8_weight(tmp_path: Path) -> None:
    write(quantized("base", keep=("ffn_output.input@5",)), tmp_path / "e.tflite")
    found = operators(tmp_path / "e.tflite")
    (exact,) = [(read[0], out[0]) for kind, read, out in found if kind == "DEQUANTIZE"]
    assert exact[0].type == INT8
    readers = [read for kind, read, _ in found if kind == "FULLY_CONNECTED" and read[1] is exact[1]]
    assert len(readers) == 1
    shared = [read for kind, read, _ in found if kind == "FULLY_CONNECTED" and read[1] is exact[0]]
    assert len(shared) == PASSES - 1


@either
def test_the_manifest_says_what_rounds_activations_and_a_process_without_torch_runs_the_file(
    activations: str, tmp_path: Path
) -> None:
    path = engine_file(activations)
    assert read_manifest(path).notes["activations"] == activations
    batch = batch_of(2, 9)
    in_a_process_without_torch(f"""
sys.modules['tensorflow'] = None
from ai_edge_litert.interpreter import Interpreter
run = Interpreter({str(path)!r}).get_signature_runner("serving_default")
assert sorted(run.get_input_details()) == ["attention_mask", "input_ids", "token_type_ids"]
inputs = dict(np.load({str(saved(batch, tmp_path))!r}))
np.savez({str(tmp_path / "answers.npz")!r}, **run(**{{key: value.astype(np.int32) for key, value in inputs.items()}}))
""")
    found = np.load(tmp_path / "answers.npz")
    for name, tensor in load(path)(batch).items():
        np.testing.assert_allclose(found[name], tensor, atol=1e-5, rtol=0)


def test_a_rest_in_16_bits_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rest of this int8 graph is bfloat16, LiteRT computes in float32; take rest"):
        write(quantized("base", rest="bf16"), tmp_path / "e.tflite")


def test_the_option_is_of_int8_graphs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="activations is of int8 graphs, and this one is float32; leave it out"):
        build_small(tmp_path / "e.tflite", format="tflite", options={"activations": "static"})
    with pytest.raises(ValueError, match="option activations is 'int4', expected one of dynamic, static"):
        write(quantized("base"), tmp_path / "e.tflite", activations="int4")


# -- the embedded model --------------------------------------------------------------------------------------------


@cache
def classifier() -> tuple[Any, list[Batch], list[torch.Tensor]]:
    """The embedded classifier as an int8 program, 300 held-out glosses, and what float32 says to them."""
    name = "albert-fast/wordnet"
    model, tokenizer = AlbertForSequenceClassification.from_pretrained(name), AlbertTokenizer.from_pretrained(name)

    def in_batches(texts: list[str]) -> list[Batch]:
        rows = [texts[start : start + 30] for start in range(0, len(texts), 30)]
        return [tokenizer(row, padding=True, truncation=True, max_length=128).batch() for row in rows]

    calibration = Path(__file__).parents[1] / "albert_fast/embedded/wordnet/calibration.txt"
    exact = capture(model, PROFILE_OF_TEXTS)
    scales = collect(exact, in_batches(calibration.read_text(encoding="utf-8").splitlines()[:128])).scales("percentile")
    program = prepare(exact, "int8", quantization=Quantization(scales))
    lines = (DATA / "wordnet_heldout.tsv").read_text(encoding="utf-8").splitlines()
    texts = in_batches([line.split("\t")[2] for line in lines][:300])
    with torch.inference_mode():
        return program, texts, [model(*batch.tensors()).logits for batch in texts]


PROFILE_OF_TEXTS = dataclasses.replace(PROFILE, max_batch=32, opt_batch=8, max_length=128, opt_length=32)


@pytest.mark.slow
@either
def test_the_embedded_classifier_agrees_with_float32_on_held_out_text(activations: str, tmp_path: Path) -> None:
    program, texts, expected = classifier()
    write(program, tmp_path / "e.tflite", activations=activations)
    read = tflite.read(tmp_path / "e.tflite", device="cpu", profiles=(PROFILE_OF_TEXTS,), notes={"ids": "int32"})
    same = [
        read(*batch.tensors())["logits"].argmax(-1) == logits.argmax(-1)
        for batch, logits in zip(texts, expected, strict=True)
    ]
    agreement = float(torch.cat(same).float().mean())
    assert torch.cat(same).numel() == 300
    assert agreement >= 0.97
