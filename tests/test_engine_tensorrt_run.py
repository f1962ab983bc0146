"""Running a TensorRT engine: profiles, buffers, replayed shapes, threads; on CPU up to the launch, on a GPU whole."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_samples import batch_of, differ, eager_answers, small_model, small_program
from tensorrt_fake import DataType, EngineValidity, FakeEngine, FakeGpu, fake_module
from torch import Tensor

from albert_fast.batch import Batch, ShapeProfile
from albert_fast.engine import tensorrt, tensorrt_rtx, tensorrt_run
from albert_fast.engine.tensorrt_log import logger
from albert_fast.engine.tensorrt_modules import TENSORRT, TENSORRT_RTX, Flavour, load
from albert_fast.engine.tensorrt_probe import why_invalid
from albert_fast.engine.tensorrt_run import OFTEN, SHAPES_KEPT, TensorRTRun
from albert_fast.errors import EngineError

SMALL, LARGE = ShapeProfile(1, 1, 2, 1, 8, 16), ShapeProfile(1, 8, 32, 8, 64, 512)
both_flavours = pytest.mark.parametrize("flavour", [TENSORRT, TENSORRT_RTX], ids=lambda flavour: flavour.format)


def runner(
    flavour: Flavour = TENSORRT,
    profiles: tuple[ShapeProfile, ...] = (SMALL, LARGE),
    *,
    ids: DataType = DataType.INT64,
    cuda_graphs: bool = True,
    choices: bool = False,
) -> tuple[TensorRTRun, FakeEngine]:
    module = fake_module(flavour.module)
    logger(module)  # there is one, as after loading an engine
    middle: tuple[tuple[int, ...], tuple[int, ...]] = ((1,), (64,)) if choices else ((), ())
    ranges = [((p.min_batch, *middle[0], p.min_length), (p.max_batch, *middle[1], p.max_length)) for p in profiles]
    engine = FakeEngine(module, ranges, ids)
    return TensorRTRun(flavour, module, engine, profiles, FakeGpu(engine), cuda_graphs=cuda_graphs), engine


def batch(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, high, shape, generator=generator) for high in (1000, 2, 2))  # type: ignore[return-value]


def expected(ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
    return torch.stack([(ids * mask).flatten(1).sum(1), types.flatten(1).sum(1)], 1).float()


@both_flavours
@pytest.mark.parametrize("ids", [DataType.INT64, DataType.INT32])
def test_every_call_answers_for_its_own_batch_before_and_after_its_shape_is_kept(
    flavour: Flavour, ids: DataType
) -> None:
    run, _ = runner(flavour, ids=ids)
    for number in range(2 * OFTEN):
        inputs = batch(2, 9, seed=number)
        assert torch.equal(run(*inputs)["logits"], expected(*inputs))


@both_flavours
def test_answers_given_earlier_are_left_alone(flavour: Flavour) -> None:
    run, _ = runner(flavour)
    batches = [batch(2, 9, seed=number) for number in range(2 * OFTEN)]
    answers = [run(*inputs)["logits"] for inputs in batches]
    assert all(torch.equal(answer, expected(*inputs)) for answer, inputs in zip(answers, batches, strict=True))


@both_flavours
def test_shapes_that_take_turns_keep_their_own_buffers(flavour: Flavour) -> None:
    run, _ = runner(flavour)
    shapes = [(1, 5), (2, 5), (2, 16), (3, 16), (32, 512), (1, 8)]
    for number, shape in itertools.product(range(2 * OFTEN), shapes):
        inputs = batch(*shape, seed=number)
        assert torch.equal(run(*inputs)["logits"], expected(*inputs)), shape


def test_a_shape_goes_to_the_smallest_profile_that_takes_it() -> None:
    run, engine = runner(cuda_graphs=False)
    small, large = engine.contexts
    for shape, context in (((2, 16), small), ((2, 17), large), ((3, 9), large), ((1, 1), small)):
        run(*batch(*shape))
        assert context.shapes["input_ids"] == shape
    assert [context.profile for context in engine.contexts] == [0, 1]


def test_a_shape_between_the_profiles_is_refused_with_the_profiles() -> None:
    run, _ = runner()
    with pytest.raises(ValueError, match=r"takes the shape \[3, 7\]; it has 1x1:1x8:2x16, 1x8:8x64:32x512"):
        run(*batch(3, 7))


def test_choices_are_a_dimension_of_the_shape() -> None:
    run, _ = runner(choices=True)
    for number in range(2 * OFTEN):
        inputs = batch(2, 3, 9, seed=number)
        assert torch.equal(run(*inputs)["logits"], expected(*inputs))


def test_inputs_that_are_views_are_copied_to_an_aligned_buffer() -> None:
    run, _ = runner(cuda_graphs=False)
    wide = batch(9, 24)
    inputs = tuple(part[1:9:2, 3:20] for part in wide)
    assert torch.equal(run(*inputs)["logits"], expected(*inputs))


def test_tensorrt_records_a_graph_of_a_frequent_shape_in_a_context_of_its_own() -> None:
    run, engine = runner()
    for _ in range(OFTEN + 2):
        run(*batch(2, 9))
    run(*batch(2, 10))  # the profile's context may still change
    assert [context.recorded for context in engine.contexts] == [False, False, True]
    assert len({context.scratch for context in engine.contexts}) == 1


def test_tensorrt_rtx_records_by_itself_and_gets_the_same_buffers_each_time() -> None:
    run, engine = runner(TENSORRT_RTX)
    addresses = []
    for number in range(OFTEN + 3):
        run(*batch(2, 9, seed=number))
        addresses.append(dict(engine.contexts[0].addresses))
    assert addresses[-1] == addresses[-2] == addresses[-3]
    assert [context.recorded for context in engine.contexts] == [False, False]


def test_a_graph_that_cannot_be_recorded_is_told_with_the_option_that_goes_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def record(self: FakeGpu, launch: Any) -> Any:
        raise RuntimeError("CUDA error:\noperation not permitted when stream is capturing")

    monkeypatch.setattr(FakeGpu, "record", record)
    run, _ = runner()
    with pytest.raises(EngineError, match=r"the shape \[2, 9\] \(CUDA error: operation .*\); .* cuda_graphs=false$"):
        for _ in range(OFTEN):
            run(*batch(2, 9))


@both_flavours
@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_graphs_may_be_switched_off(flavour: Flavour, cuda_graphs: bool) -> None:
    run, _ = runner(flavour, cuda_graphs=cuda_graphs)
    for _ in range(OFTEN + 2):
        run(*batch(2, 9))
    assert bool(run._often) == cuda_graphs
    if flavour.portable:
        assert bool(run._runtime_config.cuda_graph_strategy) == cuda_graphs


def test_no_more_shapes_are_kept_than_fit_and_the_oldest_goes_first() -> None:
    run, _ = runner()
    lengths = range(8, 8 + SHAPES_KEPT + 5)
    for length, number in itertools.product(lengths, range(OFTEN)):
        inputs = batch(4, length, seed=number)
        assert torch.equal(run(*inputs)["logits"], expected(*inputs))
    assert list(run._often) == [(4, length) for length in lengths][-SHAPES_KEPT:]


def test_large_outputs_are_not_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_run, "REPLAYED_OUTPUT_BYTES", 15)
    run, _ = runner()
    for _ in range(OFTEN + 1):
        run(*batch(1, 9))
        run(*batch(2, 9))
    assert list(run._often) == [(1, 9)]


@both_flavours
def test_eight_threads_may_call_one_runner(flavour: Flavour) -> None:
    run, _ = runner(flavour)
    batches = [batch(1 + number % 3, 8 + number % 5, seed=number) for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda inputs: run(*inputs)["logits"], batches))
    assert all(torch.equal(answer, expected(*inputs)) for answer, inputs in zip(answers, batches, strict=True))


def test_a_failing_launch_is_told_in_tensorrts_words_and_the_runner_goes_on() -> None:
    run, engine = runner()
    engine.breaks = True
    with pytest.raises(EngineError, match=r"TensorRT 10\.13\.3\.9 cannot run the engine: .*boom"):
        run(*batch(2, 9))
    engine.breaks = False
    assert torch.equal(run(*batch(2, 9))["logits"], expected(*batch(2, 9)))


def test_an_engine_of_other_inputs_or_profiles_is_refused() -> None:
    _, engine = runner()
    with pytest.raises(EngineError, match=r"2 profiles, expected .* and 1: file and manifest do not belong together"):
        TensorRTRun(TENSORRT, engine.module, engine, (LARGE,), FakeGpu(engine), cuda_graphs=True)
    engine.names[1] = "tokens"
    with pytest.raises(EngineError, match="the inputs tokens, attention_mask"):
        TensorRTRun(TENSORRT, engine.module, engine, (SMALL, LARGE), FakeGpu(engine), cuda_graphs=True)


def test_too_little_memory_is_told_with_the_profile_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: FakeGpu, shape: Any, dtype: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FakeGpu, "empty", full)
    with pytest.raises(EngineError, match="scratch memory for the largest shape of its profile 1x8:8x64:32x512"):
        runner()


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ({"module_version": "10.13.3.9", "weights": "stripped"}, "has no weights; put them in with refit"),
        ({"module_version": "10.9.0"}, r"built with TensorRT 10\.9\.0, this is 10\.13\.3\.9: install that release"),
    ],
)
def test_a_file_that_cannot_run_is_refused_before_it_is_read(
    notes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tensorrt_run, "load", lambda flavour, purpose: fake_module())
    with pytest.raises(EngineError, match=message):
        tensorrt_run.read(TENSORRT, tmp_path / "none.engine", device="cuda", profiles=(SMALL,), notes=notes)


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ((EngineValidity.VALID, 0), []),
        ((EngineValidity.INVALID, 3), ["it was built with another release", "it was not built for this kind of GPU"]),
        ((EngineValidity.INVALID, 32), ["it is no engine file, or a damaged one"]),
        ((EngineValidity.INVALID, 0), ["there is no GPU here that could run it"]),
    ],
)
def test_tensorrts_verdict_on_a_file_is_told_in_words(verdict: tuple[int, int], words: list[str]) -> None:
    class Runtime:
        def get_engine_validity(self, data: bytes) -> tuple[int, int]:
            return verdict

    assert why_invalid(fake_module(), Runtime(), b"") == words
    assert why_invalid(fake_module(), object(), b"") == []  # TensorRT 10 cannot tell


HEAD = "sequence-classification"
ROWS = {"tensorrt": tensorrt, "tensorrt-rtx": tensorrt_rtx}
on_gpu = [
    pytest.param(
        flavour.format,
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(
                find_spec(flavour.module) is None,
                reason=f"needs {flavour.module}: pip install 'albert-fast[{flavour.format}]'",
            ),
        ],
    )
    for flavour in (TENSORRT, TENSORRT_RTX)
]
every_flavour_on_gpu = pytest.mark.parametrize("format", on_gpu)
PROFILES = (ShapeProfile(1, 1, 1, 1, 8, 16), ShapeProfile(1, 2, 4, 1, 8, 48))


def built(format: str, folder: Path, head: str = HEAD, **options: Any) -> Any:
    """A runner of the small model, from a file with two profiles."""
    here = ".".join(str(part) for part in torch.cuda.get_device_capability())
    kinds = ROWS[format].requirements("cuda", {}).compute_capabilities
    if here not in kinds:
        pytest.skip(f"needs a GPU of compute capability {' or '.join(kinds)}, this is {here}")
    path = folder / "small.engine"
    written = ROWS[format].write(
        small_program(head), path, device="cuda", profiles=PROFILES, options=options, tell=lambda text: None
    )
    return ROWS[format].read(path, device="cuda", profiles=PROFILES, notes=written.notes)


def answers_of(run: Any, batch: Batch) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in run(*(part.cuda() for part in batch.tensors())).items()}


@every_flavour_on_gpu
@pytest.mark.parametrize("ids", ["int64", "int32"])
def test_an_engine_on_a_gpu_answers_like_eager_in_every_profile_and_on_every_call(
    format: str, ids: str, tmp_path: Path
) -> None:
    run, model = built(format, tmp_path, ids=ids), small_model(HEAD)
    for _ in range(2 * OFTEN):
        for shape in ((1, 1), (1, 16), (1, 17), (3, 9), (4, 48)):
            for padding in ("left", "right"):
                batch = batch_of(*shape, padding=padding)
                assert differ(answers_of(run, batch), eager_answers(model, batch)) <= 2e-3, shape


@every_flavour_on_gpu
@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_replayed_answers_on_a_gpu_are_the_launched_ones(format: str, cuda_graphs: bool, tmp_path: Path) -> None:
    run = built(format, tmp_path, head="pretraining", cuda_graphs=cuda_graphs)
    batches = [batch_of(3, 9) for _ in range(4)]
    launched = [answers_of(run, batch) for batch in batches[: OFTEN - 1]]
    for _ in range(3):
        replayed = [answers_of(run, batch) for batch in batches]
    limit = 0 if format == "tensorrt" else 1e-4  # TensorRT-RTX changes to faster kernels meanwhile
    assert all(differ(a, b) <= limit for a, b in zip(replayed, launched, strict=False))
    assert bool(run._often) == cuda_graphs


@every_flavour_on_gpu
def test_answers_given_earlier_are_left_alone_on_a_gpu(format: str, tmp_path: Path) -> None:
    run, model = built(format, tmp_path), small_model(HEAD)
    batches = [batch_of(3, 9) for _ in range(2 * OFTEN)]
    answers = [run(*(part.cuda() for part in batch.tensors())) for batch in batches]
    for batch, answer in zip(batches, answers, strict=True):
        assert differ({name: value.cpu() for name, value in answer.items()}, eager_answers(model, batch)) <= 2e-3


@every_flavour_on_gpu
def test_choices_run_on_a_gpu(format: str, tmp_path: Path) -> None:
    run, model = built(format, tmp_path, head="multiple-choice"), small_model("multiple-choice")
    for shape in ((1, 1, 8), (2, 3, 9), (4, 5, 48)):
        batch = batch_of(*shape)
        assert differ(answers_of(run, batch), eager_answers(model, batch)) <= 2e-3


@every_flavour_on_gpu
def test_eight_threads_with_streams_of_their_own_may_call_one_engine_on_a_gpu(format: str, tmp_path: Path) -> None:
    run = built(format, tmp_path)
    batches = [batch_of(1 + number % 4, 8 + number % 3) for number in range(64)]
    expected_answers = [answers_of(run, batch) for batch in batches]

    def call(batch: Batch) -> dict[str, Tensor]:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            answer = run(*(part.cuda() for part in batch.tensors()))
            copied = {name: value.to("cpu", non_blocking=True) for name, value in answer.items()}
        stream.synchronize()
        return copied

    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            answers = list(pool.map(call, batches))
            assert max(differ(a, e) for a, e in zip(answers, expected_answers, strict=True)) <= 1e-5


@every_flavour_on_gpu
def test_a_damaged_file_is_refused_on_a_gpu(format: str, tmp_path: Path) -> None:
    built(format, tmp_path)
    path = tmp_path / "small.engine"
    path.write_bytes(b"no engine" * 100)
    notes = {"module_version": load(TENSORRT if format == "tensorrt" else TENSORRT_RTX, "test").__version__}
    with pytest.raises(EngineError, match=r"(refuses|cannot load) .*small\.engine"):
        ROWS[format].read(path, device="cuda", profiles=PROFILES, notes=notes)
