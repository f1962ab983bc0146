"""The pieces of tools/train_embedded.py, on a small made-up WordNet in the format of the real one."""

from __future__ import annotations

import dataclasses
import json
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import albert_fast

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import gloss_examples as ge
import wordnet
from gloss_model import GlossModel
from gloss_training import BATCHES_PER_STEP, Plan, Training, masked_batches
from muon import orthogonalised
from train_embedded import main, parse_arguments, prepare, take_vocabulary, train

NOUNS = ("dog", "cat", "oak", "rose", "hammer", "river", "stone", "ship", "lamp", "bread", "king", "song", "cloud")
ADJECTIVES = ("small", "large", "old", "wild", "bright", "wooden", "common", "northern", "domestic", "hollow", "sweet")
VERBS = ("carries", "eats", "holds", "cuts", "covers", "finds", "follows", "builds", "keeps", "makes", "moves")
TINY = Plan(
    steps=6, vocab_size=100, hidden_size=64, num_hidden_layers=3, tokens_per_batch=128, max_length=32, long_every=3,
    long_length=48,
)  # fmt: skip
OPTIONS = [
    f"--{name.replace('_', '-')}={value}"
    for name, value in dataclasses.asdict(TINY).items()
    if value != getattr(Plan(), name)
]
"""``TINY`` as a command line."""


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data.noun, data.verb, data.adj and data.adv: 800 synsets whose gloss tells their class."""
    folder = tmp_path_factory.mktemp("dict")
    rng = np.random.default_rng(5)
    for part, numbers in {"noun": (5, 6, 20), "verb": (30, 38), "adj": (0, 1), "adv": (2,)}.items():
        lines = ["  1 This is the licence.  ", "  2 Keep it.  "]
        for offset in range(200):
            label = numbers[offset % len(numbers)]
            noun, adjective, verb = (str(rng.choice(words)) for words in (NOUNS, ADJECTIVES, VERBS))
            gloss = f'a {adjective} {noun} of kind {label} that {verb} a {rng.choice(NOUNS)}; "the {noun} {verb}"'
            lines.append(f"{offset:08} {label:02} {part[0]} 02 {noun}_{offset} 0 {adjective}(a) 1 000 | {gloss}  ")
        (folder / f"data.{part}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def work_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def examples(dictionary: Path, work_folder: Path) -> dict[str, ge.Examples]:
    return prepare(wordnet.read_synsets(dictionary), work_folder, TINY.vocab_size)


def test_a_line_gives_its_class_its_lemmas_and_its_gloss() -> None:
    line = '00001740 02 a 02 ice-cold_drink 0 able(p) 1 001 = 05200169 n 0000 | very cold;  "an ice-cold drink"  '
    synset = wordnet.parse_line(line, "here")
    assert synset == wordnet.Synset(2, ("ice-cold drink", "able"), 'very cold; "an ice-cold drink"')
    assert synset.lexname == "adv.all"


@pytest.mark.parametrize("line", ["", "00001740 99 n 01 x 0 000 | gloss", "00001740 03 n 02 x 0", "a b c d | e"])
def test_a_line_that_is_no_synset_is_named_with_its_place(line: str) -> None:
    with pytest.raises(ValueError, match=r"data\.noun, line 7: expected a synset"):
        wordnet.parse_line(line, "data.noun, line 7")


def test_a_folder_without_wordnet_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"lacks data\.noun, data\.verb.*wordnet-base.*--wordnet"):
        wordnet.read_synsets(tmp_path)


def test_licence_lines_are_read_as_licence_and_not_as_synsets(dictionary: Path) -> None:
    assert len(wordnet.read_synsets(dictionary)) == 800
    assert wordnet.read_licence(dictionary) == "This is the licence.\nKeep it.\n"


def test_there_are_45_lexicographer_files() -> None:
    assert len(wordnet.LEXNAMES) == len(set(wordnet.LEXNAMES)) == 45
    assert wordnet.LEXNAMES[5] == "noun.animal"
    assert wordnet.LEXNAMES[43] == "verb.weather"


def test_split_keeps_about_five_percent_out_and_depends_on_the_words_alone() -> None:
    splits = [wordnet.split_of(f"gloss number {i}") for i in range(4000)]
    assert 0.02 < splits.count("test") / 4000 < 0.04
    assert 0.01 < splits.count("dev") / 4000 < 0.03
    assert all(wordnet.split_of(f" Gloss  number {i}") == split for i, split in enumerate(splits))


def test_vocabulary_has_alberts_first_ids_and_is_the_same_twice(dictionary: Path, tmp_path: Path) -> None:
    synsets = wordnet.read_synsets(dictionary)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        ge.train_vocabulary(synsets, tmp_path / name / "spiece.model", vocab_size=100)
    assert (tmp_path / "one/spiece.model").read_bytes() == (tmp_path / "two/spiece.model").read_bytes()
    tokenizer = albert_fast.AlbertTokenizer.from_pretrained(tmp_path / "one")
    pieces = tokenizer.convert_ids_to_tokens(list(range(13)))
    assert pieces == ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]", *ge.USER_DEFINED_SYMBOLS]


def test_a_pair_row_marks_its_second_part(examples: dict[str, ge.Examples]) -> None:
    train = examples["train"]
    batch = ge.collate([train.row(0, None, 64), train.row(0, 0, 64)], [0, 0])
    lemma = len(train.lemmas[0][0])
    assert batch.token_type_ids[0].sum() == 0
    assert batch.token_type_ids[1].tolist() == [0] * (lemma + 2) + [1] * (len(train.glosses[0]) + 1)
    assert batch.attention_mask[0].sum() == len(train.glosses[0]) + 2


def test_masking_hides_fifteen_percent_and_never_a_special_token() -> None:
    ids = torch.randint(ge.FIRST_ORDINARY_ID, 1000, (200, 100))
    ids[:, 0], ids[:, -1] = ge.CLS, ge.SEP
    batch = ge.TrainingBatch(ids, torch.ones_like(ids), torch.zeros_like(ids), ids[:, 0], torch.zeros_like(ids))
    masked = ge.mask_tokens(batch, np.random.default_rng(0), vocab_size=1000)
    targets = masked.masked_labels != ge.IGNORED
    assert 0.14 < targets.float().mean() < 0.16
    assert not targets[:, [0, -1]].any()
    assert torch.equal(masked.masked_labels[targets], ids[targets])
    assert torch.equal(masked.input_ids[~targets], ids[~targets])
    assert 0.78 < (masked.input_ids[targets] == ge.MASK).float().mean() < 0.82
    assert 0.08 < (masked.input_ids[targets] == ids[targets]).float().mean() < 0.12


def test_clean_rows_have_no_targets() -> None:
    ids = torch.full((4, 50), 9)
    batch = ge.TrainingBatch(ids, torch.ones_like(ids), torch.zeros_like(ids), ids[:, 0], torch.zeros_like(ids))
    masked = ge.mask_tokens(batch, np.random.default_rng(0), vocab_size=1000, clean_share=1.0)
    assert (masked.masked_labels == ge.IGNORED).all()
    assert torch.equal(masked.input_ids, ids)


def test_an_epoch_shows_every_synset_once_within_the_token_budget(examples: dict[str, ge.Examples]) -> None:
    train = examples["train"]
    rng = np.random.default_rng(0)
    batches = ge.epoch_batches(train, rng, tokens=256, pair_share=0.25, max_length=64)
    assert sorted(i for batch in batches for i, _ in batch) == list(range(len(train)))
    for batch in batches:
        width = max(len(train.row(i, None if lemma < 0 else lemma, 64)[0]) for i, lemma in batch)
        assert width * len(batch) <= 256


def test_two_workers_share_the_batches_of_one(examples: dict[str, ge.Examples]) -> None:
    alone = masked_batches(TINY, examples["train"], first_step=0, worker=0, workers=1)
    shared = [masked_batches(TINY, examples["train"], first_step=0, worker=w, workers=2) for w in (0, 1)]
    for whole, *parts in zip(alone, *shared, strict=True):
        assert len(whole) == BATCHES_PER_STEP
        for (number, one), (other_number, other) in zip(whole, [*parts[0], *parts[1]], strict=True):
            assert number == other_number
            assert torch.equal(one.input_ids, other.input_ids)


def test_every_few_batches_a_long_one_without_a_class_trains_the_far_positions(
    examples: dict[str, ge.Examples],
) -> None:
    batches = ge.training_batches(
        examples["train"], seed=1, first=0, tokens=128, pair_share=0.5, max_length=32, long_every=3, long_length=64
    )
    for number, batch in enumerate(islice(batches, 9)):
        is_long = number % 3 == 2
        assert bool((batch.labels == ge.IGNORED).all()) == is_long
        assert (batch.input_ids.shape == (2, 64)) == is_long


def test_passes_grow_to_the_configs_and_the_rate_goes_up_and_down_to_nearly_nothing() -> None:
    plan = Plan(steps=1000)
    assert [plan.passes(step) for step in (0, 500, 800, 999)] == [4, 6, 8, 12]
    assert plan.rate(0) < 0.05
    assert plan.rate(300) == 1
    assert plan.rate(999) < 0.01
    assert TINY.passes(0) == TINY.passes(5) == 3


def test_a_plan_with_minutes_follows_the_clock_where_that_is_ahead_of_the_steps() -> None:
    plan = Plan(steps=1000, minutes=10)
    assert plan.place(10, seconds=300) == 500
    assert plan.place(700, seconds=300) == 700
    assert plan.place(10, seconds=600) == 1000
    assert Plan(steps=1000).place(10, seconds=600) == 10


def test_a_training_ends_with_its_minutes_before_its_steps(examples: dict[str, ge.Examples], tmp_path: Path) -> None:
    plan = dataclasses.replace(TINY, steps=1000, minutes=0.02, long_every=0)
    train(0, 1, plan, examples, tmp_path, resume=False, evaluate_every=1000)
    ended = torch.load(tmp_path / "training.pt", weights_only=True)
    assert 0 < ended["step"] < 1000
    assert ended["seconds"] >= 60 * plan.minutes


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    for shape in ((32, 96), (96, 32), (40, 40)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
        assert values.max() < 1.3
        assert values.median() > 0.6


def steps(training: Training, examples: ge.Examples, until: int) -> list[dict[str, float]]:
    batches = masked_batches(training.plan, examples, first_step=training.step, worker=0, workers=1)
    return [training.take_step(mine, workers=1) for mine in islice(batches, until - training.step)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_lowers_both_losses(examples: dict[str, ge.Examples], dtype: str) -> None:
    training = Training(dataclasses.replace(TINY, steps=40, long_every=0, dtype=dtype))
    seen = steps(training, examples["train"], 40)
    for name in ("masked_lm", "classification"):
        first, last = (sum(s[name] for s in part) for part in (seen[:5], seen[-5:]))
        assert last < 0.8 * first, name


def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(
    examples: dict[str, ge.Examples], tmp_path: Path
) -> None:
    whole, broken, resumed = Training(TINY), Training(TINY), Training(TINY)
    steps(whole, examples["train"], 6)
    steps(broken, examples["train"], 3)
    broken.save(tmp_path / "training.pt")
    resumed.resume(tmp_path / "training.pt")
    steps(resumed, examples["train"], 6)
    for name, tensor in whole.averaged().state_dict().items():
        assert torch.equal(tensor, resumed.averaged().state_dict()[name]), name


def test_resuming_under_another_plan_is_refused_with_the_difference(tmp_path: Path) -> None:
    Training(TINY).save(tmp_path / "training.pt")
    with pytest.raises(ValueError, match="steps 6 -> 7"):
        Training(dataclasses.replace(TINY, steps=7)).resume(tmp_path / "training.pt")


def test_the_script_writes_a_folder_that_both_heads_load(dictionary: Path, work_folder: Path, tmp_path: Path) -> None:
    arguments = ["--wordnet", str(dictionary), "--work-folder", str(work_folder), "--workers", "1"]
    targets = ["--embedded", str(tmp_path / "model"), "--held-out", str(tmp_path / "heldout.tsv")]
    main([*arguments, *targets, *OPTIONS])
    for head in (albert_fast.AlbertForMaskedLM, albert_fast.AlbertForSequenceClassification):
        model = head.from_pretrained(tmp_path / "model")
        assert model.dtype == torch.float32
        assert model.config.num_labels == 45
    tensors = load_file(tmp_path / "model/model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    metrics = json.loads((tmp_path / "model/metrics.json").read_text())
    rows = [line.split("\t") for line in (tmp_path / "heldout.tsv").read_text().splitlines()]
    assert metrics["test_synsets"] == len(rows) > 0
    assert all(wordnet.split_of(gloss) == "test" for _, _, gloss in rows)
    assert "$" not in (tmp_path / "model/README.md").read_text()


def test_the_script_widens_a_model_with_its_vocabulary_and_leaves_the_held_out_text_alone(
    dictionary: Path, tmp_path: Path
) -> None:
    source = tmp_path / "narrow"
    GlossModel(TINY.config()).save_pretrained(source)
    some = wordnet.read_synsets(dictionary)[:300]  # another vocabulary than that of the whole dictionary
    ge.train_vocabulary(some, source / "spiece.model", vocab_size=TINY.vocab_size)
    arguments = ["--wordnet", str(dictionary), "--work-folder", str(tmp_path / "work"), "--workers", "1"]
    wide = ["--widen-from", str(source), "--embedded", str(tmp_path / "wide"), *OPTIONS, "--hidden-size=128"]
    assert parse_arguments([*arguments, *wide]).held_out is None
    main([*arguments, *wide, "--steps=2"])
    assert albert_fast.AlbertForMaskedLM.from_pretrained(tmp_path / "wide").config.hidden_size == 128
    assert (tmp_path / "wide/spiece.model").read_bytes() == (source / "spiece.model").read_bytes()
    card = " ".join((tmp_path / "wide/README.md").read_text().split())
    assert card.startswith("# albert-fast/wide ")
    assert f"those of `{source}`, made 128 wide" in card


def test_widening_into_the_embedded_models_own_place_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--work-folder", "work", "--widen-from", "albert_fast/embedded/wordnet"])
    assert "--widen-from needs --embedded FOLDER" in capsys.readouterr().err


def test_another_vocabulary_in_the_work_folder_is_refused(tmp_path: Path) -> None:
    for name in ("source", "work"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spiece.model").write_text(name)
    with pytest.raises(ValueError, match="is not the vocabulary of"):
        take_vocabulary(tmp_path / "source", tmp_path / "work")
