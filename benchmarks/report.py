"""Rewrite the tables in the README and the docs, and engines*.html, from the files in benchmarks/results/.

python benchmarks/report.py            rewrite
python benchmarks/report.py --check    exit with 1 where a table is not what the result files say
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asked_table
import engine_tables
import first_result_table
import second_engine_table
from engine_tables import engines, left_out, made, shares, steadiness
from engines_page import engines_page

from albert_fast.engine import FORMATS
from albert_fast.precision import PRECISIONS
from albert_fast.recipe.support import cells

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
PAGES = ("README.md", "docs/performance.md", "docs/engines.md", "docs/int8.md")


def read(name: str) -> Any:
    """A result file's content."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def conditions(document: dict[str, Any]) -> str:
    """Under which the figures hold, in a sentence."""
    processor, versions = f"{document['processor']} ({document['capability']})", document["versions"]
    return (
        f"{processor}, {document['threads']} threads, torch {versions['torch']}, transformers "
        f"{versions['transformers']}; float32 unless named, all engines timed in turns in one run"
    )


README_ENGINES = ("native", "aotinductor", "onnx", "tflite int8", "transformers", "ONNX Runtime", "OpenVINO")
"""How names of the rows in the README begin; the other rows are in docs/performance.md."""


def readme() -> list[str]:
    """The README's table: ALBERT-base and its conditions."""
    document = read("engines.json")
    chosen = {**document, "rows": [row for row in document["rows"] if row["engine"].startswith(README_ENGINES)]}
    return [
        "ALBERT-base classifier, batch x length:",
        "",
        *engines(chosen, "albert-base-v2"),
        "",
        f"{conditions(document)} ([results](benchmarks/results/engines.json), [more](docs/performance.md)).",
    ]


def performance() -> list[str]:
    """Both models: how fast, how near the machine's limit, how steady, and what an engine takes to make and load."""
    document = read("engines.json")
    lines = [conditions(document) + ".", ""]
    for model in dict.fromkeys(row["model"] for row in document["rows"]):
        lines += [f"**{model}**", ""]
        for table in (engines, shares, steadiness, made, left_out):
            lines += [*table(document, model), ""] if table(document, model) else []
    return lines[:-1]


def full() -> list[str]:
    """ALBERT-base at every length and batch of the full grid."""
    return engine_tables.full(read("engines-full.json"), "albert-base-v2")


def first_result() -> list[str]:
    """From ``import torch`` to the first answer, and the memory that it takes."""
    return first_result_table.first_result(read("first_result.json"))


def memory() -> list[str]:
    """The most memory that a process holds from loading to its first answer, by shape."""
    return first_result_table.memory(read("memory.json"))


def attention() -> list[str]:
    """The op for attention beside PyTorch's."""
    return engine_tables.attention(read("attention.json"))


def second_engine() -> list[str]:
    """What an engine over weights that are there already adds to a process."""
    return second_engine_table.second_engine(read("second_engine.json"))


def asked() -> list[str]:
    """A masked LM's scores for every token and at asked positions alone."""
    return asked_table.asked(read("asked.json"))


def callers() -> list[str]:
    """Texts a second and the 99th percentile of the wait, by who calls."""
    return engine_tables.callers(read("callers.json"))


def tokenizer() -> list[str]:
    """Ours by transformers' own, for a batch of 1,000 sentences."""
    document = read("tokenizer.json")
    lines = ["| 1,000 sentences | albert-fast ms | transformers ms | time ratio |", "|---|---:|---:|---:|"]
    for name, times in document["situations"].items():
        figures = [times[key]["p50"] for key in ("albert_fast_ms", "transformers_ms")]
        lines.append(f"| {name} | {figures[0]:.1f} | {figures[1]:.1f} | {times['time_ratio']['p50']:.2f} |")
    return lines


def embedded() -> list[str]:
    """The embedded model on its held-out glosses."""
    path = REPOSITORY / "albert_fast" / "embedded" / "wordnet" / "metrics.json"
    figures = json.loads(path.read_text(encoding="utf-8"))
    return [
        "| held-out WordNet glosses | albert-fast/wordnet | by chance |",
        "|---|---:|---:|",
        f"| top-1 of 45 classes, gloss alone | {figures['accuracy_gloss']:.1%} | {figures['accuracy_majority']:.1%} |",
        f"| top-1 of 45 classes, lemma and gloss as a pair | {figures['accuracy_pair']:.1%} | |",
        f"| masked-LM perplexity | {figures['perplexity_model']:.0f} | {figures['perplexity_unigram']:.0f} |",
    ]


def formats() -> list[str]:
    """Every file format: its file, where it runs, what it needs, and its options."""
    lines = ["| format | file | runs on | needs | what it is |", "|---|---|---|---|---|"]
    for row in FORMATS.values():
        needs = f"`albert-fast[{row.extra}]`" if row.extra else "nothing"
        suffix = f"`{row.suffix}`" if row.suffix else "none, in process"
        lines.append(f"| `{row.name}` | {suffix} | {', '.join(row.devices)} | {needs} | {row.summary} |")
    return lines


def options() -> list[str]:
    """The options of every format that has any."""
    lines = ["| format | option | what it does |", "|---|---|---|"]
    rows = [(row.name, *option) for row in FORMATS.values() for option in row.options.items()]
    return lines + [f"| `{format}` | `{name}` | {words} |" for format, name, words in rows]


def support() -> list[str]:
    """Format x precision x device: which attention implementations there are, or the number of the reason below."""
    places = list(itertools.product(PRECISIONS, ("cpu", "cuda")))
    reasons: dict[str, int] = {}
    lines = [
        "| format | " + " | ".join(f"{precision} {device}" for precision, device in places) + " |",
        "|---|" + ":---:|" * len(places),
    ]
    found = {(c.format, c.precision, c.device): c for c in cells()}
    served = {
        key: [c.attention for c in cells() if (c.format, c.precision, c.device) == key and c.reason is None]
        for key in found
    }
    for format in FORMATS:
        texts = []
        for place in places:
            reason = found[format, *place].reason
            number = None if reason is None else reasons.setdefault(reason, len(reasons) + 1)
            texts.append(", ".join(served[format, *place]) if number is None else f"- ({number})")
        lines.append(f"| `{format}` | " + " | ".join(texts) + " |")
    return [*lines, "", *(f"{number}. {reason}." for reason, number in reasons.items())]


def runner() -> list[str]:
    """From starting a process to its first line of output."""
    document = read("cpp_runner.json")
    lines = ["| from process start to the first line | p50 ms | p95 ms |", "|---|---:|---:|"]
    return lines + [f"| {n} | {ms['p50']:.0f} | {ms['p95']:.0f} |" for n, ms in document["first_line_ms"].items()]


def int8() -> list[str]:
    """Each model's table: how near every variant stays to float32, as a classifier and as a masked LM."""
    document = read("int8_accuracy.json")
    lines: list[str] = []
    for model in dict.fromkeys(row["model"] for row in document["rows"]):
        mine = [row for row in document["rows"] if row["model"] == model]
        heads = {
            head: {r["variant"]: r for r in mine if r["head"] == head}
            for head in dict.fromkeys(r["head"] for r in mine)
        }
        counts = ", ".join(f"{head}: {next(iter(rows.values()))['rows']:,} rows" for head, rows in heads.items())
        lines += [
            f"**{model}**, hidden size {mine[0]['hidden_size']} ({counts})",
            "",
            "| | " + " | ".join(f"{head} right | as float32 | KL | largest logit error" for head in heads) + " | MB |",
            "|---|" + "---:|" * (4 * len(heads) + 1),
        ]
        for variant in dict.fromkeys(row["variant"] for row in mine):
            found = [rows.get(variant) for rows in heads.values()]
            figures = [
                f"{r['accuracy']:.2%} | {r['agreement']:.2%} | {r['mean_kl']:.5f} | {r['max_abs']:.2f}"
                if r
                else " | | | "
                for r in found
            ]
            stored = next(r["stored_bytes"] for r in found if r)
            lines.append(f"| {variant} | " + " | ".join(figures) + f" | {stored / 1e6:.1f} |")
        lines.append("")
    return lines[:-1]


TABLES: dict[str, Callable[[], list[str]]] = {
    "engines": readme,
    "performance": performance,
    "full": full,
    "first_result": first_result,
    "memory": memory,
    "attention": attention,
    "second_engine": second_engine,
    "asked": asked,
    "callers": callers,
    "tokenizer": tokenizer,
    "runner": runner,
    "embedded": embedded,
    "int8": int8,
    "formats": formats,
    "options": options,
    "support": support,
}


def rewritten(text: str) -> str:
    """A page with every ``<!-- table: NAME -->`` ... ``<!-- end of table -->`` filled anew."""

    def fill(found: re.Match[str]) -> str:
        return "\n".join([f"<!-- table: {found[1]} -->", *TABLES[found[1]](), "<!-- end of table -->"])

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end of table -->", fill, text, flags=re.DOTALL)


def page(name: str) -> str:
    """The charts of a result file of engines."""
    document = read(name)
    return engines_page(document, conditions(document))


def generated() -> dict[Path, str]:
    """Every file that follows from the results, with the text it should have."""
    wanted = {REPOSITORY / name: rewritten((REPOSITORY / name).read_text("utf-8")) for name in PAGES}
    charts = {path.with_suffix(".html"): page(path.name) for path in sorted(RESULTS.glob("engines*.json"))}
    return wanted | charts


def main() -> int:
    """Rewrite the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    arguments = parser.parse_args()
    stale = {path: text for path, text in generated().items() if not path.exists() or path.read_text("utf-8") != text}
    for path, text in ({} if arguments.check else stale).items():
        path.write_text(text, encoding="utf-8")
    if arguments.check and stale:
        names = ", ".join(str(path.relative_to(REPOSITORY)) for path in stale)
        print(f"not what benchmarks/results says: {names}; run python benchmarks/report.py", file=sys.stderr)
    return int(arguments.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
