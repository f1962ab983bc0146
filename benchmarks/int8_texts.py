"""How many texts calibration needs: ranges of few texts beside those of 1,024, and what the answers make of it.

    python benchmarks/int8_texts.py -o benchmarks/results/int8_texts.json

The embedded classifier, glosses of export/calibration, three samples of every size; answers on every twelfth held-out
gloss. It prints the table of docs/int8.md.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from albert_fast import AlbertForSequenceClassification, AlbertTokenizer, Batch, Scales, ShapeProfile
from albert_fast.capture import capture
from albert_fast.pipelines.texts import Text, batches, encode
from albert_fast.precision import Quantization, prepare
from albert_fast.precision.calibration import collect

REPOSITORY = Path(__file__).parents[1]
CALIBRATION = REPOSITORY / "export" / "calibration" / "wordnet.txt"
HELD_OUT = REPOSITORY / "tests" / "data" / "wordnet_heldout.tsv"
PROFILE = ShapeProfile(1, 32, 32, 1, 32, 128)
SIZES, SAMPLES, EVERY = (4, 8, 16, 32, 64, 128, 256, 512), 3, 12
METHODS = ("percentile", "max")


def batches_of(texts: list[str]) -> list[Batch]:
    """Texts of like length together."""
    tokenizer = AlbertTokenizer.from_pretrained("albert-fast/wordnet")
    limit = PROFILE.max_length
    rows = encode(tokenizer, [Text(one) for one in texts], limit=limit, limit_name="", options={"truncation": True})
    return [batch for _, batch in batches(rows, tokenizer, PROFILE, batch_size=32)]


def answers(program: ExportedProgram, held: list[Batch]) -> Tensor:
    run = program.module(check_guards=False)
    with torch.inference_mode():
        return torch.cat([run(*batch.tensors())["logits"] for batch in held])


def ratios(scales: Scales, all_texts: Scales) -> list[float]:
    """Every range of the encoder, as a share of what all texts give."""
    pairs = ((scales.amax[name], amax) for name, amax in all_texts.amax.items() if name.startswith("encoder."))
    return [mine / theirs for found, expected in pairs for mine, theirs in zip(found, expected, strict=True)]


def measure() -> dict[str, Any]:
    """A row for every number of texts and every method, the worst of its samples."""
    model = AlbertForSequenceClassification.from_pretrained("albert-fast/wordnet", attn_implementation="sdpa")
    program = capture(model, PROFILE)
    texts = CALIBRATION.read_text(encoding="utf-8").splitlines()
    held = batches_of([line.split("\t")[2] for line in HELD_OUT.read_text(encoding="utf-8").splitlines()[::EVERY]])
    exact = answers(program, held)
    everything = collect(program, batches_of(texts))
    rows = []
    for size in (*SIZES, len(texts)):
        samples = [random.Random(seed).sample(texts, size) for seed in range(SAMPLES if size < len(texts) else 1)]
        found = [collect(program, batches_of(sample)) for sample in samples]
        for method in METHODS:
            scales = [one.scales(method) for one in found]
            near = [ratio for one in scales for ratio in ratios(one, everything.scales(method))]
            logits = answers(prepare(program, "int8", quantization=Quantization(scales[0])), held)
            rows.append(
                {
                    "texts": size, "method": method, "tokens": [one.text.tokens for one in found],
                    "smallest_ratio": min(near), "largest_ratio": max(near),
                    "mean_abs": float((logits - exact).abs().mean()),
                    "same_answer": float((logits.argmax(1) == exact.argmax(1)).float().mean()),
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    return {"model": "albert-fast/wordnet, sequence-classification", "held_out_texts": len(exact), "rows": rows}


def table(document: dict[str, Any]) -> list[str]:
    """The measurement in Markdown."""
    lines = ["| texts | tokens | percentile 99.99 | max | same answers |", "|---:|---:|---:|---:|---:|"]
    for first, second in zip(document["rows"][::2], document["rows"][1::2], strict=True):
        ranges = [f"{row['smallest_ratio']:.2f} - {row['largest_ratio']:.2f}" for row in (first, second)]
        tokens = round(sum(first["tokens"]) / len(first["tokens"]))
        lines.append(f"| {first['texts']} | {tokens} | {ranges[0]} | {ranges[1]} | {first['same_answer']:.1%} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True)
    arguments = parser.parse_args()
    document = measure()
    Path(arguments.output).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(document)))


if __name__ == "__main__":
    main()
