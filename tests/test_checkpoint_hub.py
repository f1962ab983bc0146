"""Hub names, offline: the cache of huggingface_hub is laid out here by hand and read by the real package."""

from __future__ import annotations

import sys

import pytest
from checkpoint_samples import same_tensors, stored, their_model

import albert_fast
from albert_fast.checkpoint import hub, load
from albert_fast.errors import CheckpointError, MissingDependencyError

COMMIT = "a" * 40


@pytest.fixture
def cache(tmp_path):
    """A cache that holds owner/tiny at main and at the tag v1, with different weights."""
    pytest.importorskip("huggingface_hub", reason="needs huggingface_hub: pip install 'albert-fast[hub]'")
    repository = tmp_path / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    for seed, (ref, commit) in enumerate({"main": COMMIT, "v1": "b" * 40}.items()):
        (repository / "refs" / ref).write_text(commit)
        their_model("AlbertForMaskedLM", seed=seed).save_pretrained(repository / "snapshots" / commit)
    return tmp_path


@pytest.mark.parametrize(("revision", "seed"), [(None, 0), ("main", 0), ("v1", 1), ("b" * 40, 1)])
def test_a_cached_hub_name_loads_without_network_at_its_revision(cache, revision, seed):
    checkpoint = load("owner/tiny", revision=revision, cache_dir=cache, local_files_only=True)
    assert checkpoint.folder.parent.name == "snapshots"
    same_tensors(checkpoint.tensors, stored(their_model("AlbertForMaskedLM", seed=seed)))


def test_from_pretrained_takes_hub_names(cache):
    model = albert_fast.AlbertForMaskedLM.from_pretrained("owner/tiny", cache_dir=cache, local_files_only=True)
    assert model.config.vocab_size == 50


def test_a_cached_repository_without_weights_says_what_it_holds(cache):
    for path in cache.rglob("model.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"holds no checkpoint.*found config\.json"):
        load("owner/tiny", cache_dir=cache, local_files_only=True)


@pytest.mark.parametrize(("name", "revision"), [("owner/absent", None), ("owner/tiny", "v7"), ("absent", None)])
def test_what_the_cache_lacks_offline_is_one_clear_error(cache, name, revision):
    with pytest.raises(
        CheckpointError, match=rf"'{name}' \(revision {revision or 'main'}\).*Next step: allow the network"
    ):
        load(name, revision=revision, cache_dir=cache, local_files_only=True)


def test_an_unreachable_hub_is_one_clear_error(cache, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="Next step: allow the network"):
        load("owner/absent", cache_dir=cache)


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "../x", "a/b/c", "", "~/x", "./x", "a..b/c", "a b", "https://x.y/z", "x" * 200]
)
def test_what_is_neither_folder_nor_hub_name_is_one_clear_error(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no hub name|holds no checkpoint"):
        load(name)


def test_an_embedded_name_needs_neither_network_nor_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    folder = hub.resolve("albert-fast/wordnet")
    assert folder.parts[-3:] == ("albert_fast", "embedded", "wordnet")


def test_without_the_extra_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"albert-fast\[hub\]"):
        load("owner/tiny")
