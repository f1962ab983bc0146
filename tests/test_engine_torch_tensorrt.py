"""The format torch-tensorrt where the package is missing: its options, its needs, its errors, its archive."""

from __future__ import annotations

import importlib.metadata
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engine_samples import BUDGET, PROFILE, facts, references, small_model, small_program

from albert_fast.batch import ShapeProfile
from albert_fast.capture import capture
from albert_fast.engine import FORMATS, build, machine
from albert_fast.engine import torch_tensorrt_file as file_row
from albert_fast.engine import torch_tensorrt_jit as jit_row
from albert_fast.engine.torch_tensorrt_partition import Partition, tuned_for
from albert_fast.engine.torch_tensorrt_settings import Settings, compiler_arguments
from albert_fast.errors import EngineError, MissingDependencyError

COMMAND = r"pip install 'albert-fast\[torch-tensorrt\]'"


def silent(_: str) -> None:
    """Where the steps of a build are told."""


def call(function: Any, **changes: Any) -> Any:
    """``write`` or ``serialize`` of the small program for CUDA."""
    settings = {"device": "cuda", "profiles": (PROFILE,), "options": {}, "tell": silent}
    return function(small_program(), **{**settings, **changes})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("require_full_compilation", "yes"),
        ("workspace_bytes", -1),
        ("workspace_bytes", True),
        ("optimization_level", 6),
        ("tf32", 1),
        ("timing_cache", "/no/such/folder/cache"),
        ("engine_cache", ""),
        ("enabled_precisions", "fp16"),
    ],
)
def test_a_wrong_option_is_refused_before_any_work(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"option {name}.*expected"):
        call(file_row.write, path=tmp_path / "e.pt2", options={name: value})


def test_all_wrong_options_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"tf32 is 'no', expected true or false; .*optimization_level is 9"):
        Settings.of({"tf32": "no", "optimization_level": 9})


def test_options_are_read_as_a_recipe_holds_them(tmp_path: Path) -> None:
    given = dict(
        require_full_compilation=False, workspace_bytes=2**30, optimization_level=5, tf32=True,
        timing_cache=str(tmp_path / "timing"), engine_cache=str(tmp_path / "engines"),
    )  # fmt: skip
    assert given.keys() == FORMATS["torch-tensorrt"].options.keys()
    expected = Settings(False, 2**30, 5, True, tmp_path / "timing", tmp_path / "engines")
    assert Settings.of(given) == expected


ARGUMENTS = ("device", "attn_bias_is_causal", "min_block_size", "workspace_size", "optimization_level", "disable_tf32")
ARGUMENTS += (
    "timing_cache_path",
    "immutable_weights",
    "cache_built_engines",
    "reuse_cached_engines",
    "engine_cache_dir",
)


def compiled_with(folder: Path, *, known: Any = ARGUMENTS, **options: Any) -> dict[str, Any]:
    return compiler_arguments(Settings.of(options), known, timing_cache=folder / "timing", device="cuda")


def test_a_padding_mask_is_never_taken_for_a_causal_one(tmp_path: Path) -> None:
    assert compiled_with(tmp_path)["attn_bias_is_causal"] is False


def test_types_are_explicit_where_a_release_would_choose_them(tmp_path: Path) -> None:
    assert "use_explicit_typing" not in compiled_with(tmp_path)
    assert compiled_with(tmp_path, known=(*ARGUMENTS, "use_explicit_typing"))["use_explicit_typing"] is True


def test_a_compiler_that_would_ignore_an_argument_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.9.0")
    with pytest.raises(EngineError, match=r"2\.9\.0 does not know .* attn_bias_is_causal; install one from 2\.11"):
        compiled_with(tmp_path, known=set(ARGUMENTS) - {"attn_bias_is_causal"})


def test_float32_stays_float32_and_engines_are_cached_only_where_told(tmp_path: Path) -> None:
    plain = compiled_with(tmp_path)
    assert plain["disable_tf32"] and plain["immutable_weights"] and not plain["cache_built_engines"]
    assert plain["timing_cache_path"] == str(tmp_path / "timing")
    cached = compiled_with(tmp_path, engine_cache=str(tmp_path / "engines"), tf32=True)
    assert not cached["disable_tf32"] and not cached["immutable_weights"] and cached["reuse_cached_engines"]
    assert cached["engine_cache_dir"] == str(tmp_path / "engines")


def test_scratch_memory_is_limited_only_where_told(tmp_path: Path) -> None:
    assert compiled_with(tmp_path)["workspace_size"] == 0
    assert compiled_with(tmp_path, workspace_bytes=3)["workspace_size"] == 3


def test_without_a_gpu_nothing_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(file_row, "write", lambda *_, **__: pytest.fail("compiled"))
    with pytest.raises(ValueError, match=r"device is 'cuda', but .* torch"):
        build(
            small_program(), tmp_path / "e.pt2", format="torch-tensorrt", facts=facts(small_model()), device="cuda",
            references=references(small_model()), budget=BUDGET,
        )  # fmt: skip


def test_without_the_package_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)

    def nothing_installed(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing_installed)
    path = tmp_path / "e.pt2"
    for attempt in (
        lambda: call(file_row.write, path=path),
        lambda: call(file_row.serialize),
        lambda: file_row.read(path, device="cuda", profiles=(PROFILE,), notes={}),
        lambda: file_row.requirements("cpu", {}),
        lambda: jit_row.compiled(small_model(), outputs=("sop_logits",), profile=PROFILE),
    ):
        with pytest.raises(MissingDependencyError, match=COMMAND):
            attempt()


def test_several_profiles_are_refused(tmp_path: Path) -> None:
    for function, more in ((file_row.write, {"path": tmp_path / "e.pt2"}), (file_row.serialize, {})):
        with pytest.raises(ValueError, match=r"2 profiles .* Torch-TensorRT builds for one"):
            call(function, profiles=(PROFILE, ShapeProfile(1, 1, 1, 1, 8, 8)), **more)


def test_an_engine_alone_cannot_leave_ops_to_torch() -> None:
    with pytest.raises(ValueError, match="require_full_compilation is False"):
        call(file_row.serialize, options={"require_full_compilation": False})


def test_an_engine_of_a_model_on_the_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match="the model is on cpu, but TensorRT runs on CUDA devices only"):
        jit_row.make(small_model(), outputs=("sop_logits",), profile=PROFILE)


def test_the_needs_are_the_very_releases_and_no_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"torch-tensorrt": "2.13.0", "tensorrt": "11.0.0.114"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    needs = file_row.requirements("cpu", {})
    assert [(p.name, p.version, p.rule) for p in needs.packages] == [(n, v, "same") for n, v in installed.items()]
    assert needs.torch_rule == "same minor" and needs.cpu_flags == () != machine.cpu_flags()


def test_an_engine_stays_on_the_cuda_device_it_was_built_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_row, "load_package", lambda: None)
    with pytest.raises(EngineError, match=r"runs on cuda:0, device='cuda:1' .* CUDA_VISIBLE_DEVICES=1"):
        file_row.read(tmp_path / "e.pt2", device="cuda:1", profiles=(PROFILE,), notes={"device_index": 0})


@pytest.mark.parametrize("profile", [PROFILE, ShapeProfile(1, 1, 4, 1, 48, 48), ShapeProfile(2, 2, 2, 1, 5, 48)])
def test_a_program_seems_traced_with_the_profiles_optimum_and_is_left_as_it_was(profile: ShapeProfile) -> None:
    program = capture(small_model(), profile)
    [ids] = [node for node in program.graph.nodes if node.name == "input_ids"]

    def traced() -> list[int]:
        sizes = ids.meta["val"].shape
        return [s if isinstance(s, int) else int(s.node.shape_env.backed_var_to_val[s.node.expr]) for s in sizes]

    before = traced()
    with tuned_for(program, profile):
        assert traced() == [profile.opt_batch, profile.opt_length]
    assert traced() == before != [profile.opt_batch, profile.opt_length]


class Doubled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + x) * torch.split(x, 1)[0]


def test_a_partition_counts_ops_in_engines_and_names_those_outside() -> None:
    whole = torch.nn.Module()
    whole.add_module("_run_on_acc_0", torch.fx.symbolic_trace(Doubled()))
    whole.add_module("_run_on_gpu_1", torch.fx.symbolic_trace(Doubled()))
    whole.add_module("_run_on_acc_2", torch.fx.symbolic_trace(Doubled()))
    found = Partition.of(whole)
    assert (found.engines, found.converted, len(found.left_in_torch)) == (2, 8, 4)
    with pytest.raises(EngineError, match=r"no TensorRT layer for .*add.* \(1x\), .*relu.*; go home"):
        found.check(remedy="go home")
    found.check(in_torch_allowed=True, remedy="")
    with pytest.raises(EngineError, match="no TensorRT layer for any op"):
        Partition.of(torch.nn.Module()).check(in_torch_allowed=True, remedy="")


def test_a_saved_archive_is_deflated_where_engines_lie_and_loads_as_before(tmp_path: Path) -> None:
    class WithConstant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.constant, self.linear = torch.arange(50_000), torch.nn.Linear(100, 100)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) + self.constant.sum()

    path, x = tmp_path / "e.pt2", torch.randn(2, 100)
    torch.export.save(torch.export.export(WithConstant(), (x,)), path)
    expected, before = torch.export.load(path).module()(x), path.stat().st_size
    file_row._deflate_engines(path)
    assert torch.equal(torch.export.load(path).module()(x), expected)
    assert path.stat().st_size < 0.5 * before and list(tmp_path.iterdir()) == [path]
    with zipfile.ZipFile(path) as archive:
        deflated = [m.filename for m in archive.infolist() if m.compress_type == zipfile.ZIP_DEFLATED]
    assert len(deflated) == 1 and "/data/constants/" in deflated[0]
    weights = 4 * (100 * 100 + 100)
    assert weights <= file_row.stored_weight_bytes(path, {"engine_weight_bytes": 7}) - 7 <= weights + 128


def test_a_build_that_tensorrt_gives_up_ends_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(program: Any, inputs: Any, *, dryrun: bool = False, **_: Any) -> Any:
        if dryrun:
            whole = torch.nn.Module()
            whole.add_module("_run_on_acc_0", torch.fx.symbolic_trace(Doubled()))
            return whole
        raise AssertionError

    package = SimpleNamespace(
        Input=lambda **given: SimpleNamespace(shape=given, name=given["name"]),
        dynamo=SimpleNamespace(compile=compile, partitioning=SimpleNamespace(construct_submodule_inputs=lambda _: [])),
    )
    monkeypatch.setattr(file_row, "load_package", lambda: package)
    monkeypatch.setattr(file_row, "moved", lambda program, _: program)
    monkeypatch.setattr(file_row, "_arguments", lambda *_: {})
    with pytest.raises(EngineError, match=r"TensorRT built no engine \(AssertionError\).*option workspace_bytes"):
        call(file_row.write, path=tmp_path / "e.pt2")
