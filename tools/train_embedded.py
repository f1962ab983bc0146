"""Train the embedded model ``albert-fast/wordnet`` from nothing: WordNet's glosses in, ``albert_fast/embedded`` out.

    python tools/train_embedded.py --work-folder build/wordnet
    python tools/train_embedded.py --work-folder build/wordnet --resume

One ALBERT, trained jointly for masked LM and for WordNet's 45 lexicographer files. ``--help`` lists the options.

A larger one, of ALBERT-base's widths, from the embedded one instead of from nothing:

    python tools/train_embedded.py --work-folder build/wordnet-wide-work --embedded build/wordnet-wide --widen-from \
        albert_fast/embedded/wordnet --hidden-size 768 --dtype bfloat16 --minutes 90 --matrix-learning-rate 1e-3
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import shutil
import sys
import time
from pathlib import Path

import torch
from embedded_folder import write_embedded, write_held_out
from gloss_examples import Examples, encode_synsets, train_vocabulary
from gloss_model import correct, held_out_batches
from gloss_training import Plan, Training, masked_batches
from torch import distributed, multiprocessing
from wordnet import DEFAULT_FOLDER, SPLITS, Synset, read_synsets

from albert_fast.tokenizer import AlbertTokenizer

logger = logging.getLogger("train_embedded")
REPOSITORY = Path(__file__).resolve().parents[1]
EMBEDDED = REPOSITORY / "albert_fast/embedded/wordnet"
HELD_OUT = REPOSITORY / "tests/data/wordnet_heldout.tsv"
CHOICES = {"dtype": ("float32", "bfloat16")}


def take_vocabulary(source: Path, folder: Path) -> None:
    """Copy ``source/spiece.model`` into ``folder``; ValueError where another one is there already."""
    wanted, there = source / "spiece.model", folder / "spiece.model"
    if there.exists() and there.read_bytes() != wanted.read_bytes():
        raise ValueError(f"{there} is not the vocabulary of {source}; give --work-folder another folder")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(wanted, there)


def prepare(synsets: list[Synset], folder: Path, vocab_size: int) -> dict[str, Examples]:
    """Train the vocabulary in ``folder`` unless it is there, and encode every split with it."""
    vocabulary = folder / "spiece.model"
    by_split = {name: [s for s in synsets if s.split == name] for name in SPLITS}
    if not vocabulary.exists():
        logger.info("training a vocabulary of %d pieces on %d synsets", vocab_size, len(by_split["train"]))
        folder.mkdir(parents=True, exist_ok=True)
        train_vocabulary(by_split["train"], vocabulary, vocab_size=vocab_size)
    tokenizer = AlbertTokenizer.from_pretrained(folder)

    def encode(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    return {name: encode_synsets(members, encode) for name, members in by_split.items()}


def progress(training: Training, start_step: int, start: float, last: dict[str, float]) -> str:
    """One line: where the training is, how fast, how long yet."""
    plan, done = training.plan, training.step
    seconds = (time.monotonic() - start) / max(1, done - start_step)
    left = (plan.steps - done) * seconds / 60
    if plan.minutes:
        left = min(left, plan.minutes - training.seconds / 60)
    return (
        f"step {done} ({100 * training.place / plan.steps:.1f} %)  passes {plan.passes(training.place - 1)}  "
        f"masked-LM loss {last['masked_lm']:.3f}  classification loss {last['classification']:.3f}  "
        f"{seconds:.2f} s/step  {left:.0f} min left"
    )


def train(
    worker: int,
    workers: int,
    plan: Plan,
    examples: dict[str, Examples],
    folder: Path,
    resume: bool,
    evaluate_every: int,
) -> None:
    """One worker's whole run; leaves ``folder/training.pt``. Worker 0 reports."""
    torch.set_num_threads(1 if workers > 1 else torch.get_num_threads())
    logging.basicConfig(level=logging.INFO if worker == 0 else logging.WARNING, format="%(asctime)s %(message)s")
    if workers > 1:
        meeting = f"file://{folder.resolve()}/meeting"
        distributed.init_process_group("gloo", init_method=meeting, rank=worker, world_size=workers)
    training = Training(plan)
    if resume:
        training.resume(folder / "training.pt")
    dev = held_out_batches(examples["dev"], pairs=False, max_length=128)[worker::workers]
    smoothed = {"masked_lm": 0.0, "classification": 0.0}
    start_step, start = training.step, time.monotonic()
    batches = masked_batches(
        plan, examples["train"], first_step=start_step, worker=worker, workers=workers, place=lambda _: training.place
    )
    before = training.seconds
    for count, mine in enumerate(batches, start=1):
        step_losses = training.take_step(mine, workers=workers, seconds=before + time.monotonic() - start)
        share = max(0.02, 1 / count)
        smoothed = {name: (1 - share) * smoothed[name] + share * step_losses[name] for name in smoothed}
        if worker == 0:
            line = progress(training, start_step, start, smoothed)
            if sys.stderr.isatty():
                print(f"\r{line}", end="", file=sys.stderr, flush=True)
            elif training.step % 50 == 0:
                logger.info(line)
        over = training.place >= plan.steps
        if training.step % evaluate_every == 0 or over:
            with training.autocast():
                hits = torch.tensor(correct(training.averaged(), dev, passes=plan.passes(training.place - 1)))
            if workers > 1:
                distributed.all_reduce(hits)
            if worker == 0:
                training.save(folder / "training.pt")
            logger.info(
                "step %d: %.2f %% of the %d dev glosses right; saved",
                training.step,
                100 * int(hits) / len(examples["dev"]),
                len(examples["dev"]),
            )
        if over:
            break
    if workers > 1:
        distributed.destroy_process_group()


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; every field of ``Plan`` is an option."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=Path, default=DEFAULT_FOLDER, help="folder with data.noun ... (wordnet-base)")
    parser.add_argument("--work-folder", type=Path, required=True, help="for the vocabulary and the checkpoints")
    parser.add_argument("--embedded", type=Path, help=f"folder for the model; default: {EMBEDDED}")
    parser.add_argument("--held-out", type=Path, help=f"file for the test split; default: {HELD_OUT}")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --work-folder")
    parser.add_argument("--workers", type=int, choices=(1, 2), default=2, help="processes; the steps are the same")
    parser.add_argument("--evaluate-every", type=int, default=250, help="steps between looks at the dev split")
    parser.add_argument("--write-only", action="store_true", help="write --embedded from the last checkpoint as it is")
    for field in dataclasses.fields(Plan):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(
            option, type=type(field.default), default=field.default, choices=CHOICES.get(field.name),
            help="default: %(default)s",
        )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.widen_from and not options.embedded:
        parser.error("--widen-from needs --embedded FOLDER: the wide model does not take the embedded one's place")
    if not options.widen_from:  # a widened model's test split is that of the model it came from, and stays as it is
        options.embedded, options.held_out = options.embedded or EMBEDDED, options.held_out or HELD_OUT
    return options


def main(arguments: list[str] | None = None) -> None:
    """Train, then write the embedded folder and the held-out texts."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    plan = Plan(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Plan)})
    synsets = read_synsets(options.wordnet)
    if plan.widen_from:
        take_vocabulary(Path(plan.widen_from), options.work_folder)
    examples = prepare(synsets, options.work_folder, plan.vocab_size)
    logger.info("%s", ", ".join(f"{name}: {len(e)} synsets" for name, e in examples.items()))
    if not options.write_only:
        (options.work_folder / "meeting").unlink(missing_ok=True)
        run = (options.workers, plan, examples, options.work_folder, options.resume, options.evaluate_every)
        if options.workers == 1:
            train(0, *run)
        else:
            os.environ["OMP_NUM_THREADS"] = "1"
            multiprocessing.spawn(train, args=run, nprocs=options.workers)
    logger.info("measuring on the test split")
    training = Training(plan)
    training.resume(options.work_folder / "training.pt")
    write_embedded(training, examples, synsets, options.embedded, options.work_folder, options.wordnet)
    if options.held_out:
        write_held_out(synsets, options.held_out)


if __name__ == "__main__":
    main()
