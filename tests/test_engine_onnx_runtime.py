"""ONNX Runtime: exactly the device asked for, damaged and newer files, and the stand-in for other runtimes' graphs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
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
    small_config,
    small_model,
    small_program,
)

from albert_fast.capture import capture
from albert_fast.engine import FORMATS, load, onnx_bfloat16, onnx_file, onnx_graph, onnx_runtime
from albert_fast.errors import EngineError
from albert_fast.heads import AlbertForMaskedLM
from albert_fast.precision import prepare

onnx, _, onnxruntime = (
    pytest.importorskip(package, reason=FORMATS["onnx"].missing()) for package in FORMATS["onnx"].imports
)


def test_a_session_takes_the_threads_that_torch_has_and_only_the_cpu(restored_threads: None) -> None:
    torch.set_num_threads(3)
    session = onnx_runtime.open_session(engine_file("onnx"), device="cpu")
    assert session.get_session_options().intra_op_num_threads == 3
    assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_cuda_device_without_its_provider_is_refused_with_the_command(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("needs an onnxruntime without CUDA, and this one has it")
    with pytest.raises(EngineError, match=r"needs ONNX Runtime's CUDAExecutionProvider.*pip install onnxruntime-gpu"):
        onnx_runtime.open_session(engine_file("onnx"), device="cuda:1")


def test_a_session_that_fell_back_to_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def fallen_back(path: str, options: Any, **settings: Any) -> Any:
        asked.update(settings)
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", fallen_back)
    with pytest.raises(EngineError, match="did not start CUDAExecutionProvider, it offers CPUExecutionProvider"):
        onnx_runtime.open_session(engine_file("onnx"), device="cuda:1")
    assert asked["providers"] == [("CUDAExecutionProvider", {"device_id": 1, "use_tf32": 0})]
    assert asked["enable_fallback"] == 0


def changed_graph(**changes: Any) -> Any:
    model = onnx_graph.to_onnx(small_program("masked-lm"))
    for name, value in changes.items():
        setattr(model, name, value)
    return model


def unknown_operator() -> Any:
    model = changed_graph()
    model.graph.node[3].op_type = "Sorcery"
    return model


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: b"not an ONNX file", "cannot load .*Protobuf parsing failed; copy it again, export it anew"),
        (lambda: changed_graph().SerializeToString()[:-5000], "Protobuf parsing failed"),
        (
            lambda: changed_graph(ir_version=99).SerializeToString(),
            "IR version: 99.*newer onnxruntime",
        ),
        (lambda: unknown_operator().SerializeToString(), "Sorcery"),
    ],
    ids=["text", "truncated", "newer", "unknown operator"],
)
def test_a_file_that_cannot_be_loaded_gives_one_sentence(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "e.onnx"
    path.write_bytes(content())
    with pytest.raises(EngineError, match=message) as caught:
        onnx_runtime.open_session(path, device="cpu")
    assert "\n" not in str(caught.value) and "onnxruntime_src" not in str(caught.value)


@pytest.mark.parametrize("content", [b"not an ONNX file", None])
def test_metadata_of_what_is_no_onnx_file_gives_one_error(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "e.onnx"
    if content is not None:
        path.write_bytes(content)
    for read in (onnx_file.read_embedded, onnx_file.stored_bytes):
        with pytest.raises(EngineError, match=r"e\.onnx (cannot be read|is no ONNX file)"):
            read(path)


def test_what_goes_wrong_in_a_call_is_an_engine_error() -> None:
    run = onnx_runtime.run_of(onnx_runtime.open_session(engine_file("onnx"), device="cpu"), device="cpu")
    ids = torch.full((1, 4), 10**6)
    with pytest.raises(EngineError, match="ONNX Runtime cannot run the graph"):
        run(ids, torch.ones_like(ids), torch.zeros_like(ids))


def test_a_run_reads_views_and_writes_tensors_of_its_own() -> None:
    run = onnx_runtime.run_of(onnx_runtime.open_session(engine_file("onnx"), device="cpu"), device="cpu")
    batch = batch_of(3, 9)
    views = [tensor.t().contiguous().t() for tensor in batch.tensors()]
    assert not views[0].is_contiguous()
    answers = [run(*views), run(*views)]
    for answer in answers:
        assert differ(answer, eager_answers(small_model(), batch)) <= BUDGET.max_abs
    assert answers[0]["sop_logits"].data_ptr() != answers[1]["sop_logits"].data_ptr()


def test_the_stand_in_runs_a_graph_or_a_file_and_says_what_it_is(tmp_path: Path) -> None:
    batch, model = batch_of(3, 9), onnx_graph.to_onnx(small_program())
    onnx_file.save(model, tmp_path / "graph.onnx")
    for graph in (model, tmp_path / "graph.onnx", str(tmp_path / "graph.onnx")):
        run, words = onnx_runtime.stand_in(graph)
        assert words == "its ONNX graph, by ONNX Runtime on CPU"
        assert differ(run(*batch.tensors()), eager_answers(small_model(), batch)) <= BUDGET.max_abs


def test_the_stand_in_takes_data_beside_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnx_file, "EXTERNAL_FROM_BYTES", 0)
    onnx_file.save(onnx_graph.to_onnx(small_program()), tmp_path / "graph.onnx")
    batch = batch_of(3, 9)
    run, _ = onnx_runtime.stand_in(tmp_path / "graph.onnx")
    assert differ(run(*batch.tensors()), eager_answers(small_model(), batch)) <= BUDGET.max_abs


def test_a_bfloat16_stand_in_errs_as_much_as_bfloat16_does() -> None:
    model = AlbertForMaskedLM(small_config(initializer_range=0.05)).eval()
    program = prepare(capture(model, PROFILE), "bf16")
    graph = onnx_graph.to_onnx(program)
    run, words = onnx_runtime.stand_in(graph)
    assert words == "its ONNX graph, by ONNX Runtime on CPU, in float32 rounded to bfloat16 after every operator"
    batch = batch_of(4, 33)
    expected = eager_answers(model, batch)
    with torch.inference_mode():
        true_error = mean_error(program.module()(*batch.tensors()), expected)
    assert 0.85 * true_error < mean_error(run(*batch.tensors()), expected) < 1.15 * true_error


def mean_error(answers: Any, expected: Any) -> float:
    return float((answers["logits"] - expected["logits"]).abs().mean())


def test_emulating_bfloat16_leaves_no_operator_in_it() -> None:
    program = prepare(small_program("masked-lm"), "bf16")
    graph = onnx_graph.to_onnx(program)
    emulated = onnx_bfloat16.emulated(graph)
    assert onnx_bfloat16.is_in(graph) and not onnx_bfloat16.is_in(emulated)
    onnx.checker.check_model(emulated, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(emulated).graph.value_info
    narrow = {v.name for v in inferred if v.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16}
    assert narrow and all(name.endswith(":bfloat16") for name in narrow)
    readers = {node.op_type for node in emulated.graph.node if narrow & set(node.input)}
    assert readers == {"Cast"}


@pytest.mark.gpu
@pytest.mark.parametrize("fused", ["no", "yes", "auto"])
def test_a_file_runs_on_cuda_in_either_form(fused: str, tmp_path: Path) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu in the place of onnxruntime")
    build_small(tmp_path / "e.onnx", format="onnx", device="cuda", options={"fused": fused})
    engine = load(tmp_path / "e.onnx")
    assert engine.device == "cuda"
    for shape in ((2, 9), (1, 1), (4, 48)):
        batch = batch_of(*shape)
        assert differ(engine(batch), eager_answers(small_model(), batch)) <= 2e-3


@pytest.mark.gpu
def test_a_file_written_for_the_cpu_runs_on_cuda_too() -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu in the place of onnxruntime")
    batch = batch_of(2, 9)
    answers = load(engine_file("onnx"), device="cuda")(batch)
    assert answers["sop_logits"].device.type == "cuda"
    assert differ(answers, eager_answers(small_model(), batch)) <= 2e-3
