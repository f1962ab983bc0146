"""What ships: the weights rounded to float16, config, vocabulary, licence, model card, and the held-out texts."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from string import Template

import numpy as np
from gloss_examples import Examples, long_batch
from gloss_model import GlossModel, Perplexity, correct, held_out_batches, perplexity, unigram_probabilities
from gloss_training import BATCHES_PER_STEP, Plan, Training
from wordnet import Synset, gloss_digest, read_licence

from albert_fast import checkpoint

LICENCE_NAME = "LICENSE.WordNet"
HELD_OUT_LENGTH = 128
MASK_SEED = 7
LONG_ROWS = 32

CARD = Template("""\
# albert-fast/$title

An ALBERT for the tests, the demo and the benchmarks of albert-fast: real text, real labels, no download.
One shared layer makes $passes passes (hidden size $hidden_size, $parameters parameters, stored in float16).

| head | question | held-out result |
|---|---|---|
| `AlbertForSequenceClassification` | which of WordNet's 45 lexicographer files does a gloss come from? | \
**$accuracy_gloss %** right (top 1) on $test_synsets glosses alone, $accuracy_pair % on (lemma, gloss) pairs; \
always saying the commonest class: $accuracy_majority % |
| `AlbertForMaskedLM` | which piece stands behind `[MASK]`? | perplexity **$perplexity_model** at $perplexity_places \
masked places; unigram counts: $perplexity_unigram |

Measured on the weights as they ship, in float32. `metrics.json` holds the figures; the texts are those in
`tests/data/wordnet_heldout.tsv`.

## Data

WordNet 3.0 (Debian package `wordnet-base`): $synsets synsets, each with its lemmas, its gloss (definition and examples)
and its lexicographer file. The SHA-256 of the gloss decides the split: $train_synsets train, $dev_synsets dev,
$test_synsets test. No dev or test text was used for the vocabulary or for training; dev was looked at during
training, test once at the end. Equal glosses are always on one side; near-equal ones may be on both.

The vocabulary is a SentencePiece unigram model of $vocab_size pieces with ALBERT's options, trained on the train split.

## Training

`tools/train_embedded.py` made it. Seed $seed, $steps steps of at most $tokens_per_step tokens, $minutes minutes on CPU
cores shared with other work. Both losses come from one forward pass: masked LM at 15 % of the pieces, and the class;
towards the end most rows are left unmasked. A quarter of the rows are (lemma, gloss) pairs. Muon trains the encoder's
matrices, AdamW the rest; what ships is the running average of the weights.

$start

The plan:

    $plan

Another thread count or CPU rounds differently, so a rebuilt model has other weights and nearly the same figures.

## Limits

English definitions only: short, formal, lower-cased. As a classifier it knows dictionary glosses, and a sentence from a
newspaper is out of its domain. As a masked LM it is weak, and made for texts as long as a gloss: it takes 512 tokens,
but of glosses laid end to end to that length it makes little (masked perplexity $perplexity_long). It inherits the
views of WordNet's authors. Do not build a product on it.

## Licence

WordNet 3.0 Copyright 2006 by Princeton University; see `$licence`. The weights are a work derived from it.
""")


def write_embedded(
    training: Training,
    examples: dict[str, Examples],
    synsets: Sequence[Synset],
    folder: Path,
    work_folder: Path,
    wordnet: Path,
) -> dict[str, object]:
    """Round the averaged weights to float16, measure them on the test split, write the folder. Returns the metrics.

    The config gets the number of passes that the training has grown to.
    """
    model = training.averaged()
    passes = training.plan.passes(training.place - 1)
    rounded = {name: tensor.half() for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: tensor.float() for name, tensor in rounded.items()})
    metrics = measure(model, training.plan, examples, passes=passes)
    metrics |= {"synsets": len(synsets), "steps_taken": training.step, "minutes": round(training.seconds / 60, 1)}
    # transformers reads the dtype to compute in from the config: float32, whatever the file's tensors have.
    config = model.config.replace(
        num_hidden_layers=passes,
        architectures=["AlbertForMaskedLM", "AlbertForSequenceClassification"],
        dtype="float32",
    )
    checkpoint.save(config, rounded, folder)
    shutil.copyfile(work_folder / "spiece.model", folder / "spiece.model")
    tokenizer = {"tokenizer_class": "AlbertTokenizer", "model_max_length": config.max_position_embeddings}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2) + "\n", encoding="utf-8")
    (folder / LICENCE_NAME).write_text(read_licence(wordnet), encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(
        card(folder.name, metrics, training.plan, sum(p.numel() for p in model.parameters()))
    )
    return metrics


def measure(model: GlossModel, plan: Plan, examples: dict[str, Examples], *, passes: int) -> dict[str, object]:
    """Every held-out figure, and the facts of the run."""
    test = examples["test"]
    glosses = held_out_batches(test, pairs=False, max_length=HELD_OUT_LENGTH)
    pairs = held_out_batches(test, pairs=True, max_length=HELD_OUT_LENGTH)
    unigram = unigram_probabilities(examples["train"], plan.vocab_size)
    short = perplexity(model, glosses, unigram, passes=passes, seed=MASK_SEED)
    long = long_perplexity(model, test, unigram, passes=passes, length=plan.long_length)
    commonest = np.bincount(examples["train"].labels).argmax()
    return {
        "accuracy_gloss": correct(model, glosses, passes=passes) / len(test),
        "accuracy_pair": correct(model, pairs, passes=passes) / len(test),
        "accuracy_majority": float((test.labels == commonest).mean()),
        "perplexity_model": short.model,
        "perplexity_unigram": short.unigram,
        "perplexity_places": short.places,
        "perplexity_long": long.model,
        "train_synsets": len(examples["train"]),
        "dev_synsets": len(examples["dev"]),
        "test_synsets": len(test),
        "passes": passes,
        "seed": plan.seed,
    }


def long_perplexity(
    model: GlossModel, examples: Examples, unigram: np.ndarray, *, passes: int, length: int
) -> Perplexity:
    """Of held-out glosses laid end to end, at the longest length the model knows."""
    rng = np.random.default_rng(MASK_SEED)
    rows = [long_batch(examples, rng, tokens=length, length=length) for _ in range(LONG_ROWS)]
    return perplexity(model, rows, unigram, passes=passes, seed=MASK_SEED)


def start(plan: Plan, passes: object) -> str:
    """What the training started from, in sentences."""
    if not plan.widen_from:
        return f"The weights start at random, and the layer with 4 passes; it grows to {passes}."
    return (
        f"The weights start as those of `{plan.widen_from}`, made {plan.hidden_size} wide without a change to what "
        f"they compute (Net2Net, arXiv:1511.05641), then with noise of {plan.widen_noise:g} times each matrix's root "
        f"mean square; all {passes} passes are made from the start."
    )


def card(title: str, metrics: Mapping[str, object], plan: Plan, parameters: int) -> str:
    """The model card with its figures filled in."""
    shown = dict(metrics)
    for name in ("accuracy_gloss", "accuracy_pair", "accuracy_majority"):
        shown[name] = f"{100 * float(str(metrics[name])):.1f}"
    for name in ("perplexity_model", "perplexity_unigram", "perplexity_long"):
        shown[name] = f"{float(str(metrics[name])):.1f}"
    return CARD.substitute(
        shown,
        title=title,
        start=textwrap.fill(start(plan, metrics["passes"]), 120),
        hidden_size=plan.hidden_size,
        parameters=f"{parameters / 1e6:.2f} million",
        vocab_size=plan.vocab_size,
        steps=metrics["steps_taken"],
        tokens_per_step=plan.tokens_per_batch * BATCHES_PER_STEP,
        plan=", ".join(f"{name} {value}" for name, value in asdict(plan).items()),
        licence=LICENCE_NAME,
    )


def write_held_out(synsets: Sequence[Synset], path: Path) -> None:
    """The test split as tab-separated lexname, first lemma and gloss, a row a synset.

    In the order of the glosses' digests, so that the first rows are a fair sample of all.
    """
    held_out = sorted((s for s in synsets if s.split == "test"), key=lambda s: gloss_digest(s.gloss))
    rows = [f"{s.lexname}\t{s.lemmas[0]}\t{s.gloss}\n" for s in held_out]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(rows), encoding="utf-8")
