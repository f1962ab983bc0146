"""The TensorRT formats as the table uses them: options, missing modules, requirements, notes, stand-in, refit."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from engine_samples import PROFILE, batch_of, build_small, differ, eager_answers, small_model, small_program

from albert_fast.engine import tensorrt, tensorrt_build, tensorrt_format, tensorrt_layers, tensorrt_rtx
from albert_fast.engine.formats import Written
from albert_fast.engine.tensorrt_modules import TENSORRT, TENSORRT_RTX, default_capabilities, known_capabilities, load
from albert_fast.engine.tensorrt_options import Options, check_for_module, offered, read_options
from albert_fast.engine.tensorrt_refit import refit, weights_digest
from albert_fast.errors import EngineError, MissingDependencyError

needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx: pip install 'albert-fast[tensorrt-rtx]'"
)
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
HEAD = "sequence-classification"


def write(path: Path, words: list[str] | None = None, **options: Any) -> Written:
    tell = (lambda text: None) if words is None else words.append
    return tensorrt_rtx.write(small_program(HEAD), path, device="cuda", profiles=(PROFILE,), options=options, tell=tell)


def module_of(name: str, version: str, *, without: tuple[str, ...] = ()) -> Any:
    """A module of that name which has flags and GPU kinds and nothing else."""
    made: Any = ModuleType(name)
    made.__version__ = version
    flags = [flag for flag in ("VERSION_COMPATIBLE", "STRIP_PLAN") if flag not in without]
    made.HardwareCompatibilityLevel = type("HardwareCompatibilityLevel", (), {"AMPERE_PLUS": 1})
    made.BuilderFlag = dataclasses.make_dataclass("BuilderFlag", [(flag, int, 1) for flag in flags])
    names = ("NONE", "CURRENT", "SM75", "SM80", "SM86", "SM89", "SM120")
    made.ComputeCapability = type("ComputeCapability", (), {"__members__": {name: name for name in names}})
    return made


def test_option_values_come_as_json_toml_or_command_line_hold_them(tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    given = {
        "ids": "int32", "workspace_mb": 512, "timing_cache": str(cache), "version_compatible": True,
        "hardware_compatible": "ampere_plus", "optimization_level": 5, "cuda_graphs": False,
    }  # fmt: skip
    expected = Options("int32", 512, cache, True, "ampere_plus", (), False, 5, False)
    assert read_options(TENSORRT, json.loads(json.dumps(given))) == expected
    assert read_options(TENSORRT_RTX, {}) == Options()
    for kinds in (["8.6", "8.9"], [8.6, 8.9], "8.6,8.9", "8.6, 8.9"):
        assert read_options(TENSORRT_RTX, {"compute_capabilities": kinds}).compute_capabilities == ("8.6", "8.9")
    assert read_options(TENSORRT_RTX, {"compute_capabilities": 12.0}).compute_capabilities == ("12.0",)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ids", "int16", "one of int64, int32"),
        ("workspace_mb", 0, "a whole number of at least 1"),
        ("workspace_mb", True, "a whole number of at least 1"),
        ("workspace_mb", "512", "a whole number of at least 1"),
        ("timing_cache", "/nowhere/at/all", "the path of a file in a folder that exists"),
        ("timing_cache", "", "the path of a file in a folder that exists"),
        ("version_compatible", 1, "true or false"),
        ("hardware_compatible", "hopper", "one of none, ampere_plus, same_compute_capability"),
        ("strip_weights", "yes", "true or false"),
        ("optimization_level", 6, "a whole number 0 to 5"),
        ("cuda_graphs", None, "true or false"),
    ],
)
def test_a_wrong_option_value_is_told_with_what_was_expected(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^the option {name} is {value!r}, expected {expected}$"):
        read_options(TENSORRT, {name: value})


@pytest.mark.parametrize("value", [[], "8", ["8.6", "8.6"], [86], "sm_86", True])
def test_gpu_kinds_are_compute_capabilities_each_once(value: Any) -> None:
    with pytest.raises(ValueError, match=r"the option compute_capabilities is .*, expected .*\"8\.6\""):
        read_options(TENSORRT_RTX, {"compute_capabilities": value})


def test_all_wrong_options_are_told_at_once_and_what_the_module_lacks_with_the_next_step() -> None:
    lacking = {"version_compatible": True, "hardware_compatible": "ampere_plus", "timing_cache": "x"}
    with pytest.raises(ValueError) as caught:
        read_options(TENSORRT_RTX, {**lacking, "optimization_level": 3, "ids": 64, "colour": "blue"})
    told = str(caught.value)
    assert told.count("is not for TensorRT-RTX: ") == 4
    assert "the option version_compatible is not for TensorRT-RTX: an engine of" in told
    assert "export anew for another release, or use the format tensorrt; " in told
    assert "the option ids is 64, expected one of int64, int32" in told
    assert told.endswith(
        "the format tensorrt-rtx has no option colour; it takes ids, workspace_mb, compute_capabilities, "
        "strip_weights, cuda_graphs, road"
    )
    with pytest.raises(
        ValueError, match=r"compute_capabilities is not for TensorRT: .*hardware_compatible=ampere_plus"
    ):
        read_options(TENSORRT, {"compute_capabilities": ["8.6"]})


def test_an_option_that_asks_for_nothing_is_taken_by_both() -> None:
    nothing = {"version_compatible": False, "hardware_compatible": "none", "strip_weights": False}
    assert read_options(TENSORRT_RTX, nothing) == read_options(TENSORRT, nothing) == Options()
    assert "timing_cache" in offered(TENSORRT) and "timing_cache" not in offered(TENSORRT_RTX)


def test_a_release_is_asked_what_it_has_before_anything_is_built() -> None:
    rtx = module_of("tensorrt_rtx", "1.5.0", without=("STRIP_PLAN",))
    options = Options(compute_capabilities=("7.5", "9.0"), strip_weights=True)
    with pytest.raises(ValueError) as caught:
        check_for_module(TENSORRT_RTX, rtx, options, "bfloat16")
    told = str(caught.value)
    assert "names 9.0, TensorRT-RTX 1.5.0 builds for 7.5, 8.0, 8.6, 8.9, 12.0" in told
    assert "compute capability 7.5 has no bfloat16: use precision fp16" in told
    assert "TensorRT-RTX 1.5.0 has no BuilderFlag.STRIP_PLAN; install a later release" in told
    check_for_module(TENSORRT_RTX, rtx, Options(compute_capabilities=("7.5",)), "float16")
    same = Options(hardware_compatible="same_compute_capability")
    with pytest.raises(ValueError, match=r"has no HardwareCompatibilityLevel\.SAME_COMPUTE_CAPABILITY; install"):
        check_for_module(TENSORRT, module_of("tensorrt", "10.1.0"), same, "float16")
    both = Options(version_compatible=True, strip_weights=True)
    with pytest.raises(ValueError, match="exclude each other"):
        check_for_module(TENSORRT, module_of("tensorrt", "11.0.0"), both, "float16")


def test_gpu_kinds_are_those_of_the_module_and_turing_must_be_asked_for() -> None:
    rtx = module_of("tensorrt_rtx", "1.7.0")
    assert list(known_capabilities(rtx)) == ["7.5", "8.0", "8.6", "8.9", "12.0"]
    assert default_capabilities(rtx) == ("8.0", "8.6", "8.9", "12.0")


def test_a_module_that_is_missing_broken_or_old_is_told_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match=r"tensorrt is needed to do it .*'albert-fast\[tensorrt\]'"):
        load(TENSORRT, "do it")
    monkeypatch.setitem(sys.modules, "tensorrt", module_of("tensorrt", "8.6.1"))
    with pytest.raises(MissingDependencyError, match=r"tensorrt 8\.6\.1 is installed, at least 10\.1 is needed to do"):
        load(TENSORRT, "do it")
    monkeypatch.setitem(sys.modules, "tensorrt", module_of("tensorrt", "10.13.3.9"))
    assert load(TENSORRT, "do it").__version__ == "10.13.3.9"
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    broken = "raise ImportError('libnvinfer.so.10: cannot open shared object file')"
    for content in (broken, "import tensorrt_bindings_of_ours"):  # without the libraries, without the bindings
        (tmp_path / "tensorrt.py").write_text(content)
        with pytest.raises(MissingDependencyError, match=r"installed but cannot be loaded \(.*\): pip install --force"):
            load(TENSORRT, "do it")


def test_tensorrt_needs_its_release_and_a_gpu_of_that_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", module_of("tensorrt", "10.13.3.9"))
    needs = tensorrt.requirements("cpu", {})  # where there is a GPU, its kind is added
    package = needs.packages[0]
    assert (package.name, package.version, package.rule) == ("tensorrt", "10.13.3.9", "same")
    anywhere = tensorrt.requirements("cpu", {"version_compatible": True, "hardware_compatible": "ampere_plus"})
    assert anywhere.packages[0].rule == "at least"
    assert (anywhere.compute_capabilities, anywhere.compute_capability_rule) == (("8.0",), "at least")
    with pytest.raises(ValueError, match="the option ids"):
        tensorrt.requirements("cpu", {"ids": 1})


@needs_rtx
def test_tensorrt_rtx_needs_its_release_and_one_of_the_gpu_kinds() -> None:
    needs = tensorrt_rtx.requirements("cuda", {"compute_capabilities": ["8.9"]})
    assert (needs.compute_capabilities, needs.compute_capability_rule) == (("8.9",), "any of")
    assert needs.packages[0].name.replace("_", "-").startswith("tensorrt-rtx-cu")
    assert needs.packages[0].rule == "same"
    assert set(tensorrt_rtx.requirements("cuda", {}).compute_capabilities) >= {"8.6", "8.9", "12.0"}


def test_both_run_on_cuda_only() -> None:
    for row in (tensorrt, tensorrt_rtx):
        assert row.runs_on("cuda", "cuda:1")
        assert not row.runs_on("cuda", "cpu")


@needs_rtx
@needs_no_gpu
def test_without_a_gpu_the_graph_stands_in_and_the_notes_describe_the_engine(tmp_path: Path) -> None:
    words: list[str] = []
    options = {"ids": "int32", "compute_capabilities": ["8.6", "12.0"], "cuda_graphs": False}
    written = write(tmp_path / "small.engine", words, **options)
    assert words[0] == "TensorRT-RTX: write the ONNX graph"
    assert words[-1].startswith("TensorRT-RTX: running it takes ") and words[-1].endswith(" MB of scratch memory")
    notes = json.loads(json.dumps(written.notes))
    assert notes == written.notes
    assert notes["profile_shapes"] == [[[1, 1], [2, 8], [4, 48]]]
    assert (notes["ids"], notes["weights"], notes["cuda_graphs"]) == ("int32", "included", False)
    assert (notes["module"], notes["compute_capabilities"]) == ("tensorrt_rtx", ["8.6", "12.0"])
    assert tensorrt_rtx.stored_weight_bytes(tmp_path / "small.engine", notes) == notes["weights_bytes"]
    assert "ONNX Runtime" in written.measured_on and written.stand_in is not None
    batch = batch_of(3, 9)
    answers = written.stand_in(*batch.tensors())
    assert differ(answers, eager_answers(small_model(HEAD), batch)) <= 1e-4


@needs_rtx
@needs_no_gpu
def test_weights_are_stripped_only_where_there_is_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="strip_weights needs a CUDA driver: without one TensorRT-RTX"):
        write(tmp_path / "none.engine", strip_weights=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_weights_counts_what_is_left_of_them(tmp_path: Path) -> None:
    path = tmp_path / "stripped.engine"
    path.write_bytes(b"x" * 1000)
    assert tensorrt_format.stored_weight_bytes(path, {"weights_bytes": 5000, "weights": "stripped"}) == 1000
    assert tensorrt_format.stored_weight_bytes(path, {"weights_bytes": 5000, "weights": "included"}) == 5000


@needs_no_gpu
def test_refit_says_first_that_it_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device is 'cuda', but "):
        refit(tmp_path / "none.engine", small_program(HEAD), output=tmp_path / "whole.engine")


def test_refit_takes_files_of_tensorrt_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("albert_fast.engine.tensorrt_refit.machine.require_device", lambda device: None)
    build_small(tmp_path / "saved.pt2", head=HEAD)
    with pytest.raises(EngineError, match="has the format exported_program, expected one of tensorrt, tensorrt-rtx"):
        refit(tmp_path / "saved.pt2", small_program(HEAD), output=tmp_path / "whole.engine")


def test_the_digest_of_weights_changes_with_any_of_them() -> None:
    graph = tensorrt_build.graph_of(small_program(HEAD), Options())
    before = weights_digest(graph)
    changed = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    changed.raw_data = changed.raw_data[:-1] + bytes([changed.raw_data[-1] ^ 1])
    assert weights_digest(graph) != before


@needs_rtx
@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_tensorrts_own_options_reach_the_builder(tmp_path: Path) -> None:
    """Of TensorRT-RTX, in the place of TensorRT: it has the same API, and ignores these options."""
    options = Options(
        workspace_mb=4096, timing_cache=tmp_path / "timing.cache", optimization_level=1,
        hardware_compatible="ampere_plus",
    )  # fmt: skip
    shapes = tensorrt_build.profile_shapes(small_program(HEAD), (PROFILE,))
    model, trt = tensorrt_build.graph_of(small_program(HEAD), options), load(TENSORRT_RTX, "build")
    tensorrt_build.build(
        TENSORRT, trt, model, tmp_path / "x.engine", device="cuda", shapes=shapes, options=options,
        tell=lambda text: None,
    )  # fmt: skip
    assert (tmp_path / "timing.cache").exists()
    config = trt.Builder(tensorrt_build.logger(trt)).create_builder_config()
    tensorrt_build._configure(TENSORRT, trt, config, options)
    assert config.builder_optimization_level == 1
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 4096 << 20


INSPECTED_10 = {
    "Name": "_gemm_mha_v2_myl0_1", "LayerType": "kgen",
    "Inputs": [{"Name": "q", "Format/Datatype": "Row major linear FP16 format"}], "Outputs": [],
}  # fmt: skip
INSPECTED_11 = {
    "Name": "fc_myl0_2", "LayerType": "gemm",
    "Inputs": [{"Name": "q", "Format": "Row major linear format", "Datatype": "Half"}], "Outputs": [],
}  # fmt: skip


def test_layers_are_counted_from_the_inspectors_json_of_either_release() -> None:
    later = {**INSPECTED_11, "Name": "fc_myl1_9"}
    text = json.dumps({"Layers": [INSPECTED_10, INSPECTED_11, later, {**INSPECTED_10, "Name": "a [profile 1]"}]})
    assert tensorrt_layers.summary(tensorrt_layers.inspected_layers(text)) == {
        "layers": 2,
        "layers_by_kind": {"kgen": 1, "gemm": 1},
        "layers_by_dtype": {"Half": 2},
        "products_by_dtype": {"Half": 1},
        "fused_attention": 1,
    }
    names_only = tensorrt_layers.inspected_layers(json.dumps({"Layers": ["a", "b"]}))
    assert tensorrt_layers.summary(names_only)["layers"] == 2


def test_a_gpu_of_another_kind_than_the_file_is_built_for_does_not_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_of("tensorrt_rtx", "1.7.1")
    monkeypatch.setattr(tensorrt_format.machine, "has_device", lambda device: True)
    for kind, flavour, options, runs in (
        ("9.0", TENSORRT_RTX, Options(), False),
        ("8.9", TENSORRT_RTX, Options(), True),
        ("8.9", TENSORRT_RTX, Options(compute_capabilities=("12.0",)), False),
        ("9.0", TENSORRT, Options(), True),
    ):
        monkeypatch.setattr(tensorrt_format.machine, "compute_capability", lambda kind=kind: kind)
        assert tensorrt_format._runs_here(flavour, module, options, "cuda") is runs
