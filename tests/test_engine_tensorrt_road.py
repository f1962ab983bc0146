"""The road to a TensorRT engine through Torch-TensorRT: what it takes and refuses, what is noted, outputs by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engine_samples import BUDGET, PROFILE, batch_of, build_small, differ, eager_answers, small_model, small_program
from tensorrt_fake import DataType, FakeEngine, FakeGpu, fake_module

from albert_fast.batch import ShapeProfile
from albert_fast.engine import load, tensorrt, tensorrt_by_torch, tensorrt_format, tensorrt_rtx, tensorrt_run
from albert_fast.engine import torch_tensorrt_file as torch_file
from albert_fast.engine.formats import Written
from albert_fast.engine.manifest import Package
from albert_fast.engine.tensorrt_log import logger
from albert_fast.engine.tensorrt_modules import TENSORRT, TENSORRT_RTX, Flavour
from albert_fast.engine.tensorrt_options import read_options
from albert_fast.engine.tensorrt_run import OFTEN, TensorRTRun
from albert_fast.errors import EngineError, MissingDependencyError

ROAD = {"road": "torch-tensorrt"}
ENGINE = b"engine bytes"
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
both_flavours = pytest.mark.parametrize("flavour", [TENSORRT, TENSORRT_RTX], ids=lambda flavour: flavour.format)
ROWS = {"tensorrt": tensorrt, "tensorrt-rtx": tensorrt_rtx}


class Loaded:
    """An engine that tells what the notes want of it."""

    def get_engine_stat(self, stat: str) -> int:
        return {"weights": 1234}[stat]

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda form: '{"Layers": ["_gemm_mha_v2_myl0_1", "b"]}')

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[list[int]]:
        assert (name, profile) == ("input_ids", 0)
        return [[1, 1], [2, 8], [4, 48]]

    def get_device_memory_size_for_profile_v2(self, profile: int) -> int:
        return 5_000_000


def module_of(flavour: Flavour, *, loads: bool = True, tells_weights: bool = True) -> Any:
    module = fake_module(flavour.module)
    module.ComputeCapability = SimpleNamespace(__members__={"SM75": 1, "SM89": 2})
    module.LayerInformationFormat = SimpleNamespace(JSON="json")
    if tells_weights:
        module.EngineStat = SimpleNamespace(TOTAL_WEIGHTS_SIZE="weights")

    def deserialize(engine: bytes) -> Loaded | None:
        assert engine == ENGINE
        if not loads:
            logger(module).log(1, "it is broken")
        return Loaded() if loads else None

    module.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=deserialize)
    return module


def write(
    flavour: Flavour,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    module: Any = None,
    installed: str | None = None,
    profiles: tuple[ShapeProfile, ...] = (PROFILE,),
    tell: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> tuple[Written, dict[str, Any]]:
    """Write by this road with a made-up module, Torch-TensorRT and GPU; gives also what Torch-TensorRT was given."""
    given: dict[str, Any] = {}

    def serialize(program: Any, **more: Any) -> bytes:
        given.update(more)
        more["tell"]("build 63 ops in 1 TensorRT engine")
        return ENGINE

    package = Package(installed or flavour.torch_tensorrt, "2.13.0", "same")
    monkeypatch.setattr(tensorrt_format, "load", lambda flavour, purpose: module or module_of(flavour))
    monkeypatch.setattr(tensorrt_by_torch.machine, "has_device", lambda device: True)
    monkeypatch.setattr(tensorrt_by_torch.tensorrt_build, "on", lambda device: nullcontext())
    monkeypatch.setattr(tensorrt_by_torch, "packages", lambda: (package,))
    monkeypatch.setattr(torch_file, "serialize", serialize)
    written = ROWS[flavour.format].write(
        small_program(), folder / "x.engine", device="cuda", profiles=profiles, options={**ROAD, **options}, tell=tell
    )
    return written, given


@both_flavours
def test_the_notes_are_those_of_the_onnx_road_and_the_names_of_outputs(
    flavour: Flavour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: list[str] = []
    written, _ = write(flavour, tmp_path, monkeypatch, tell=words.append, cuda_graphs=False)
    assert (tmp_path / "x.engine").read_bytes() == ENGINE
    notes = written.notes
    assert notes["outputs"] == {"output0": "prediction_logits", "output1": "sop_logits"}
    assert (notes["road"], notes["torch_tensorrt"]) == ("torch-tensorrt", f"{flavour.torch_tensorrt} 2.13.0")
    assert (notes["module"], notes["cuda_graphs"], notes["ids"]) == (flavour.module, False, "int64")
    assert notes["profile_shapes"] == [[[1, 1], [2, 8], [4, 48]]]
    assert (notes["activation_bytes"], notes["layers"], notes["fused_attention"]) == ([5_000_000], 2, 1)
    assert notes["compute_capabilities"] == (["8.9"] if flavour.portable else [])
    assert ROWS[flavour.format].stored_weight_bytes(tmp_path / "x.engine", notes) == notes["weights_bytes"] == 1234
    assert written.stand_in is None
    assert words == [
        "Torch-TensorRT: build 63 ops in 1 TensorRT engine",
        f"{flavour.title}: running it takes 5 MB of scratch memory",
    ]


def test_options_reach_torch_tensorrt_under_its_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "timing.cache"
    asked = {"workspace_mb": 2, "timing_cache": str(cache), "optimization_level": 0}
    _, given = write(TENSORRT, tmp_path, monkeypatch, **asked)
    assert given["options"] == {"workspace_bytes": 2 << 20, "timing_cache": cache, "optimization_level": 0}
    torch_file.Settings.of(given["options"])
    assert (given["device"], given["profiles"]) == ("cuda", (PROFILE,))
    assert write(TENSORRT_RTX, tmp_path, monkeypatch)[1]["options"] == {}


def test_options_that_this_road_does_not_take_are_refused_all_at_once() -> None:
    asked = {"ids": "int32", "version_compatible": True, "hardware_compatible": "ampere_plus", "strip_weights": True}
    with pytest.raises(ValueError) as caught:
        read_options(TENSORRT, {**ROAD, **asked})
    told = str(caught.value)
    assert all(f"the option {name} is not for road=torch-tensorrt: " in told for name in asked)
    assert told.count("; leave it or road out") == len(asked)
    with pytest.raises(ValueError, match=r"compute_capabilities is not for road=torch-tensorrt: it names no GPU kinds"):
        read_options(TENSORRT_RTX, {**ROAD, "compute_capabilities": ["8.9"]})
    with pytest.raises(ValueError, match="the option road is 'onxx', expected one of onnx, torch-tensorrt"):
        read_options(TENSORRT, {"road": "onxx"})
    assert read_options(TENSORRT, {**ROAD, "ids": "int64", "strip_weights": False}).road == "torch-tensorrt"
    assert read_options(TENSORRT, asked | {"strip_weights": False}).road == "onnx"


@needs_no_gpu
@both_flavours
def test_without_a_gpu_it_is_refused_before_anything_is_imported(
    flavour: Flavour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch_tensorrt", flavour.module):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError) as caught:
        ROWS[flavour.format].write(
            small_program(), tmp_path / "x.engine", device="cuda", profiles=(PROFILE, PROFILE), options=ROAD,
            tell=lambda text: None,
        )  # fmt: skip
    assert "needs the device 'cuda' while it builds, and torch finds none here; build where the GPU is" in str(
        caught.value
    )
    assert "2 profiles were given, the option road=torch-tensorrt takes one" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("flavour", "other"), [(TENSORRT, TENSORRT_RTX), (TENSORRT_RTX, TENSORRT)])
def test_a_torch_tensorrt_that_drives_the_other_module_is_refused(
    flavour: Flavour, other: Flavour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        MissingDependencyError,
        match=rf"needs {flavour.torch_tensorrt}, which drives {flavour.title}; found {other.torch_tensorrt} 2\.13\.0, "
        rf".*pip uninstall {other.torch_tensorrt}, then pip install {flavour.torch_tensorrt};",
    ):
        write(flavour, tmp_path, monkeypatch, installed=other.torch_tensorrt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ({"loads": False}, r"cannot load what Torch-TensorRT built: it is broken"),
        ({"tells_weights": False}, r"10\.13\.3\.9 does not say how many bytes of weights .*install a later release"),
    ],
)
def test_an_engine_that_cannot_be_asked_is_refused(
    missing: dict[str, bool], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineError, match=message):
        write(TENSORRT, tmp_path, monkeypatch, module=module_of(TENSORRT, **missing))


def runner(flavour: Flavour, names: dict[str, str]) -> TensorRTRun:
    """A runner of the fake engine, whose one output it calls ``logits``."""
    module = fake_module(flavour.module)
    logger(module)
    engine = FakeEngine(module, [((1, 1), (4, 48))], DataType.INT64)
    return TensorRTRun(flavour, module, engine, (PROFILE,), FakeGpu(engine), cuda_graphs=True, output_names=names)


@both_flavours
def test_outputs_are_called_as_the_program_calls_them_on_every_call(flavour: Flavour) -> None:
    plain, renamed = runner(flavour, {}), runner(flavour, {"logits": "sop_logits"})
    for _ in range(2 * OFTEN):
        inputs = batch_of(2, 9).tensors()
        answers = renamed(*inputs)
        assert list(answers) == ["sop_logits"]
        assert torch.equal(answers["sop_logits"], plain(*inputs)["logits"])


def test_an_engine_of_other_outputs_than_the_notes_say_is_refused() -> None:
    with pytest.raises(EngineError, match=r"has the outputs logits, expected output0, output1: file and manifest"):
        runner(TENSORRT, {"output0": "a", "output1": "b"})


def test_a_loaded_file_is_given_the_names_in_its_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = fake_module()
    logger(module)
    engine = FakeEngine(module, [((1, 1), (4, 48))], DataType.INT64)
    monkeypatch.setattr(tensorrt_run, "load", lambda flavour, purpose: module)
    monkeypatch.setattr(tensorrt_run, "Gpu", lambda device: FakeGpu(engine))
    monkeypatch.setattr(tensorrt_run, "load_engine", lambda *arguments, **more: engine)
    notes = {"module_version": module.__version__, "outputs": {"logits": "sop_logits"}}
    run = tensorrt.read(tmp_path / "x.engine", device="cuda", profiles=(PROFILE,), notes=notes)
    assert list(run(*batch_of(2, 9).tensors())) == ["sop_logits"]


@pytest.mark.gpu
@pytest.mark.parametrize("flavour", [TENSORRT, TENSORRT_RTX], ids=lambda flavour: flavour.format)
@pytest.mark.parametrize("head", ["pretraining", "sequence-classification", "multiple-choice"])
def test_an_engine_of_this_road_answers_like_eager_on_a_gpu(flavour: Flavour, head: str, tmp_path: Path) -> None:
    for name in ("torch_tensorrt", flavour.module):
        if find_spec(name) is None:
            pytest.skip(f"needs {name}: pip install {flavour.torch_tensorrt}")
    if tensorrt_by_torch.packages()[0].name != flavour.torch_tensorrt:
        pytest.skip(f"needs {flavour.torch_tensorrt} and no other Torch-TensorRT beside it")
    here = ".".join(str(part) for part in torch.cuda.get_device_capability())
    kinds = ROWS[flavour.format].requirements("cuda", ROAD).compute_capabilities
    if here not in kinds:
        pytest.skip(f"needs a GPU of compute capability {' or '.join(kinds)}, this is {here}")
    path = tmp_path / "x.engine"
    manifest = build_small(path, format=flavour.format, head=head, device="cuda", options=ROAD)
    assert manifest.notes["road"] == "torch-tensorrt"
    engine, model = load(path, device="cuda"), small_model(head)
    shapes = ((2, 3, 9), (4, 5, 48)) if head == "multiple-choice" else ((2, 9), (1, 1), (4, 48), (3, 17))
    for shape in shapes:
        for padding in ("left", "right"):
            for _ in range(OFTEN + 1):
                batch = batch_of(*shape, padding=padding)
                assert differ(engine(batch), eager_answers(model, batch)) <= BUDGET.max_abs, shape
