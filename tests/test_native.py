"""The format native: the op in the program answers as the graph did, each weight once, and refusals before any work."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_samples import (
    PROFILE,
    batch_of,
    build_small,
    differ,
    engine_file,
    facts,
    references,
    small_model,
    small_program,
)
from quantized_samples import ALL_PARTS, BUDGET, answers_of, assert_same_numbers, batches, quantized, smoothed
from torch.export import ExportedProgram

from albert_fast import ops
from albert_fast.batch import Batch, ShapeProfile
from albert_fast.capture import capture
from albert_fast.engine import FORMATS, build, load, machine, native, read_manifest, signature
from albert_fast.engine.comparing import at_text
from albert_fast.engine.encoder_weights import fuse
from albert_fast.engine.formats import Run
from albert_fast.engine.manifest import Dimension, TensorSpec
from albert_fast.errors import EngineError, MissingDependencyError
from albert_fast.heads import HEADS
from albert_fast.precision import PRECISIONS, prepare
from albert_fast.recipe import Recipe
from albert_fast.recipe.support import cells

missing = FORMATS["native"].missing()
pytestmark = pytest.mark.skipif(missing is not None, reason=missing or "")


def text_only(program: ExportedProgram, run: Run) -> Run:
    """A run whose numbers at padding, and for texts without a token, are those that the program itself gives."""
    specs = signature.output_specs(program)

    def patched(*inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        found, own = dict(run(*inputs)), answers_of(program, Batch(*inputs))
        seen = inputs[1] != 0
        for spec in specs:
            value, kept = found[spec.name], seen.any(-1) if seen.dim() == 2 else seen.any(-1).all(-1)
            if any(dimension.name == "length" for dimension in spec.dimensions):
                kept = seen
            kept = kept.view(*kept.shape, *[1] * (value.dim() - kept.dim()))
            found[spec.name] = torch.where(kept, value, own[spec.name])
        return found

    return patched


def run_of(program: ExportedProgram) -> Run:
    return partial(_inferred, program.module(check_guards=False))


def _inferred(run: Any, *inputs: torch.Tensor) -> Any:
    with torch.inference_mode():
        return run(*inputs)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("head", HEADS)
def test_the_program_with_the_op_answers_as_the_graph_did(head: str, precision: str) -> None:
    program = prepare(small_program(head), precision)
    run = text_only(program, run_of(fuse(program)[0]))
    limit = PRECISIONS[precision].budget.max_abs
    for batch in batches(head):
        assert differ(run(*batch.tensors()), answers_of(program, batch)) <= limit


@pytest.mark.parametrize("rest", ["fp32", "bf16"])
@pytest.mark.parametrize("parts", [("encoder",), ALL_PARTS])
def test_an_int8_program_with_the_op_answers_as_the_graph_did(rest: str, parts: tuple[str, ...]) -> None:
    program = quantized(rest=rest, parts=parts)
    run = text_only(program, run_of(fuse(program)[0]))
    exact = 1e-4 if rest == "fp32" else 0.15  # the op keeps in float32 what a bfloat16 graph rounds in between
    assert_same_numbers(run, "pretraining", rest=rest, parts=parts, exact=exact)


@pytest.mark.parametrize(
    ("rest", "parts", "exact"),
    [("fp32", ("encoder",), 1e-4), ("fp32", ("encoder", "heads"), 1e-4), ("bf16", ("encoder",), 0.25)],
)
def test_a_smoothed_program_with_the_op_answers_as_the_graph_did(
    rest: str, parts: tuple[str, ...], exact: float
) -> None:
    program = smoothed(rest=rest, parts=parts)
    run = text_only(program, run_of(fuse(program)[0]))
    expected = [answers_of(program, batch) for batch in batches()]
    differences = [differ(run(*b.tensors()), one) for b, one in zip(batches(), expected, strict=True)]
    moved = [differ(answers_of(small_program(), b), one) for b, one in zip(batches(), expected, strict=True)]
    assert min(differences) <= exact
    assert max(differences) <= 2 * max(moved)


@pytest.mark.parametrize("program", [small_program, partial(prepare, small_program(), "bf16"), quantized])
def test_the_new_program_holds_each_weight_once_and_the_old_one_is_as_it_was(program: Any) -> None:
    before = program()
    names, nodes = list(before.state_dict), [node.name for node in before.graph.nodes]
    after, _ = fuse(before)
    assert signature.distinct_weight_bytes(after) <= 1.1 * signature.distinct_weight_bytes(before)
    assert not any(".albert_layers." in name for name in after.state_dict)
    assert sum(node.target is torch.ops.albert_fast.encoder.default for node in after.graph.nodes) == 1
    assert len(after.graph.nodes) < len(nodes) / 3
    assert (list(before.state_dict), [node.name for node in before.graph.nodes]) == (names, nodes)


def test_the_manifest_says_what_was_fused_and_asks_for_the_op_library() -> None:
    manifest = read_manifest(engine_file("native"))
    assert manifest.notes["encoder"] == {"passes": 6, "dtype": "float32", "first_token_only": False}
    assert manifest.notes["kernel"] == ops.cpu_kernel()
    assert manifest.requires.op_library and manifest.requires.cpu_flags == machine.cpu_flags()


@pytest.mark.parametrize("head", ["multiple-choice", "question-answering"])
def test_a_head_of_another_shape_is_within_its_budget_in_a_file(head: str, tmp_path: Path) -> None:
    manifest = build_small(tmp_path / "e.pt2", format="native", head=head)
    assert manifest.notes["encoder"]["first_token_only"] == (head == "multiple-choice")
    batch = batch_of(3, 2, 7) if head == "multiple-choice" else batch_of(3, 7)
    mine, theirs = at_text(
        load(tmp_path / "e.pt2")(batch), answers_of(small_program(head), batch), batch.tensors()[1], manifest.outputs
    )
    assert differ(mine, theirs) <= PRECISIONS["fp32"].budget.max_abs


@pytest.mark.parametrize(
    ("head", "dtype", "make"),
    [
        ("sequence-classification", "bfloat16", lambda head: prepare(small_program(head), "bf16")),
        ("sequence-classification", "int8", partial(quantized, rest="bf16")),
        ("sequence-classification", "int8", partial(smoothed, rest="bf16")),
        ("masked-lm", "int8", partial(quantized, rest="bf16", parts=ALL_PARTS)),
    ],
    ids=["bf16", "int8", "int8, smoothed", "int8 in all parts"],
)
def test_a_file_of_fewer_bits_answers_as_its_program(head: str, dtype: str, make: Any, tmp_path: Path) -> None:
    program, model = make(head), small_model(head)
    manifest = build(
        program, tmp_path / "e.pt2", format="native", facts=facts(model), references=references(model), budget=BUDGET
    )
    assert manifest.notes["encoder"]["dtype"] == dtype
    assert ("int8" in manifest.notes) == (head == "masked-lm")  # products in the heads
    engine, fused = load(tmp_path / "e.pt2"), run_of(fuse(program)[0])
    for batch in (batch_of(4, 9), batch_of(1, 1), batch_of(3, 30, padding="left")):
        found, expected = engine(batch)["logits"], fused(*batch.tensors())["logits"]
        assert (found - expected).abs().median() <= 0.1  # some are rounded the other way


def test_without_the_op_library_or_a_compiler_nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = engine_file("native")
    write = partial(
        native.write, small_program(), tmp_path / "e.pt2", device="cpu", profiles=(PROFILE,), options={}, tell=print
    )
    with monkeypatch.context() as patch:
        patch.setenv("CXX", "no-such-compiler")
        with pytest.raises(EngineError, match=r"no C\+\+ compiler found, and the format native needs one"):
            write()
    monkeypatch.setattr(ops, "_PROBLEM", "the op library is not built")
    with pytest.raises(MissingDependencyError, match=r"the op library is not built\. Build it"):
        write()
    with pytest.raises(MissingDependencyError, match="the op library is not built"):
        native.read(built, device="cpu", profiles=(PROFILE,), notes={})
    assert "native needs the op library: " in str(FORMATS["native"].missing())
    with pytest.raises(EngineError, match="it needs the op library: the op library is not built"):
        load(built)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(attention="eager"), "attention is 'eager', but native takes a graph with attention sdpa"),
        (dict(precision="fp16"), "native has no float16 arithmetic"),
        (dict(device="cuda"), "native runs on cpu"),
        (
            dict(precision="int8", quantize={"scales": "s.json", "parts": ["encoder", "attention"]}),
            "attention is 'auto', but native takes a graph with attention sdpa",
        ),
        (
            dict(precision="int8", quantize={"scales": "s.json", "keep": ["ffn.input@1"]}),
            "native takes it in int8 as a",
        ),
    ],
)
def test_a_recipe_that_native_cannot_follow_is_refused_before_any_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict({"model": "albert-fast/wordnet", "format": "native", **changes})


def test_the_table_of_what_there_is_says_sdpa_alone() -> None:
    mine = [cell for cell in cells() if (cell.format, cell.precision, cell.device) == ("native", "int8", "cpu")]
    served = {cell.attention for cell in mine if cell.reason is None}
    assert served == {"sdpa"}


def test_what_stands_at_padding_is_left_out_of_a_comparison_and_nothing_else() -> None:
    mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1]])
    batch, length = Dimension("batch", 1, 4), Dimension("length", 1, 4)
    outputs = [
        TensorSpec("tokens", "float32", (batch, length, Dimension("", 5, 5))),
        TensorSpec("starts", "float32", (batch, length)),
        TensorSpec("texts", "float32", (batch, Dimension("", 2, 2))),
    ]
    right = {"tokens": torch.randn(3, 3, 5), "starts": torch.randn(3, 3), "texts": torch.randn(3, 2)}
    wrong = {name: value.clone() for name, value in right.items()}
    wrong["tokens"][mask == 0] = wrong["starts"][mask == 0] = 9.0
    wrong["texts"][1] = 9.0
    mine, theirs = at_text(wrong, right, mask, outputs)
    assert differ(mine, theirs) == 0
    assert mine["tokens"].shape == (5, 5) and mine["starts"].shape == (2, 3) and mine["texts"].shape == (2, 2)
    for name, place in (("tokens", (0, 1)), ("starts", (2, 2)), ("texts", (2,))):
        spoiled = {**right, name: right[name].clone()}
        spoiled[name][place] += 1.0
        assert differ(*at_text(spoiled, right, mask, outputs)) == pytest.approx(1.0)
    assert torch.equal(mine["starts"].argmax(-1), theirs["starts"].argmax(-1))


def test_other_python_threads_run_while_an_engine_computes(tmp_path: Path) -> None:
    """Torch's own binding holds the interpreter's lock for the whole call, and lets others in only between calls."""
    profile, calls = ShapeProfile(1, 8, 128, 1, 8, 48), 10
    model = small_model()
    build(
        capture(model, profile), tmp_path / "wide.pt2", format="native", facts=facts(model, profile),
        references=references(model), budget=PRECISIONS["fp32"].budget,
    )  # fmt: skip
    engine, batch, done, ticks = load(tmp_path / "wide.pt2"), batch_of(128, 48), threading.Event(), 0

    def call() -> None:
        for _ in range(calls):
            engine(batch)
        done.set()

    caller = threading.Thread(target=call)
    caller.start()
    while not done.wait(1e-4):
        ticks += 1
    caller.join()
    assert ticks > 5 * calls
