"""The manifest: it comes back as it was written, and whatever else lies there gives one clear error."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_samples import engine_file, small_config

from albert_fast.engine import Manifest, manifest_path, read_manifest
from albert_fast.engine.manifest import DIGEST_KEY, digest
from albert_fast.errors import EngineError


def written() -> str:
    return manifest_path(engine_file("exported_program")).read_text()


def signed(value: dict[str, Any]) -> str:
    """The text of a manifest that says what ``value`` says and whose digest is right."""
    return json.dumps({**value, DIGEST_KEY: digest(value)})


def changed(change: Callable[[dict[str, Any]], Any]) -> str:
    value = json.loads(written())
    del value[DIGEST_KEY]
    change(value)
    return signed(value)


def test_a_manifest_comes_back_as_it_was_written() -> None:
    manifest = Manifest.from_json(written())
    assert manifest.to_json() == written()
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_manifest_says_what_the_engine_is() -> None:
    manifest = read_manifest(engine_file("exported_program"))
    assert manifest.albert_config() == small_config()
    assert (manifest.head, manifest.format, manifest.precision) == ("pretraining", "exported_program", "fp32")
    assert [one.name for one in manifest.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [(one.name, one.dtype) for one in manifest.outputs] == [
        ("prediction_logits", "float32"),
        ("sop_logits", "float32"),
    ]
    assert [(d.name, d.minimum, d.maximum) for d in manifest.inputs[0].dimensions] == [
        ("batch", 1, 4),
        ("length", 1, 48),
    ]
    assert manifest.error.max_abs <= 2e-4
    assert manifest.file_bytes == engine_file("exported_program").stat().st_size


def test_a_changed_manifest_signed_anew_is_read() -> None:
    replaced = dataclasses.replace(Manifest.from_json(written()), notes={"tokenizer": "here"})
    assert Manifest.from_json(replaced.to_json()).notes == {"tokenizer": "here"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ("[1, 2]", "manifest is list, expected an object"),
        ("null", "manifest is null, expected an object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": 1, "a": 2}', "the key 'a' is given twice"),
        ('{"schema_version": 99}', "schema_version 99, this albert-fast reads 2; export the engine anew"),
        ("{}", "its manifest_sha256 is not that of its content"),
        ('{"a": 1e999}', "damaged"),
        (f'{{"a": {"9" * 5000}}}', "is not valid JSON"),
    ],
)
def test_what_is_no_manifest_is_refused(text: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        Manifest.from_json(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("head"), r"manifest\.head is missing"),
        (lambda m: m.update(code="__import__('os')"), r"manifest\.code is unknown"),
        (lambda m: m.update(schema_version="1"), r'schema_version is "1", expected a whole number'),
        (lambda m: m.update(schema_version=True), r"schema_version is true, expected a whole number"),
        (lambda m: m.update(file_bytes=1.5), r"file_bytes is 1\.5, expected a whole number"),
        (lambda m: m.update(labels="no"), r'labels is "no", expected a list'),
        (lambda m: m.update(labels=[1]), r"labels\[0\] is 1, expected a string"),
        (lambda m: m["error"].update(max_abs="0"), r'error\.max_abs is "0", expected a number'),
        (lambda m: m.update(inputs=[3]), r"inputs\[0\] is 3, expected an object"),
        (lambda m: m["requires"].update(cpu_flags={}), r"requires\.cpu_flags is dict, expected a list"),
        (lambda m: m.update(profile="8"), "'8' is no profile"),
        (lambda m: m["config"].update(hidden_size=10**12), "hidden_size"),
        (lambda m: m.update(versions=[]), r"versions is list, expected an object"),
    ],
)
def test_fields_that_do_not_fit_are_named(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        Manifest.from_json(changed(change))


def test_all_fields_that_do_not_fit_are_named_at_once() -> None:
    with pytest.raises(EngineError, match=r"head is missing; .*labels\[1\] is 2.*; .*file_bytes is"):
        Manifest.from_json(changed(lambda m: (m.pop("head"), m.update(file_bytes="x", labels=["a", 2]))))


def test_a_manifest_cut_anywhere_is_refused() -> None:
    text = written().rstrip()
    for length in range(0, len(text), 97):
        with pytest.raises(EngineError, match="is not valid JSON"):
            Manifest.from_json(text[:length])


def test_a_manifest_with_a_flipped_bit_is_refused_or_says_the_same(tmp_path: Path) -> None:
    source, rng = written().encode(), random.Random(5)
    (tmp_path / "e.pt2").touch()
    original, refused = Manifest.from_json(written()), 0
    for _ in range(300):
        flipped = bytearray(source)
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        (tmp_path / "e.pt2.manifest.json").write_bytes(flipped)
        try:
            assert read_manifest(tmp_path / "e.pt2") == original  # a flip in the layout's white space
        except EngineError:
            refused += 1
    assert refused > 200


def test_a_missing_or_unreadable_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"e\.pt2\.manifest\.json is missing; .* copy both files"):
        read_manifest(tmp_path / "e.pt2")
    (tmp_path / "e.pt2.manifest.json").mkdir()
    with pytest.raises(EngineError, match="cannot be read"):
        read_manifest(tmp_path / "e.pt2")


def test_a_gigantic_manifest_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "e.pt2.manifest.json").open("wb") as stream:
        stream.truncate(20 * 2**30)
    with pytest.raises(EngineError, match="larger than"):
        read_manifest(tmp_path / "e.pt2")
