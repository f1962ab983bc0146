"""AlbertConfig: Hugging Face's fields, nothing lost, and one message for everything that is wrong."""

import dataclasses
import json

import pytest

from albert_fast import AlbertConfig
from albert_fast.config import PUBLISHED


def test_every_field_of_transformers_exists_with_its_default():
    transformers = pytest.importorskip("transformers", reason="compares with transformers.AlbertConfig")
    theirs, ours = transformers.AlbertConfig(), AlbertConfig()
    fields = [f.name for f in dataclasses.fields(ours) if f.name not in ("extra", "position_embedding_type")]
    for name in [*fields, "num_labels", "label2id"]:
        assert getattr(ours, name) == getattr(theirs, name), name


def test_a_config_survives_saving_and_loading_with_its_unknown_fields(tmp_path):
    config = AlbertConfig(
        hidden_size=48, num_attention_heads=3, dropout=0.1, net_structure_type=0, id2label={0: "no", 1: "yes"}
    )
    config.save_pretrained(tmp_path)
    again = AlbertConfig.from_pretrained(tmp_path)
    assert again == config and hash(again) == hash(config)
    assert again.extra == {"dropout": 0.1, "net_structure_type": 0}
    assert again.label2id == {"no": 0, "yes": 1}


def test_transformers_reads_a_saved_config_and_writes_one_that_is_read_back(tmp_path):
    transformers = pytest.importorskip("transformers", reason="compares with transformers.AlbertConfig")
    ours = AlbertConfig.published("albert-base-v1").replace(num_labels=7)
    ours.save_pretrained(tmp_path)
    theirs = transformers.AlbertConfig.from_pretrained(tmp_path)
    assert (theirs.hidden_size, theirs.hidden_act, theirs.num_labels) == (768, "gelu", 7)
    theirs.save_pretrained(tmp_path)
    again = AlbertConfig.from_pretrained(tmp_path)
    assert again.replace(extra={}) == ours


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_published_size_is_had_by_its_name(name):
    config = AlbertConfig.from_pretrained(name)
    assert config == AlbertConfig.published(f"albert/{name}")
    assert config.head_size == (128 if "-xlarge" in name else 64)
    assert config.schedule == (0,) * (24 if "large" in name and "xxlarge" not in name else 12)
    assert (config.hidden_act, config.hidden_dropout_prob) == (
        ("gelu_new", 0.0) if name.endswith("v2") else ("gelu", 0.0 if "xxlarge" in name else 0.1)
    )


def test_a_field_of_a_file_can_be_overridden_also_the_number_of_labels(tmp_path):
    AlbertConfig(id2label={0: "no", 1: "yes"}).save_pretrained(tmp_path)
    assert AlbertConfig.from_pretrained(tmp_path, num_labels=3, hidden_act="relu").num_labels == 3


def test_a_name_that_is_no_folder_and_no_hub_name_is_refused():
    with pytest.raises(ValueError, match="is no folder on this machine and no hub name"):
        AlbertConfig.from_pretrained("no such/folder/here")


def test_the_schedule_counts_layers_group_by_group():
    config = AlbertConfig(num_hidden_layers=5, num_hidden_groups=2, inner_group_num=2)
    assert config.schedule == (0, 1, 0, 1, 0, 1, 2, 3, 2, 3)


def test_a_config_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AlbertConfig().hidden_size = 3


def test_replacing_the_number_of_labels_renames_them():
    assert AlbertConfig(id2label={0: "a", 1: "b", 2: "c"}).replace(num_labels=1).id2label == {0: "LABEL_0"}
    assert AlbertConfig(id2label={0: "a", 1: "b"}).replace(hidden_act="relu").id2label == {0: "a", 1: "b"}


def test_all_problems_are_told_at_once():
    with pytest.raises(ValueError) as error:
        AlbertConfig(hidden_size=0, vocab_size="many", hidden_act="gellu", hidden_dropout_prob=2, layer_norm_eps=-1)
    problems = (
        "hidden_size is 0",
        "vocab_size is 'many'",
        "hidden_act is 'gellu'",
        "gelu_new",
        "prob is 2",
        "eps is -1",
    )
    for part in problems:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 50, "num_attention_heads": 4}, "no multiple of 4 attention heads"),
        ({"num_hidden_layers": 2, "num_hidden_groups": 3}, "some would never run"),
        ({"pad_token_id": 30000}, "below vocab_size 30000"),
        ({"position_embedding_type": "relative_key"}, "only 'absolute'"),
        ({"model_type": "bert"}, "model_type is 'bert', expected 'albert'"),
        ({"id2label": {0: "a", 2: "b"}}, "expected 0..1"),
        ({"id2label": {0: "a"}, "num_labels": 3}, "names 1 classes"),
        ({"num_labels": 0}, "num_labels is 0"),
        ({"hidden_size": 10**12}, "expected an integer from 1 to 65536"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"hidden_size": 65536, "intermediate_size": 262144, "num_attention_heads": 64}, "billion parameters"),
        ({"hidden_size": True}, "hidden_size is True"),
    ],
)
def test_values_that_make_no_albert_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        AlbertConfig(**values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[1]", "holds a JSON list"),
        (b'{"model_type": "bert"}', "'bert'"),
    ],
)
def test_a_damaged_config_file_is_refused(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        AlbertConfig.from_pretrained(tmp_path)


def test_a_folder_without_config_is_refused_and_says_what_is_needed(tmp_path):
    with pytest.raises(ValueError, match="save_pretrained"):
        AlbertConfig.from_pretrained(tmp_path)


def test_an_unknown_published_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="albert-base-v1, albert-base-v2"):
        AlbertConfig.published("albert-tiny")


def test_saving_leaves_the_old_config_when_the_disk_refuses(tmp_path, monkeypatch):
    AlbertConfig(hidden_size=48, num_attention_heads=3).save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        AlbertConfig().save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
    assert json.loads(before)["hidden_size"] == 48
