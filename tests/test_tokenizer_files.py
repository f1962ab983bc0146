"""Vocabulary files of every kind load, saved ones load everywhere, and damaged ones are refused in words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_samples import TEXTS, USER_DEFINED, Pair, pair, peer, small_folder, true_folder

from albert_fast.checkpoint import hub
from albert_fast.errors import CheckpointError
from albert_fast.tokenizer import AddedToken, AlbertTokenizer, proto


@pytest.fixture(scope="module")
def small() -> Pair:
    return pair(small_folder())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the small vocabulary's folder that a test may damage."""
    return Path(shutil.copytree(small_folder(), tmp_path / "copy"))


def ids(tokenizer: Any) -> list[list[int]]:
    return tokenizer(list(TEXTS))["input_ids"]


def model_bytes() -> bytes:
    return (small_folder() / "spiece.model").read_bytes()


@pytest.mark.parametrize("kept", [["spiece.model"], ["tokenizer.json"], ["spiece.model", "tokenizer_config.json"]])
def test_any_vocabulary_file_is_enough(kept: list[str], folder: Path, small: Pair) -> None:
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()
    loaded = AlbertTokenizer.from_pretrained(folder)
    assert ids(loaded) == ids(small[1])
    assert (
        ids(AlbertTokenizer.from_pretrained(folder / kept[0])) == ids(AlbertTokenizer(folder / kept[0])) == ids(loaded)
    )


def test_google_s_name_of_the_model_is_known(folder: Path, small: Pair) -> None:
    (folder / "spiece.model").rename(folder / "30k-clean.model")
    (folder / "tokenizer.json").unlink()
    assert ids(AlbertTokenizer.from_pretrained(folder)) == ids(small[0])


@pytest.mark.parametrize("settings", [{}, {"keep_accents": True}, {"do_lower_case": False, "model_max_length": 99}])
def test_what_is_saved_loads_here_and_in_transformers(settings: dict[str, Any], tmp_path: Path) -> None:
    ours = AlbertTokenizer.from_pretrained(small_folder(), truncation_side="left", **settings)
    ours.add_tokens(["NewTok"])
    ours.add_special_tokens({"additional_special_tokens": ["<e>"]})
    paths = ours.save_pretrained(tmp_path / "saved")
    assert [Path(p).name for p in paths] == ["spiece.model", "tokenizer.json", "tokenizer_config.json"]
    again = AlbertTokenizer.from_pretrained(tmp_path / "saved")
    texts = [*TEXTS, "a NewTok<e>newtok"]
    theirs = peer(tmp_path / "saved")
    assert again(texts) == ours(texts)
    assert again(texts)["input_ids"] == theirs(texts)["input_ids"]
    bare = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    assert [encoding.ids for encoding in bare.encode_batch(texts)] == ours(texts)["input_ids"]
    for name in ("do_lower_case", "keep_accents", "model_max_length", "truncation_side", "special_tokens_map"):
        assert getattr(again, name) == getattr(ours, name), name
    assert theirs.model_max_length == ours.model_max_length
    assert again.added_tokens_decoder == ours.added_tokens_decoder


def test_a_saved_folder_makes_transformers_return_segments(small: Pair) -> None:
    import transformers

    theirs = transformers.AlbertTokenizer.from_pretrained(small_folder())
    assert dict(theirs("a", "b")) == dict(small[0]("a", "b"))


def test_a_model_made_from_tokenizer_json_is_the_one_it_came_from(folder: Path, tmp_path: Path) -> None:
    (folder / "spiece.model").unlink()
    AlbertTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    made, trained = (path / "spiece.model" for path in (tmp_path, small_folder()))
    assert proto.parse(made.read_bytes(), source="made") == proto.parse(trained.read_bytes(), source="trained")
    first, second = (sentencepiece.SentencePieceProcessor(model_file=str(path)) for path in (made, trained))
    for text in ("a plain sentence, (2010) here", "ＦＵＬＬ ﬁ"):
        assert first.encode(text) == second.encode(text)
    assert (first.unk_id(), first.pad_id(), first.bos_id()) == (1, 0, -1)


def test_reading_a_model_finds_what_sentencepiece_finds(small: Pair) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model_bytes())
    model = proto.parse(model_bytes(), source="small")
    assert len(model.pieces) == len(processor) == 600
    for id in range(600):
        assert model.pieces[id] == processor.id_to_piece(id)
        assert model.scores[id] == processor.get_score(id)
        assert (model.kinds[id] == proto.CONTROL) == processor.is_control(id)
        assert (model.kinds[id] == proto.UNKNOWN) == processor.is_unknown(id)
    assert [p for p, k in zip(model.pieces, model.kinds, strict=True) if k == proto.USER_DEFINED] == list(USER_DEFINED)


def test_the_true_vocabulary_saves_what_it_was_read_from(vocab_dir: Path, tmp_path: Path) -> None:
    ours, theirs = pair(true_folder(vocab_dir))
    ours.save_pretrained(tmp_path)
    assert (tmp_path / "spiece.model").read_bytes() == (vocab_dir / "spiece.model").read_bytes()
    saved, published = (
        json.loads((path / "tokenizer.json").read_bytes()) for path in (tmp_path, vocab_dir / "tok_hub")
    )
    assert saved["model"]["vocab"] == published["model"]["vocab"]
    assert saved["normalizer"] == published["normalizer"]
    assert saved["post_processor"] == published["post_processor"]
    assert ids(peer(tmp_path)) == ids(theirs)
    (tmp_path / "tokenizer.json").unlink()
    assert ids(AlbertTokenizer.from_pretrained(tmp_path)) == ids(theirs)


def test_user_defined_pieces_that_transformers_5_calls_added_stay_pieces(folder: Path, small: Pair) -> None:
    root = json.loads((folder / "tokenizer.json").read_bytes())
    known = {piece: id for id, (piece, _) in enumerate(root["model"]["vocab"])}
    for text in USER_DEFINED:
        root["added_tokens"].append({"id": known[text], **AddedToken(text).to_dict()})
    for entry in root["model"]["vocab"]:
        entry[1] += 100 if entry[1] < -100 else 0
    (folder / "tokenizer.json").write_text(json.dumps(root))
    assert ids(AlbertTokenizer.from_pretrained(folder)) == ids(small[0])


def test_old_files_of_added_tokens_are_read(folder: Path) -> None:
    (folder / "added_tokens.json").write_text('{"newtok": 600}')
    (folder / "special_tokens_map.json").write_text('{"mask_token": {"content": "[MASK]", "lstrip": true}}')
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    loaded = AlbertTokenizer.from_pretrained(folder)
    assert loaded("NewTok", add_special_tokens=False)["input_ids"] == [600]
    assert loaded.added_tokens_decoder[4].lstrip


def test_a_hub_name_is_looked_up_where_hub_names_are(monkeypatch: pytest.MonkeyPatch, small: Pair) -> None:
    asked: list[Any] = []

    def resolve(name: str, **options: Any) -> Path:
        asked.append((name, options))
        return small_folder()

    monkeypatch.setattr(hub, "resolve", resolve)
    loaded = AlbertTokenizer.from_pretrained("albert/albert-base-v2", revision="v1", local_files_only=True)
    assert ids(loaded) == ids(small[0])
    ((name, options),) = asked
    assert name == "albert/albert-base-v2"
    assert (options["revision"], options["local_files_only"], options["cache_dir"]) == ("v1", True, None)
    assert {"spiece.model", "tokenizer.json", "tokenizer_config.json"} <= set(options["allow_patterns"])


def test_the_built_in_name_needs_no_network() -> None:
    if not hub.resolve("albert-fast/wordnet").is_dir():
        pytest.skip("needs the embedded model, which is not in this checkout: python tools/train_embedded.py makes it")
    loaded = AlbertTokenizer.from_pretrained("albert-fast/wordnet", local_files_only=True)
    assert loaded.convert_ids_to_tokens([0, 1, 2, 3, 4]) == ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    text = "a feline mammal, usually having (thick) fur."
    assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True) == text


def test_an_interrupted_save_leaves_the_old_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    loaded = AlbertTokenizer.from_pretrained(folder)
    loaded.add_tokens(["x1"])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        loaded.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@given(cut=st.integers(0, 10_000), flip=st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_a_damaged_model_is_refused_or_read(cut: int, flip: int) -> None:
    data = model_bytes()
    for damaged in (data[:cut], data[:cut] + bytes([data[cut] ^ flip]) + data[cut + 1 :]):
        try:
            assert proto.parse(damaged, source="spiece.model").pieces
        except CheckpointError as error:
            assert "spiece.model" in str(error)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("spiece.model", b"", r"spiece.model is not a SentencePiece model \(0 bytes, no pieces\); download it again"),
        ("spiece.model", b"\xff" * 40, r"is not a SentencePiece model"),
        ("spiece.model", b"version https://git-lfs.github.com/spec/v1\n", r"is not a SentencePiece model"),
        ("tokenizer.json", b"{", r"tokenizer.json is not a tokenizer.json of an ALBERT \(JSONDecodeError"),
        ("tokenizer.json", b'{"model": {}}', r"KeyError: 'vocab'"),
        ("tokenizer.json", b'{"model": {"type": "WordPiece"}}', r"holds a WordPiece vocabulary, expected Unigram"),
        (
            "tokenizer.json",
            b'{"model": {"vocab": [["a", 0], ["a", 1]], "unk_id": 0}}',
            r"2 pieces, 1 of them different",
        ),
        ("tokenizer.json", b'{"model": {"vocab": [["a", 0]], "unk_id": 5}}', r"unk_id 5 among 1 pieces"),
        ("tokenizer_config.json", b"[]", r"tokenizer_config.json holds a list, expected an object"),
        ("tokenizer_config.json", b"{]", r"tokenizer_config.json is not JSON"),
    ],
)
def test_a_damaged_file_is_named(name: str, content: bytes, message: str, folder: Path) -> None:
    (folder / name).write_bytes(content)
    if name == "spiece.model":
        (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=message):
        AlbertTokenizer.from_pretrained(folder)


def test_a_damaged_character_map_is_named(folder: Path) -> None:
    root = json.loads((folder / "tokenizer.json").read_bytes())
    step = next(s for s in root["normalizer"]["normalizers"] if s["type"] == "Precompiled")
    for broken, message in (("AAAA", "character map"), ("!!", "not a tokenizer.json"), ("/////w==", "character map")):
        step["precompiled_charsmap"] = broken
        (folder / "tokenizer.json").write_text(json.dumps(root))
        (folder / "spiece.model").unlink(missing_ok=True)
        with pytest.raises(CheckpointError, match=message):
            AlbertTokenizer.from_pretrained(folder)("x é")


def test_a_folder_without_a_vocabulary_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]")
    with pytest.raises(CheckpointError, match=r"expected spiece.model.*found vocab.txt; .*transformers.BertTokenizer"):
        AlbertTokenizer.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"absent.model cannot be read: No such file"):
        AlbertTokenizer(tmp_path / "absent.model")


def test_two_vocabularies_in_one_folder_are_refused(folder: Path) -> None:
    root = json.loads((folder / "tokenizer.json").read_bytes())
    root["model"]["vocab"][100][0] = "other"
    (folder / "tokenizer.json").write_text(json.dumps(root))
    with pytest.raises(CheckpointError, match=r"different vocabularies: piece 100 is 'other' and"):
        AlbertTokenizer.from_pretrained(folder)


def test_an_added_token_on_the_id_of_another_is_refused(folder: Path) -> None:
    (folder / "added_tokens.json").write_text('{"newtok": 7}')
    with pytest.raises(ValueError, match=r"'newtok' has id 7, where the vocabulary has '\"'"):
        AlbertTokenizer.from_pretrained(folder)


def test_a_model_without_the_special_tokens_is_refused_until_they_are_named(folder: Path) -> None:
    model = proto.parse(model_bytes(), source="small")
    pieces = tuple({"[MASK]": "<mask>", "[CLS]": "<cls>"}.get(piece, piece) for piece in model.pieces)
    renamed = proto.SentencePieceModel(pieces, model.scores, model.kinds, model.charsmap)
    (folder / "odd.model").write_bytes(proto.serialize(renamed))
    with pytest.raises(ValueError, match=r"has no piece \[CLS\], \[MASK\]; name the special tokens"):
        AlbertTokenizer(folder / "odd.model")
    named = AlbertTokenizer(folder / "odd.model", mask_token="<mask>", cls_token="<cls>", bos_token="<cls>")
    assert named("a <mask>")["input_ids"][0] == named.cls_token_id == 2
    assert named.mask_token_id == 4


def test_words_that_do_not_begin_with_a_space_are_refused(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"add_prefix_space": false}')
    with pytest.raises(ValueError, match="add_prefix_space=False, expected True"):
        AlbertTokenizer.from_pretrained(folder)
