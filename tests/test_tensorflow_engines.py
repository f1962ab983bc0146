"""What is particular to the formats saved_model and tflite: dtypes, sizes, signatures, processes without torch."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_samples import (
    PROFILE,
    batch_of,
    build_small,
    eager_answers,
    engine_file,
    engine_of,
    facts,
    references,
    small_config,
    small_model,
    small_program,
)
from tensorflow_engine_samples import in_a_process_without_torch, saved
from tensorflow_samples import tf

from albert_fast.capture import capture
from albert_fast.config import ACTIVATION_NAMES
from albert_fast.engine import FORMATS, build, load, read_manifest, saved_model, tensorflow_ops, tflite
from albert_fast.errors import EngineError
from albert_fast.heads import HEADS
from albert_fast.precision import PRECISIONS, prepare

_no_litert = FORMATS["tflite"].missing()
needs_litert = pytest.mark.skipif(_no_litert is not None, reason=_no_litert or "")
both = pytest.mark.parametrize("format", ["saved_model", pytest.param("tflite", marks=needs_litert)])


# -- both formats --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ACTIVATION_NAMES)
@both
def test_every_activation_has_a_row_and_a_kernel(format: str, act: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = HEADS["base"].model_class(small_config(hidden_act=act, num_hidden_layers=2)).eval()
    path = tmp_path / f"engine{FORMATS[format].suffix}"
    build(
        capture(model, PROFILE), path, format=format, facts=facts(model), references=references(model),
        budget=PRECISIONS["fp32"].budget,
    )  # fmt: skip
    assert load(path).format == format


@both
def test_the_file_holds_each_weight_once(format: str) -> None:
    manifest = read_manifest(engine_file(format))
    assert manifest.stored_weight_bytes <= 1.02 * manifest.weight_bytes
    assert manifest.file_bytes <= manifest.weight_bytes + 60_000  # the graph of six passes


@both
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_trained_layer_norms_do_not_make_copies_of_weights(format: str, precision: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = HEADS["masked-lm"].model_class(small_config(vocab_size=4000, embedding_size=32)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # 1 and 0, as they start, can be folded into anything unseen
            parameter.add_(torch.randn_like(parameter) * 0.05)
    text_only = batch_of(1, 9)
    manifest = build(
        prepare(capture(model, PROFILE), precision), tmp_path / f"engine{FORMATS[format].suffix}", format=format,
        facts=facts(model), references=[(text_only, eager_answers(model, text_only))],
        budget=PRECISIONS[precision].budget,
    )  # fmt: skip
    assert manifest.stored_weight_bytes <= 1.03 * manifest.weight_bytes


@both
@pytest.mark.parametrize("ids", ["int32", "int64"])
def test_ids_may_be_of_either_dtype(format: str, ids: str, tmp_path: Path) -> None:
    path = tmp_path / f"engine{FORMATS[format].suffix}"
    build_small(path, format=format, options={"ids": ids})
    assert read_manifest(path).notes["ids"] == ids
    batch = batch_of(2, 9)
    torch.testing.assert_close(load(path)(batch), engine_of(format)(batch), atol=1e-6, rtol=0)


@both
def test_wrong_options_are_refused_before_any_work(format: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="option ids is 'int8', expected one of int64, int32"):
        build_small(tmp_path / f"engine{FORMATS[format].suffix}", format=format, options={"ids": "int8"})


@both
def test_half_precision_weights_take_half_the_room(format: str, tmp_path: Path) -> None:
    model = small_model("base")
    path = tmp_path / f"half{FORMATS[format].suffix}"
    text_only = [(batch, eager_answers(model, batch)) for batch in (batch_of(1, 9), batch_of(1, 5))]
    manifest = build(
        prepare(small_program("base"), "fp16"), path, format=format, facts=facts(model), references=text_only,
        budget=PRECISIONS["fp16"].budget,
    )  # fmt: skip
    assert manifest.stored_weight_bytes <= 0.6 * read_manifest(engine_file(format, "base")).stored_weight_bytes
    assert load(path)(batch_of(1, 9))["last_hidden_state"].dtype == torch.float32


@both
def test_weights_beyond_one_protocol_buffer_are_refused(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_model, "LARGEST_BYTES", 1000)
    with pytest.raises(EngineError, match=r"holds at most 1000; choose a smaller precision"):
        build_small(tmp_path / f"engine{FORMATS[format].suffix}", format=format)
    assert list(tmp_path.iterdir()) == []


# -- saved_model ---------------------------------------------------------------------------------------------------


def test_a_saved_model_is_served_from_a_folder_without_torch(tmp_path: Path) -> None:
    (tmp_path / "albert/1").mkdir(parents=True)
    shutil.copy(engine_file("saved_model"), tmp_path / "albert/1/saved_model.pb")
    batch = batch_of(2, 9)
    program = f"""
import tensorflow as tf
loaded = tf.saved_model.load({str(tmp_path / "albert/1")!r})
inputs = dict(np.load({str(saved(batch, tmp_path))!r}))
answers = {{}}
for name, dtype in (("int32", tf.int32), ("int64", tf.int64), ("serving_default", tf.int64)):
    out = loaded.signatures[name](**{{key: tf.constant(value, dtype) for key, value in inputs.items()}})
    answers[name] = out["prediction_logits"].numpy()
np.savez({str(tmp_path / "answers.npz")!r}, **answers)
"""
    in_a_process_without_torch(program)
    expected = eager_answers(small_model(), batch)["prediction_logits"]
    found = np.load(tmp_path / "answers.npz")
    assert sorted(found) == ["int32", "int64", "serving_default"]
    for name in found:
        np.testing.assert_allclose(found[name], expected, atol=2e-4, rtol=0, err_msg=name)


def test_xla_compiles_the_loaded_graph_and_answers_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_small(tmp_path / "engine.pb", format="saved_model", options={"xla": "yes", "ids": "int32"})
    asked, function = [], tf.function
    monkeypatch.setattr(tf, "function", lambda *given, **how: asked.append(how) or function(*given, **how))
    engine = load(tmp_path / "engine.pb")
    assert asked == [{"jit_compile": True}]
    assert read_manifest(tmp_path / "engine.pb").notes["xla"] == "yes"
    for shape in ((2, 9), (1, 1), (4, 48)):
        batch = batch_of(*shape)
        torch.testing.assert_close(engine(batch), engine_of("saved_model")(batch), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="option xla is 'maybe', expected one of no, yes"):
        build_small(tmp_path / "engine.pb", format="saved_model", options={"xla": "maybe"})


def test_what_tensorflow_cannot_load_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "engine.pb").write_bytes(b"no protocol buffer")
    with pytest.raises(EngineError, match=r"TensorFlow .* cannot load .*engine\.pb: .*; export it anew"):
        saved_model.read(tmp_path / "engine.pb", device="cpu", profiles=(PROFILE,), notes={"xla": "no"})


def test_a_saved_model_needs_tensorflow_and_says_so() -> None:
    (package,) = read_manifest(engine_file("saved_model")).requires.packages
    assert (package.name, package.rule) == ("tensorflow-cpu or tensorflow", "at least")


# -- tflite --------------------------------------------------------------------------------------------------------


@needs_litert
@pytest.mark.parametrize("shape", [(2, 9), (1, 1), (4, 48)])
def test_a_tflite_file_runs_where_there_is_only_litert(shape: tuple[int, int], tmp_path: Path) -> None:
    batch = batch_of(*shape)
    program = f"""
sys.modules['tensorflow'] = None
from ai_edge_litert.interpreter import Interpreter
run = Interpreter({str(engine_file("tflite"))!r}).get_signature_runner("serving_default")
inputs = dict(np.load({str(saved(batch, tmp_path))!r}))
np.savez({str(tmp_path / "answers.npz")!r}, **run(**{{key: value.astype(np.int32) for key, value in inputs.items()}}))
"""
    in_a_process_without_torch(program)
    found = np.load(tmp_path / "answers.npz")
    for name, expected in eager_answers(small_model(), batch).items():
        np.testing.assert_allclose(found[name], expected, atol=2e-4, rtol=0, err_msg=name)


@needs_litert
def test_litert_runs_activations_and_linear_maps_as_its_own_operators() -> None:
    interpreter: Any = tflite._require_runtime().Interpreter(model_path=str(engine_file("tflite", "base")))
    kinds = Counter(row["op_name"] for row in interpreter._get_ops_details())
    assert kinds["FULLY_CONNECTED"] == 6 * 6 + 2
    assert kinds["GELU"] == 6
    assert not any(name.startswith("Flex") for name in kinds)


@needs_litert
def test_weights_that_lie_behind_the_graph_are_counted_too(tmp_path: Path) -> None:
    flatbuffers = pytest.importorskip("flatbuffers")
    from ai_edge_litert import schema_py_generated as schema

    def tensor(buffer: int) -> Any:
        made = schema.TensorT()
        made.buffer = buffer
        return made

    model, graph, inside, behind, unused = (
        schema.ModelT(), schema.SubGraphT(), schema.BufferT(), schema.BufferT(), schema.BufferT()
    )  # fmt: skip
    inside.data, behind.offset, behind.size, unused.data = np.zeros(10, np.uint8), 4096, 700, np.zeros(30, np.uint8)
    model.buffers, model.subgraphs = [schema.BufferT(), inside, behind, unused], [graph]
    graph.tensors = [tensor(1), tensor(2), tensor(2), tensor(0)]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    (tmp_path / "engine.tflite").write_bytes(builder.Output())
    assert tflite.stored_weight_bytes(tmp_path / "engine.tflite", {}) == 710


@needs_litert
def test_an_op_that_litert_lacks_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {**tensorflow_ops.ROWS, torch.ops.aten.gelu.default: lambda tf, x, **_: tf.math.bessel_i0e(x)}
    monkeypatch.setattr(tensorflow_ops, "ROWS", rows)
    with pytest.raises(
        EngineError, match=r"LiteRT cannot hold this graph: .*BesselI0e.*; choose the format saved_model"
    ):
        build_small(tmp_path / "engine.tflite", format="tflite", head="base")
    assert list(tmp_path.iterdir()) == []


@needs_litert
def test_what_litert_cannot_load_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "engine.tflite").write_bytes(b"no flatbuffer, but long enough to look into")
    with pytest.raises(EngineError, match=r"LiteRT cannot load .*engine\.tflite: .*; export it anew"):
        tflite.read(tmp_path / "engine.tflite", device="cpu", profiles=(PROFILE,), notes={"ids": "int32"})


@needs_litert
def test_bfloat16_is_refused_in_words(tmp_path: Path) -> None:
    model = small_model("base")
    with pytest.raises(ValueError, match="LiteRT has no bfloat16 kernels; choose fp32 or fp16"):
        build(
            prepare(small_program("base"), "bf16"), tmp_path / "engine.tflite", format="tflite", facts=facts(model),
            references=references(model), budget=PRECISIONS["bf16"].budget,
        )  # fmt: skip
