"""Scales files: what is written is read again, edits are taken, damage and foreign files are refused by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from precision_samples import captured, graph_of, model_of

from albert_fast.heads import HEADS
from albert_fast.precision import Quantization, Scales, prepare
from albert_fast.precision.scales import SCHEMA, CalibrationText, encoder_digest

TEXT = CalibrationText("ab" * 32, 40, 1234, "glosses.txt", truncated=3)
SCALES = Scales(
    "cd" * 32, "percentile 99.99", TEXT, {"ffn.input": (1.5, 2.0, 0.75), "pooler.input": (0.1,)},
    smoothing={"ffn.input": (1.0, 0.5)},
)  # fmt: skip


def written(folder: Path, scales: Scales = SCALES, **changes: Any) -> Path:
    """A scales file, with some of its keys changed."""
    path = folder / "model.scales.json"
    path.write_text(json.dumps({**json.loads(scales.to_json()), **changes}))
    return path


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    SCALES.save(tmp_path / "new" / "model.scales.json")
    read = Scales.read(tmp_path / "new" / "model.scales.json")
    assert read == SCALES
    assert read.to_json() == SCALES.to_json() and read.digest == SCALES.digest


def test_the_file_has_a_line_for_each_tensor() -> None:
    lines = [line.strip().rstrip(",") for line in SCALES.to_json().splitlines()]
    assert '"ffn.input": [1.5, 2.0, 0.75]' in lines
    assert '"pooler.input": [0.1]' in lines
    assert json.loads(SCALES.to_json())["schema"] == SCHEMA


def test_the_digest_is_of_the_numbers_and_not_of_the_layout(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7, sort_keys=True).replace("2.0", "2"))
    assert Scales.read(path).digest == SCALES.digest
    assert dataclasses.replace(SCALES, amax=dict(reversed(SCALES.amax.items()))).digest == SCALES.digest
    for changes in (
        {"amax": {**SCALES.amax, "pooler.input": (0.2,)}},
        {"smoothing": {}},
        {"model": "0"},
        {"method": "max"},
        {"text": dataclasses.replace(TEXT, tokens=1)},
    ):
        assert dataclasses.replace(SCALES, **changes).digest != SCALES.digest


def test_a_hand_edited_number_is_what_the_graph_rounds_by(tmp_path: Path) -> None:
    program = graph_of()
    amax = {"encoder.embedding_hidden_mapping_in.input": (3,), "pooler.input": (12.7,)}
    path = written(tmp_path, dataclasses.replace(SCALES, model=encoder_digest(program), amax=amax, smoothing={}))
    quantized = prepare(program, "int8", quantization=Quantization(Scales.read(path), parts=("embeddings",)))
    pairs = [node.args[1] for node in quantized.graph.nodes if "quantize_per_tensor" in str(node.target)]
    assert pairs == [pytest.approx(3 / 127)] * 2


def test_merged_scales_have_the_widest_range_in_every_pass() -> None:
    merged = SCALES.merged()
    assert merged.amax == {"ffn.input": (2.0, 2.0, 2.0), "pooler.input": (0.1,)}
    assert merged.method == "percentile 99.99, passes merged" and merged.smoothing == SCALES.smoothing


@pytest.mark.parametrize("wrong", [0, -1.5, "NaN", "Infinity", 1e39, 1e-40, 10**400, '"1.5"', "true", "null"])
def test_a_number_that_cannot_be_a_range_is_refused_with_its_tensor_and_place(wrong: Any, tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text().replace("0.75", str(wrong)))
    with pytest.raises(ValueError, match=r"model\.scales\.json: scales must be numbers.*amax of ffn\.input: .* at 2"):
        Scales.read(path)
    path = written(tmp_path)
    path.write_text(path.read_text().replace("0.5]", f"{wrong}]"))
    with pytest.raises(ValueError, match=r"smoothing of ffn\.input: .* at 1"):
        Scales.read(path)


def test_every_wrong_number_is_told_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, amax={"ffn.input": [1.0, 0.0], "pooler.input": [-1.0]})
    with pytest.raises(ValueError, match=r"ffn\.input: 0\.0 at 1; amax of pooler\.input: -1\.0 at 0"):
        Scales.read(path)


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not JSON"),
    "cut": (SCALES.to_json().encode()[:200], "is not JSON"),
    "not UTF-8": (b"\xff\xfe{}", "is not JSON"),
    "nested deep": (b"[" * 100_000, "is not JSON"),
    "a list": (b"[1, 2]", "is no scales file of this version: schema is 'list'"),
    "another file": (b'{"model": "x"}', "schema is None, expected 'albert-fast scales 1'"),
    "a later version": (b'{"schema": "albert-fast scales 2"}', "schema is 'albert-fast scales 2', expected"),
    "only its schema": (json.dumps({"schema": SCHEMA}).encode(), "is not whole: 'model'; calibrate again"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_no_scales_file_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    content, message = BROKEN[kind]
    path = tmp_path / "broken.scales.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.scales\.json.*" + message):
        Scales.read(path)


@pytest.mark.parametrize(
    "changes",
    [{"amax": [1.0]}, {"amax": {"ffn.input": 1.0}}, {"text": {"texts": 1}}, {"text": "none"}, {"smoothing": None}],
)
def test_a_file_whose_parts_have_another_shape_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.scales\.json is not whole"):
        Scales.read(written(tmp_path, **changes))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.json cannot be read: No such file"):
        Scales.read(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        Scales.read(tmp_path)


def test_a_file_that_was_there_stays_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SCALES.save(tmp_path / "model.scales.json")

    def fail(scales: Scales) -> str:
        raise OSError("no space left on device")

    monkeypatch.setattr(Scales, "to_json", fail)
    with pytest.raises(OSError, match="no space"):
        SCALES.merged().save(tmp_path / "model.scales.json")
    monkeypatch.undo()
    assert Scales.read(tmp_path / "model.scales.json") == SCALES
    assert [path.name for path in tmp_path.iterdir()] == ["model.scales.json"]


def test_the_encoders_digest_is_the_same_under_every_head_and_another_with_other_weights() -> None:
    encoder = model_of("pretraining")
    weights = {name.removeprefix("albert."): tensor for name, tensor in encoder.albert.state_dict().items()}
    digests = set()
    for head in ("masked-lm", "sequence-classification", "question-answering"):
        model = model_of(head)
        own = model.albert.state_dict()
        model.albert.load_state_dict({name: tensor for name, tensor in weights.items() if name in own})
        digests.add(encoder_digest(captured(model)))
    assert digests == {encoder_digest(graph_of("pretraining"))}
    with torch.no_grad():
        model.albert.embeddings.word_embeddings.weight[5, 3] += 1e-3
    assert encoder_digest(captured(model)) not in digests
    assert set(HEADS) > {"masked-lm"}
