"""How near INT8 stays to float32 on trained weights and held-out text: this project's scales beside other tools'.

    python benchmarks/int8_accuracy.py -o benchmarks/results/int8_accuracy.json

Needs `pip install nncf` for two of the rows, or --without them. A model of ALBERT-base's widths is measured too where
tools/train_embedded.py has made build/wordnet-wide. Every variant of a model answers the same batches in one run.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from engines import conditions
from int8_subject import LENGTH, ROWS, Made, Subject, batches_of
from int8_variants import VARIANTS
from torch import Tensor

from albert_fast import AlbertConfig, AlbertTokenizer, Batch

REPOSITORY = Path(__file__).parents[1]
EMBEDDED = REPOSITORY / "albert_fast" / "embedded" / "wordnet"
WIDE = REPOSITORY / "build" / "wordnet-wide"
HELD_OUT = REPOSITORY / "tests" / "data" / "wordnet_heldout.tsv"
CALIBRATION = REPOSITORY / "export" / "calibration" / "wordnet.txt"
REFERENCE = "transformers fp32"
HEADS = ("sequence-classification", "masked-lm")
MASK, FIRST_ORDINARY_ID, MASKED_SHARE, MASK_SEED = 4, 5, 0.15, 7
Question = tuple[Batch, Callable[[Tensor], Tensor], Tensor]
"""A batch, what picks the rows of its logits that count, and the right class of each."""


class Comparison:
    """Sums over all rows of logits that are asked for, against float32's."""

    def __init__(self) -> None:
        self.rows = self.right = self.agreeing = self.lost = self.gained = 0
        self.divergence = self.absolute = self.numbers = 0.0
        self.largest = 0.0

    def add(self, expected: Tensor, found: Tensor, answers: Tensor) -> None:
        """Rows of logits ``[rows, classes]`` of float32 and of the variant, and the right class of each row."""
        before, after = expected.argmax(-1), found.argmax(-1)
        was, now = before == answers, after == answers
        self.rows += len(answers)
        self.right += int(now.sum())
        self.agreeing += int((before == after).sum())
        self.lost += int((was & ~now).sum())
        self.gained += int((~was & now).sum())
        logs = expected.double().log_softmax(-1)
        self.divergence += float((logs.exp() * (logs - found.double().log_softmax(-1))).sum())
        difference = (expected - found).abs()
        self.absolute += float(difference.double().sum())
        self.numbers += difference.numel()
        self.largest = max(self.largest, float(difference.max()))

    def figures(self) -> dict[str, Any]:
        """Shares of 1, Kullback-Leibler divergence from float32 in nats a row, and logit errors."""
        return {
            "rows": self.rows,
            "accuracy": round(self.right / self.rows, 5),
            "agreement": round(self.agreeing / self.rows, 5),
            "lost": self.lost,
            "gained": self.gained,
            "mean_kl": round(self.divergence / self.rows, 7),
            "max_abs": round(self.largest, 5),
            "mean_abs": round(self.absolute / self.numbers, 6),
        }


def classification(held_out: list[list[str]], config: AlbertConfig, tokenizer: AlbertTokenizer) -> list[Question]:
    """Which lexicographer file is a gloss from?"""
    batches, texts = batches_of([gloss for _, _, gloss in held_out], tokenizer)
    ids = [torch.tensor([config.label2id[held_out[i][0]] for i in chunk]) for chunk in texts]
    return [(batch, lambda logits: logits, answers) for batch, answers in zip(batches, ids, strict=True)]


def masked_lm(held_out: list[list[str]], config: AlbertConfig, tokenizer: AlbertTokenizer) -> list[Question]:
    """Which piece stands behind [MASK]? 15 % of the pieces of each gloss, the same in every run."""
    generator = torch.Generator().manual_seed(MASK_SEED)
    questions: list[Question] = []
    for batch in batches_of([gloss for _, _, gloss in held_out], tokenizer)[0]:
        ids, mask, types = batch.tensors()
        hidden = (ids >= FIRST_ORDINARY_ID) & (torch.rand(ids.shape, generator=generator) < MASKED_SHARE)
        if hidden.any():
            masked = Batch(torch.where(hidden, MASK, ids), mask, types)
            questions.append((masked, lambda logits, places=hidden: logits[places], ids[hidden]))
    return questions


QUESTIONS = dict(zip(HEADS, (classification, masked_lm), strict=True))


def measure(subject: Subject, questions: list[Question], names: list[str]) -> Iterator[dict[str, Any]]:
    """A row for float32 and one for each variant, each with its own conditions."""
    expected, itself = [], Comparison()
    with torch.inference_mode():
        for batch, pick, answers in questions:
            expected.append(pick(subject.theirs(*batch.tensors())).clone())
            itself.add(expected[-1], expected[-1], answers)
    weights = sum(p.numel() * p.element_size() for p in subject.theirs.parameters())
    yield {"variant": REFERENCE, **itself.figures(), "stored_bytes": weights, "notes": {}}
    for name in names:
        started = time.perf_counter()
        made: Made = VARIANTS[name].make(subject)
        made_s, started = time.perf_counter() - started, time.perf_counter()
        comparison = Comparison()
        for (batch, pick, answers), reference in zip(questions, expected, strict=True):
            comparison.add(reference, pick(made.run(batch)), answers)
        print(f"{name}: made in {made_s:.0f} s, ran in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        notes = dict(made.notes)
        yield {"variant": name, **comparison.figures(), "stored_bytes": made.stored_bytes, "notes": notes}


def parse_arguments() -> argparse.Namespace:
    """The command line, checked before any work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folders", type=Path, nargs="*", help="checkpoints (the embedded model, and build/wordnet-wide)"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument(
        "--add", action="store_true", help="keep the rows of --output that this run does not measure anew"
    )
    parser.add_argument("--limit", type=int, help="the first N held-out glosses for the classifier (all; 0: none)")
    parser.add_argument("--masked-lm-limit", type=int, default=1000, help="the same for the masked LM (1000; 0: none)")
    parser.add_argument("--calibration-texts", type=int, default=512, help="glosses to calibrate on (512)")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="NAME", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--without", nargs="+", choices=VARIANTS, default=[], metavar="NAME", help="all but these")
    arguments = parser.parse_args()
    arguments.names = [name for name in arguments.only or VARIANTS if name not in arguments.without]
    lacking = {name: missing for name in arguments.names if (missing := VARIANTS[name].missing())}
    if lacking:
        packages = " ".join(dict.fromkeys(package for missing in lacking.values() for package in missing))
        rows = " ".join(f"{name!r}" for name in lacking)
        parser.error(f"{rows} need pip install {packages}; or leave them out: --without {rows}")
    if not arguments.folders:
        arguments.folders = [EMBEDDED, WIDE] if WIDE.is_dir() else [EMBEDDED]
        if len(arguments.folders) == 1:
            print(f"{WIDE} is not there, so only {EMBEDDED.name} is measured", file=sys.stderr)
    absent = [str(folder) for folder in arguments.folders if not (folder / "config.json").is_file()]
    if absent:
        parser.error(f"no checkpoint in {', '.join(absent)}: config.json is missing")
    return arguments


def merged(kept: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of an earlier run and of this one, which has the last word, model by model in the order of ``VARIANTS``.

    Raises:
        ValueError: a model's rows were measured on different numbers of texts.
    """
    rows = {(row["model"], row["head"], row["variant"]): row for row in (*kept, *found)}
    counts: dict[tuple[str, str], set[int]] = {}
    for (model, head, _), row in rows.items():
        counts.setdefault((model, head), set()).add(row["rows"])
    unlike = [f"{model} {head}: {sorted(numbers)}" for (model, head), numbers in counts.items() if len(numbers) > 1]
    if unlike:
        raise ValueError(f"--add needs the limits of the earlier run; rows measured: {'; '.join(unlike)}")
    models, variants = list(dict.fromkeys(row["model"] for row in rows.values())), [REFERENCE, *VARIANTS]
    order = {key: (models.index(key[0]), HEADS.index(key[1]), variants.index(key[2])) for key in rows}
    return [rows[key] for key in sorted(rows, key=order.__getitem__)]


def main() -> None:
    """Write the result file after every model and head, so that a long run that breaks off leaves what it found."""
    arguments = parse_arguments()
    held_out = [line.split("\t") for line in HELD_OUT.read_text(encoding="utf-8").splitlines()]
    texts = CALIBRATION.read_text(encoding="utf-8").splitlines()[: arguments.calibration_texts]
    document: dict[str, Any] = {
        "what": "trained models on WordNet's held-out glosses against transformers in float32 with the same weights; "
        f"batches of {ROWS} of like length, at most {LENGTH} tokens; KL divergence from float32 in nats a row; lost "
        "and gained are answers that were right, or became right; masked LM: 15 % of the pieces, seeded",
        **conditions("cpu"),
        "calibration": {"texts": len(texts), "file": str(CALIBRATION.relative_to(REPOSITORY))},
        "variants": {name: variant.summary for name, variant in VARIANTS.items()},
        "rows": [],
    }
    earlier = (
        json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.add else {"rows": [], "versions": {}}
    )
    found: list[dict[str, Any]] = []
    needed = sorted({package for name in arguments.names for package in VARIANTS[name].needs})
    versions = document["versions"] | {package: importlib.metadata.version(package) for package in needed}
    document["versions"] = earlier["versions"] | versions
    limits = dict(zip(HEADS, (arguments.limit, arguments.masked_lm_limit), strict=True))
    for folder in arguments.folders:
        config, tokenizer = AlbertConfig.from_pretrained(folder), AlbertTokenizer.from_pretrained(folder)
        calibration = batches_of(texts, tokenizer)[0]
        for head in HEADS:
            if limits[head] == 0:
                continue
            questions = QUESTIONS[head](held_out[: limits[head]], config, tokenizer)
            facts = {"model": folder.name, "hidden_size": config.hidden_size, "head": head}
            with tempfile.TemporaryDirectory() as scratch:
                subject = Subject(folder, head, calibration, Path(scratch))
                for row in measure(subject, questions, arguments.names):
                    print(json.dumps(facts | row), file=sys.stderr)
                    found.append(facts | row)
            document["rows"] = merged(earlier["rows"], found)
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
