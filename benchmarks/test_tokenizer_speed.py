"""How fast text becomes ids beside transformers' own tokenizer, on real sentences, the ids compared first.

    pytest benchmarks/test_tokenizer_speed.py
    python benchmarks/test_tokenizer_speed.py -o benchmarks/results/tokenizer.json

Four situations of a batch of 1,000 sentences, each timed in turn with transformers' in one process: ``seen`` (the same
sentences again, as in training epochs), ``next`` (other sentences, after a first thousand), ``new`` (both have
forgotten every word they met) and ``offsets`` (seen sentences, with the place of each token in the text).
``time_ratio`` is ours over theirs: below 1 is faster.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from albert_fast.tokenizer import AlbertTokenizer

REPOSITORY = Path(__file__).parents[1]
SENTENCES = REPOSITORY / "tests/data/wordnet_heldout.tsv"
VOCABULARY = Path(os.environ.get("ALBERT_FAST_VOCAB_DIR", "no such folder"))
BATCH = 1_000


@cache
def sentences() -> list[str]:
    """Held-out WordNet glosses, of which the tokenizer has met none."""
    rows = [line.split("\t") for line in SENTENCES.read_text(encoding="utf-8").splitlines()]
    return list(dict.fromkeys(row[2] for row in rows if len(row) == 3 and row[0] != "lexname"))


def published() -> bool:
    """Whether the published vocabulary of 30,000 pieces is here; else the embedded model's serves."""
    return (VOCABULARY / "tok_hub" / "tokenizer.json").is_file()


def source() -> str | Path:
    """Where our tokenizer is loaded from."""
    return VOCABULARY / "tok_hub" if published() else "albert-fast/wordnet"


@cache
def both() -> tuple[AlbertTokenizer, Any, tempfile.TemporaryDirectory[str]]:
    """Our tokenizer and that of transformers, from the same files, and the folder of those files."""
    import transformers

    folder = tempfile.TemporaryDirectory(prefix="tokenizer-speed-")
    ours = AlbertTokenizer.from_pretrained(source())
    ours.save_pretrained(folder.name)
    theirs = transformers.AlbertTokenizer.from_pretrained(folder.name)
    return ours, theirs, folder


def assert_equal(texts: list[str]) -> None:
    ours, theirs, _ = both()
    assert dict(ours(texts, return_offsets_mapping=True)) == dict(theirs(texts, return_offsets_mapping=True))


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@pytest.fixture(scope="module", autouse=True)
def needs_sentences() -> None:
    if not SENTENCES.is_file():
        pytest.skip(f"needs {SENTENCES.relative_to(REPOSITORY)}, the held-out glosses")
    pytest.importorskip("transformers", reason="compares with transformers: pip install 'albert-fast[bench]'")


@pytest.mark.parametrize("who", ["albert-fast", "transformers"])
@pytest.mark.parametrize("offsets", [False, True])
def test_a_batch_of_1000_sentences(offsets: bool, who: str, benchmark: Any) -> None:
    texts = sentences()[:BATCH]
    assert_equal(texts)
    tokenizer = both()[0 if who == "albert-fast" else 1]
    benchmark.group = f"{len(texts)} sentences{' with offsets' if offsets else ''}"
    benchmark(lambda: tokenizer(texts, return_offsets_mapping=offsets))


def measure(repeats: int) -> dict[str, Any]:
    """The four situations, interleaved: ours, theirs, ours, theirs, ..."""
    ours, theirs, _ = both()
    texts = sentences()
    batches = [texts[start : start + BATCH] for start in range(0, len(texts) - BATCH + 1, BATCH)]
    if not batches:
        sys.exit(f"{SENTENCES} has {len(texts)} sentences, expected at least {BATCH}")
    for batch in batches:
        assert_equal(batch)
    out: dict[str, Any] = {}
    for situation in ("seen", "next", "new", "offsets"):
        times: list[tuple[float, float]] = []
        for turn in range(repeats):
            batch = batches[turn % len(batches)] if situation == "new" else batches[0]
            if situation in ("new", "next"):
                ours._encoder.unigram.forget()
                theirs.backend_tokenizer.model._clear_cache()
            if situation == "next":
                batch = batches[(turn + 1) % len(batches)]
                for tokenizer in (ours, theirs):
                    tokenizer(batches[turn % len(batches)])
            pair = [
                partial(tokenizer, batch, return_offsets_mapping=situation == "offsets") for tokenizer in (ours, theirs)
            ]
            times.append((seconds(pair[0]), seconds(pair[1])))
        first, second = ([1e3 * value for value in column] for column in zip(*times, strict=True))
        out[situation] = {
            "albert_fast_ms": _quantiles(first),
            "transformers_ms": _quantiles(second),
            "time_ratio": _quantiles([a / b for a, b in times]),
        }
    return out


def _quantiles(values: list[float]) -> dict[str, float]:
    return {"p50": round(statistics.median(values), 4), "p95": round(statistics.quantiles(values, n=20)[-1], 4)}


def main() -> None:
    """Write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="where to write the JSON; printed if not given")
    parser.add_argument("--repeats", type=int, default=30, help="turns of each situation (30)")
    arguments = parser.parse_args()
    packages = ("transformers", "tokenizers", "sentencepiece", "numpy")
    result = {
        "what": f"a batch of {BATCH} held-out WordNet glosses to ids; time_ratio is albert-fast over transformers",
        "vocabulary": "published 30k-clean.model" if published() else "albert-fast/wordnet",
        "pieces": both()[0].vocab_size,
        "characters_per_sentence": round(sum(map(len, sentences()[:BATCH])) / BATCH, 1),
        "repeats": arguments.repeats,
        "tokenizers_parallelism": os.environ.get("TOKENIZERS_PARALLELISM", "true"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": platform.system(),
            "load_average": os.getloadavg()[0],
        },
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "ids_equal": True,
        "situations": measure(arguments.repeats),
    }
    text = json.dumps(result, indent=2) + "\n"
    if arguments.output is None:
        sys.stdout.write(text)
    else:
        arguments.output.write_text(text, encoding="utf-8")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
