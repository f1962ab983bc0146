"""Building TensorRT engines, for real by TensorRT-RTX, which needs no GPU for it: weights once, profiles, errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_samples import PROFILE, small_program
from torch.export import ExportedProgram

from albert_fast.batch import ShapeProfile, parse_profiles
from albert_fast.capture import capture
from albert_fast.config import AlbertConfig
from albert_fast.engine import onnx_file, signature, tensorrt_build
from albert_fast.engine.tensorrt_log import Listeners, Record, listeners
from albert_fast.engine.tensorrt_modules import TENSORRT_RTX
from albert_fast.engine.tensorrt_options import Options
from albert_fast.engine.tensorrt_probe import probe
from albert_fast.errors import EngineError
from albert_fast.heads import HEADS
from albert_fast.precision import prepare

pytestmark = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx: pip install 'albert-fast[tensorrt-rtx]'"
)
CODE_BYTES_PER_PASS = 640_000
"""Kernels that TensorRT-RTX 1.7 writes for one pass and one profile."""
HEAD = "sequence-classification"
HEADS_BUILT = ("pretraining", "multiple-choice")
THREE_PROFILES = "1x1:1x8:1x16,1x1:2x8:4x16,1x8:2x8:4x48"


def module() -> Any:
    import tensorrt_rtx

    return tensorrt_rtx


@cache
def graph(head: str = HEAD, ids: str = "int64") -> Any:
    return tensorrt_build.graph_of(small_program(head), Options(ids=ids))


def build_graph(
    model: Any,
    path: Path,
    profiles: Sequence[ShapeProfile] = (PROFILE,),
    *,
    program: ExportedProgram | None = None,
    tell: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> dict[str, Any]:
    shapes = tensorrt_build.profile_shapes(program or small_program(HEAD), profiles)
    return tensorrt_build.build(
        TENSORRT_RTX, module(), model, path, device="cuda", shapes=shapes, options=Options(**options), tell=tell
    )


def base_program(precision: str) -> ExportedProgram:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = HEADS["sequence-classification"].model_class(AlbertConfig.published("albert-base-v2")).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # zeros would be stored once for all
                parameter.normal_(0, 0.1)
    return prepare(capture(model, ShapeProfile.parse("1x1:8x128:32x512")), precision)


def times_stored(engine: bytes, weight: np.ndarray) -> int:
    """How often a matrix is in an engine file, laid out by rows or by columns, alone or side by side with others."""
    return engine.count(weight[1].tobytes()) + engine.count(np.ascontiguousarray(weight[:, 1]).tobytes())


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "fused"), [("fp32", 0), ("fp16", 12), ("bf16", 12)])
def test_albert_base_is_built_with_each_weight_once_and_attention_fused_in_16_bits(
    precision: str, fused: int, tmp_path: Path
) -> None:
    program, path = base_program(precision), tmp_path / "base.engine"
    model = tensorrt_build.graph_of(program, Options())
    found = build_graph(model, path, [ShapeProfile.parse("1x1:8x128:32x512")], program=program)
    weights = signature.distinct_weight_bytes(program)
    assert found["weights_bytes"] == pytest.approx(weights, rel=0.01)
    assert path.stat().st_size <= 1.01 * weights + 12 * CODE_BYTES_PER_PASS
    assert found["fused_attention"] == fused
    dtype = {"fp32": "Float", "fp16": "Half", "bf16": "BFloat16"}[precision]
    assert found["layers_by_dtype"][dtype] >= found["layers"] - 5
    engine = path.read_bytes()
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 100_000:
            raw = np.frombuffer(tensor.raw_data, np.uint8).reshape(*tensor.dims, -1)
            assert times_stored(engine, raw) == 1, tensor.name


def test_profiles_share_the_weights_and_each_adds_its_kernels(tmp_path: Path) -> None:
    one = build_graph(graph(), tmp_path / "one.engine")
    three = build_graph(graph(), tmp_path / "three.engine", parse_profiles(THREE_PROFILES))
    weights = signature.distinct_weight_bytes(small_program(HEAD))
    assert max(one["weights_bytes"], three["weights_bytes"]) <= 1.1 * weights + 65_536
    assert len(three["activation_bytes"]) == 3
    assert 50 < 0.8 * one["layers"] <= three["layers"] <= 1.2 * one["layers"]  # of one profile
    assert (tmp_path / "three.engine").stat().st_size <= 3 * (weights + 6 * 1.3 * CODE_BYTES_PER_PASS)


@pytest.mark.parametrize("ids", ["int64", "int32"])
def test_the_same_graph_gives_the_same_bytes(ids: str, tmp_path: Path) -> None:
    """With one output. Two of them TensorRT-RTX 1.7 lists in the order of their addresses, which is chance."""
    for name in ("first", "second"):
        build_graph(graph(ids=ids), tmp_path / name, parse_profiles(THREE_PROFILES), ids=ids)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_multiple_choice_is_tuned_for_two_choices_and_takes_64(tmp_path: Path) -> None:
    program = small_program("multiple-choice")
    shapes = tensorrt_build.profile_shapes(program, [PROFILE])
    assert shapes == [((1, 1, 1), (2, 2, 8), (4, 64, 48))]
    found = build_graph(graph("multiple-choice"), tmp_path / "mc.engine", program=program)
    assert found["weights_bytes"] > 0


def test_a_graph_too_large_for_one_message_is_built_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_graph(graph(), tmp_path / "whole.engine")
    monkeypatch.setattr(onnx_file, "EXTERNAL_FROM_BYTES", 1000)
    build_graph(graph(), tmp_path / "parts.engine")
    assert (tmp_path / "parts.engine").read_bytes() == (tmp_path / "whole.engine").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts.engine", "whole.engine"]
    assert all(tensor.raw_data for tensor in graph().graph.initializer)


def test_the_named_gpu_kinds_change_the_engine(tmp_path: Path) -> None:
    build_graph(graph(), tmp_path / "default.engine")
    build_graph(graph(), tmp_path / "ada.engine", compute_capabilities=("8.9",))
    build_graph(graph(), tmp_path / "several.engine", compute_capabilities=("8.6", "8.9", "12.0"))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 3


def test_tf32_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = {}
    configure = tensorrt_build._configure

    def spied(flavour: Any, trt: Any, config: Any, options: Any) -> None:
        before = config.get_flag(trt.BuilderFlag.TF32)
        configure(flavour, trt, config, options)
        built["tf32"] = (before, config.get_flag(trt.BuilderFlag.TF32))

    monkeypatch.setattr(tensorrt_build, "_configure", spied)
    build_graph(graph(), tmp_path / "fp32.engine")
    assert built["tf32"] == (True, False)


def test_progress_says_which_step_of_how_many(tmp_path: Path) -> None:
    words: list[str] = []
    build_graph(graph(), tmp_path / "small.engine", tell=words.append)
    assert words[0] == "TensorRT-RTX: building engine, step 1 of 6: cloning network graph"
    assert 3 <= len(words) <= 10


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_tell_raises_stops_the_build_and_is_raised(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records: list[Record] = []
    build = Listeners.build

    @contextmanager
    def kept(self: Listeners) -> Iterator[Record]:
        with build(self) as record:
            records.append(record)
            yield record

    def tell(text: str) -> None:
        raise error("enough")

    monkeypatch.setattr(Listeners, "build", kept)
    with pytest.raises(error, match="enough"):
        build_graph(graph(), tmp_path / "stopped.engine", tell=tell)
    assert records[0].errors() == ["Error Code 7: BuildCanceled (Build canceled by user)"]
    assert not (tmp_path / "stopped.engine").exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tensorrt-build")]
    build_graph(graph(), tmp_path / "again.engine")  # the logger was given back


def onnx_graph_of(operator: str, *inputs: str, **initializers: np.ndarray) -> Any:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node(operator, list(inputs), ["y"], name=f"the_{operator.lower()}")
    x = helper.make_tensor_value_info("input_ids", TensorProto.FLOAT, ["batch", "length"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(value, name) for name, value in initializers.items()]
    made = helper.make_graph([node], "graph", [x], [y], constants)
    assert onnx.IR_VERSION >= 10
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: onnx_graph_of("Foo", "input_ids"), r"the node 'the_foo' \(Foo\): .*Plugin not found"),
        (
            lambda: onnx_graph_of("Add", "input_ids", "c", c=np.array(1, np.float16)),
            r"the node 'the_add' \(Add\): .*must have same input types. But they are of types Float and Half\.$",
        ),
    ],
)
def test_a_graph_that_tensorrt_cannot_read_is_told_by_its_node_in_one_line(
    model: Callable[[], Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=rf"TensorRT-RTX [\d.]+ cannot read the graph: {message}") as caught:
        build_graph(model(), tmp_path / "none.engine")
    assert "\n" not in str(caught.value)


def test_too_little_workspace_is_told_with_the_option_that_mends_it(tmp_path: Path) -> None:
    with pytest.raises(
        EngineError, match=r"cannot build the engine: .*(OutOfMemory|workspace limit).*; raise the option workspace_mb"
    ):
        build_graph(graph(), tmp_path / "none.engine", workspace_mb=1)
    assert not (tmp_path / "none.engine").exists()


def test_two_threads_that_build_at_once_get_their_own_facts(tmp_path: Path) -> None:
    expected = {name: build_graph(graph(name), tmp_path / name, program=small_program(name)) for name in HEADS_BUILT}
    found: dict[str, Any] = {}

    def work(name: str) -> None:
        found[name] = build_graph(graph(name), tmp_path / name, program=small_program(name))

    threads = [threading.Thread(target=work, args=(name,)) for name in HEADS_BUILT]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_messages_outside_a_build_go_to_logging(caplog: pytest.LogCaptureFixture) -> None:
    heard = listeners(module())
    heard.hear(1, "IRuntime::something: Error Code 1: Internal Error (broken In x at /_src/y.cpp:3)")
    heard.hear(4, "chatter")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("ERROR", "broken")]


@pytest.mark.parametrize("size", [None, 40, 0])
def test_an_engine_file_is_told_from_a_damaged_one_by_its_header(size: int | None, tmp_path: Path) -> None:
    path = tmp_path / "small.engine"
    build_graph(graph(), path)
    path.write_bytes(path.read_bytes()[:size])
    found = probe(TENSORRT_RTX, module(), path)
    assert found["bytes"] == path.stat().st_size
    assert found["written_by"] == (None if size == 0 else "TensorRT-RTX")
    damaged = "it is no engine file, or a damaged one"
    assert (damaged in found["reasons"]) == (size is not None)
