"""The ONNX graph: every weight once, clean names, all heads and dtypes, data beside the file, the fused form."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_samples import (
    BUDGET,
    PROFILE,
    batch_of,
    build_small,
    differ,
    eager_answers,
    engine_file,
    facts,
    references,
    small_config,
    small_model,
    small_program,
)

from albert_fast.batch import ShapeProfile
from albert_fast.capture import capture
from albert_fast.config import AlbertConfig
from albert_fast.engine import (
    FORMATS,
    build,
    inspect,
    load,
    onnx_file,
    onnx_format,
    onnx_fused,
    onnx_graph,
    read_manifest,
    signature,
)
from albert_fast.errors import EngineError
from albert_fast.heads import HEADS, AlbertForMaskedLM
from albert_fast.precision import PRECISIONS, prepare

onnx, _, onnxruntime = (
    pytest.importorskip(package, reason=FORMATS["onnx"].missing()) for package in FORMATS["onnx"].imports
)

every_head = pytest.mark.parametrize("head", HEADS)


@cache
def graph_of(head: str = "pretraining", ids: str = "int64") -> Any:
    return onnx_graph.to_onnx(small_program(head), ids=ids)


def constants(model: Any) -> dict[str, int]:
    return {tensor.name: onnx_file.tensor_bytes(tensor) for tensor in onnx_file.tensors(model.graph)}


def operators(model: Any) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def shape_of(value: Any) -> list[str | int]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


def shape_for(head: str) -> tuple[int, ...]:
    return (3, 9) if HEADS[head].ids_rank == 2 else (3, 2, 9)


@every_head
def test_the_graph_holds_every_weight_once(head: str) -> None:
    small = 8 * 40  # the numbers that shapes are made of
    assert sum(constants(graph_of(head)).values()) <= signature.distinct_weight_bytes(small_program(head)) + small


@every_head
def test_the_graph_is_valid_and_calls_things_by_their_names(head: str) -> None:
    model, choices = graph_of(head), ["choices"] * (HEADS[head].ids_rank - 2)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [shape_of(value) for value in model.graph.input] == [["batch", *choices, "length"]] * 3
    assert [value.name for value in model.graph.output] == list(HEADS[head].outputs)
    named = {size for value in model.graph.output for size in shape_of(value) if isinstance(size, str)}
    assert named <= {"batch", *choices, "length"}


@every_head
@pytest.mark.parametrize(("ids", "fused"), [("int64", "no"), ("int32", "yes")])
def test_every_head_answers_like_eager_in_either_form(head: str, ids: str, fused: str, tmp_path: Path) -> None:
    options = {"ids": ids, "fused": fused}
    manifest = build_small(tmp_path / "e.onnx", format="onnx", head=head, options=options)
    assert manifest.notes["ids"] == ids and manifest.notes["fused"]["chosen"] == fused
    element = {"int64": 7, "int32": 6}[ids]
    model = onnx.load(tmp_path / "e.onnx")
    assert [value.type.tensor_type.elem_type for value in model.graph.input] == [element] * 3
    engine = load(tmp_path / "e.onnx")
    for length in (9, 1, 48):
        batch = batch_of(*shape_for(head)[:-1], length)
        assert differ(engine(batch), eager_answers(small_model(head), batch)) <= BUDGET.max_abs


def test_a_shared_weight_is_transposed_once_and_the_tied_table_in_the_graph() -> None:
    names = constants(graph_of("masked-lm"))
    layer = "albert.encoder.albert_layer_groups.0.albert_layers.0"
    assert f"{layer}.ffn.weight.T" in names and f"{layer}.ffn.weight" not in names
    assert "albert.embeddings.word_embeddings.weight" in names
    transposed = [node.input[0] for node in graph_of("masked-lm").graph.node if node.op_type == "Transpose"]
    assert transposed.count("albert.embeddings.word_embeddings.weight") == 1


def test_a_pass_costs_few_operators_and_no_arithmetic_on_shapes() -> None:
    def deeper(passes: int) -> Counter[str]:
        model = AlbertForMaskedLM(small_config(num_hidden_layers=passes)).eval()
        return operators(onnx_graph.to_onnx(capture(model, PROFILE)))

    one_pass = deeper(3) - deeper(2)
    assert one_pass == Counter(MatMul=8, Add=9, Transpose=4, Reshape=4, LayerNormalization=2, Mul=1, Softmax=1, Gelu=1)


def test_the_graph_tells_nothing_of_the_machine_that_wrote_it() -> None:
    text = graph_of().SerializeToString()
    assert str(Path(torch.__file__).parents[1]).encode() not in text
    assert str(Path(__file__).parents[1]).encode() not in text


def test_writing_is_silent(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    program = capture(small_model("masked-lm"), PROFILE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        onnx_graph.to_onnx(program)
    written = capfd.readouterr()
    assert (written.out, written.err) == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert logging.getLogger("torch.onnx._internal.exporter._registration").filters == []


def test_static_profiles_make_static_graphs(tmp_path: Path) -> None:
    model, profile = small_model("multiple-choice"), ShapeProfile.parse("2x9")
    answers = references(model)
    for fused in ("no", "yes"):
        build(
            capture(model, profile), tmp_path / "e.onnx", format="onnx", facts=facts(model, profile),
            references=answers, budget=BUDGET, options={"fused": fused},
        )  # fmt: skip
        assert differ(load(tmp_path / "e.onnx")(answers[0][0]), answers[0][1]) <= BUDGET.max_abs
    assert shape_of(onnx.load(tmp_path / "e.onnx").graph.input[0]) == [2, "choices", 9]


def test_the_manifest_lies_in_the_file_as_well(tmp_path: Path) -> None:
    path = engine_file("onnx")
    bare = tmp_path / "bare.onnx"
    bare.write_bytes(path.read_bytes())
    text = onnx_file.read_embedded(bare)
    assert text is not None
    within, beside = type(read_manifest(path)).from_json(text), read_manifest(path)
    assert (within.head, within.labels, within.config) == (beside.head, beside.labels, beside.config)
    session = onnxruntime.InferenceSession(str(bare), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {onnx_file.MANIFEST_KEY: text}


def test_a_graph_without_a_manifest_says_so_and_a_later_one_replaces_an_earlier(tmp_path: Path) -> None:
    onnx_file.save(graph_of(), tmp_path / "e.onnx")
    assert onnx_file.read_embedded(tmp_path / "e.onnx") is None
    for text in ("{}", '{"a": "ä"}'):
        onnx_file.embed(tmp_path / "e.onnx", text)
        assert onnx_file.read_embedded(tmp_path / "e.onnx") == text


def test_large_weights_go_beside_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnx_file, "EXTERNAL_FROM_BYTES", 100_000)
    manifest = build_small(tmp_path / "e.onnx", format="onnx")
    assert [one.name for one in manifest.companions] == ["e.onnx.data"]
    assert (tmp_path / "e.onnx").stat().st_size < 60_000 < (tmp_path / "e.onnx.data").stat().st_size
    assert manifest.stored_weight_bytes == sum(constants(graph_of()).values())
    batch = batch_of(3, 9)
    assert differ(load(tmp_path / "e.onnx")(batch), eager_answers(small_model(), batch)) <= BUDGET.max_abs
    assert onnx_file.read_embedded(tmp_path / "e.onnx") is not None
    (tmp_path / "e.onnx.data").unlink()
    with pytest.raises(EngineError, match=r"e\.onnx\.data"):
        load(tmp_path / "e.onnx")


def test_saving_beside_the_file_leaves_the_graph_in_memory_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = graph_of().SerializeToString(deterministic=True)
    monkeypatch.setattr(onnx_file, "EXTERNAL_FROM_BYTES", 0)
    onnx_file.save(graph_of(), tmp_path / "e.onnx")
    assert graph_of().SerializeToString(deterministic=True) == before
    assert onnx_file.stored_bytes(tmp_path / "e.onnx") == sum(constants(graph_of()).values())


def test_the_fused_form_has_one_operator_for_attention_and_stores_nothing_twice() -> None:
    fused, count = onnx_fused.fuse(graph_of())
    found = operators(fused)
    assert found["MultiHeadAttention"] == 6 and found["SkipLayerNormalization"] == 12 and count == 18
    assert found["Softmax"] == 0 and found["Expand"] == 1
    assert sum(constants(fused).values()) <= sum(constants(graph_of()).values())
    assert operators(graph_of())["Softmax"] == 6  # left as it was


def test_the_requirements_follow_the_form() -> None:
    def needed(**options: str) -> list[tuple[str, str, str]]:
        packages = onnx_format.requirements("cpu", options).packages
        return [(package.name, package.version, package.rule) for package in packages]

    either = "onnxruntime or onnxruntime-gpu"
    assert needed() == needed(fused="no") == [(either, "1.18.0", "at least")]
    assert needed(fused="yes") == needed(fused="auto") == [(either, "1.21.0", "at least")]


@pytest.mark.parametrize(("ratio", "chosen"), [(1.3, "yes"), (1.01, "no"), (0.9, "no")])
def test_auto_takes_the_fused_form_where_it_is_faster(
    ratio: float, chosen: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(onnx_format, "measure_speedup", lambda *_, **__: ratio)
    manifest = build_small(tmp_path / "e.onnx", format="onnx", options={"fused": "auto"})
    assert manifest.notes["fused"] == {"chosen": chosen, "ratio": ratio, "asked": "auto"}
    assert (operators(onnx.load(tmp_path / "e.onnx"))["MultiHeadAttention"] > 0) == (chosen == "yes")


@pytest.mark.parametrize("head", ["pretraining", "multiple-choice"])
def test_the_speed_of_both_forms_is_measured(head: str, tmp_path: Path) -> None:
    plain = graph_of(head)
    fused, _ = onnx_fused.fuse(plain)
    assert 0.05 < onnx_format.measure_speedup(plain, fused, tmp_path, device="cpu", profile=PROFILE) < 20
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ids": "int16"}, "the option ids is 'int16', expected one of int64, int32"),
        ({"fused": True}, "the option fused is True, expected one of auto, no, yes"),
        ({"opset": 20}, "takes the options ids, fused, activations, found opset"),
    ],
)
def test_wrong_options_are_refused_before_any_work(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(onnx_format, "to_onnx", lambda *_, **__: pytest.fail("translated"))
    with pytest.raises(ValueError, match=message):
        build_small(tmp_path / "e.onnx", format="onnx", options=options)


def test_bfloat16_on_cpu_is_an_empty_cell_with_a_reason(tmp_path: Path) -> None:
    program = prepare(small_program(), "bf16")
    with pytest.raises(ValueError, match="no bfloat16 kernels for the CPU; choose fp32 or fp16"):
        build(
            program, tmp_path / "e.onnx", format="onnx", facts=facts(small_model()),
            references=references(small_model()), budget=PRECISIONS["bf16"].budget,
        )  # fmt: skip


@pytest.mark.parametrize("fused", ["no", "yes"])
def test_a_float16_engine_answers_like_its_program(fused: str, tmp_path: Path) -> None:
    model = AlbertForMaskedLM(small_config(initializer_range=0.05)).eval()
    program, batch = prepare(capture(model, PROFILE), "fp16"), batch_of(2, 9)
    with torch.inference_mode():
        expected = program.module()(*batch.tensors())
    manifest = build(
        program, tmp_path / "e.onnx", format="onnx", facts=facts(model), references=[(batch, expected)],
        budget=PRECISIONS["fp16"].budget, options={"fused": fused},
    )  # fmt: skip
    assert manifest.stored_weight_bytes < 0.6 * sum(constants(graph_of("masked-lm")).values())
    assert differ(load(tmp_path / "e.onnx")(batch), expected) <= 0.005


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "most_bytes"),
    [
        (AlbertConfig.published("albert-base-v2"), 50_000_000),
        (AlbertConfig.published("albert-large-v2"), 75_000_000),
        # xlarge's shape, a quarter of its width: 24 passes, 16 heads
        (AlbertConfig.published("albert-xlarge-v2").replace(hidden_size=512, intermediate_size=2048), 32_000_000),
    ],
    ids=["base", "large", "slim-xlarge"],
)
def test_a_published_size_takes_one_copy_of_its_weights(config: AlbertConfig, most_bytes: int, tmp_path: Path) -> None:
    model, profile = AlbertForMaskedLM(config).eval(), ShapeProfile(1, 8, 32, 1, 128, 512)
    batch = batch_of(2, 7, vocab_size=config.vocab_size)
    expected = eager_answers(model, batch)
    build(
        capture(model, profile), tmp_path / "e.onnx", format="onnx", facts=facts(model, profile),
        references=[(batch, expected)], budget=BUDGET,
    )  # fmt: skip
    found = inspect(tmp_path / "e.onnx")
    assert found["stored_weight_bytes"] <= found["weight_bytes"] + 1000
    assert found["file_bytes"] <= found["weight_bytes"] + 100_000 <= most_bytes
    assert differ(load(tmp_path / "e.onnx")(batch), expected) <= BUDGET.max_abs
