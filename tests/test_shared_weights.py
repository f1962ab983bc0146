"""Weights of the engines of one process: equal ones are held once, and as long as an engine computes with them."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_samples import OPTIONS, PROFILE, differ, eager_answers, facts, references, small_config

from albert_fast.batch import Batch
from albert_fast.capture import capture
from albert_fast.engine import FORMATS, Engine, build, load
from albert_fast.heads import HEADS
from albert_fast.precision import PRECISIONS

missing = FORMATS["native"].missing()
pytestmark = pytest.mark.skipif(missing is not None, reason=missing or "")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, which tells what is resident")

BUDGET = PRECISIONS["fp32"].budget
CLASSES, TOKENS = "sequence-classification", "token-classification"
PROGRAM = """
import gc, json, sys, torch, albert_fast
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

def megabytes():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024 / 1e6

def answered(path):
    engine = albert_fast.load(path)
    return engine, engine(batch)["logits"].tolist()

batch, at_once, (first, *others) = albert_fast.Batch(torch.full((1, 9), 7)), int(sys.argv[1]), sys.argv[2:]
start = megabytes()
engine, answers = answered(first)
with ThreadPoolExecutor(at_once) as pool:
    one = megabytes()
    engines, told = zip(*pool.map(answered, others))
several = megabytes()
del engine
gc.collect()
without_the_first = megabytes()
again = [each(batch)["logits"].tolist() for each in engines]
del engines
gc.collect()
print(json.dumps({
    "first": one - start, "others": several - one, "freed_with_first": several - without_the_first,
    "freed_with_all": several - megabytes(), "answers": [answers, *told], "again": again,
}))
"""
_folder = tempfile.TemporaryDirectory(prefix="albert-fast-shared-")


@cache
def model_of(head: str, seed: int) -> Any:
    """Two passes over ALBERT-base's layer, 33 MB of float32; the seed is that of everything but the encoder."""
    config = small_config(
        vocab_size=8000, embedding_size=128, hidden_size=768, intermediate_size=3072, num_hidden_layers=2,
        num_attention_heads=12, initializer_range=0.05,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = HEADS[head].model_class(config).eval()
        torch.manual_seed(7)
        encoder = HEADS[CLASSES].model_class(config).albert
        kept = {name: value for name, value in encoder.state_dict().items() if not name.startswith("pooler")}
        model.albert.load_state_dict(kept, strict=False)
    return model


def write(model: Any, name: str, format: str = "native") -> Path:
    path = Path(_folder.name) / f"{name}{FORMATS[format].suffix}"
    build(
        capture(model, PROFILE), path, format=format, facts=facts(model), references=references(model), budget=BUDGET,
        options=OPTIONS.get(format),
    )  # fmt: skip
    return path


@cache
def engine_file(head: str = CLASSES, seed: int = 7, format: str = "native") -> Path:
    return write(model_of(head, seed), f"{format}-{head}-{seed}", format)


@cache
def differing() -> Any:
    """The model of ``engine_file()`` but for the last number of each tensor of the encoder."""
    model = HEADS[CLASSES].model_class(model_of(CLASSES, 7).config).eval()
    model.load_state_dict(model_of(CLASSES, 7).state_dict())
    with torch.no_grad():
        for parameter in model.albert.encoder.parameters():
            parameter.view(-1)[-1] += 1.0
    return model


@cache
def differing_file() -> Path:
    return write(differing(), "differing")


def text() -> Batch:
    return Batch(torch.randint(5, 8000, (2, 9)))


def assert_right(engine: Engine, model: Any) -> None:
    batch = text()
    assert differ(engine(batch), eager_answers(model, batch)) <= BUDGET.max_abs


def measured(*paths: Path, at_once: int = 1) -> dict[str, Any]:
    """Megabytes that a process of its own has resident more with engines of these files, and what they answer."""
    command = [sys.executable, "-c", PROGRAM, str(at_once), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    for before, after in zip(told["answers"][1:], told["again"], strict=True):
        assert before == after
    return told


@needs_linux
@pytest.mark.parametrize("format", ["native", "aotinductor"])
def test_a_second_engine_of_a_file_costs_little_and_the_last_one_gives_the_weights_back(format: str) -> None:
    path = engine_file(format=format)
    told = measured(path, path)
    assert told["answers"][0] == told["answers"][1]
    assert told["first"] >= 33
    assert told["others"] <= 0.25 * 33
    assert told["freed_with_first"] <= 0.25 * 33
    assert told["freed_with_all"] >= 0.85 * 33


@needs_linux
def test_another_head_over_the_same_encoder_costs_little() -> None:
    assert measured(engine_file(), engine_file(TOKENS, 8))["others"] <= 0.35 * 33


@needs_linux
def test_engines_that_are_loaded_at_the_same_time_hold_one_copy() -> None:
    told = measured(engine_file(), *[engine_file()] * 4, at_once=4)
    assert all(answer == told["answers"][0] for answer in told["answers"])
    assert told["others"] <= 0.6 * 33


@needs_linux
def test_what_is_no_longer_shared_of_a_dropped_engine_is_given_back() -> None:
    told = measured(engine_file(), differing_file())
    assert told["others"] >= 20
    assert told["freed_with_first"] >= 20


@pytest.mark.parametrize("first", [0, 1])
def test_heads_over_one_encoder_answer_with_their_own_weights_also_when_one_is_gone(first: int) -> None:
    seeds = [7, 8]
    engines = [load(engine_file(CLASSES, seed)) for seed in seeds]
    for engine, seed in zip(engines, seeds, strict=True):
        assert_right(engine, model_of(CLASSES, seed))
    del engine, engines[first], seeds[first]
    gc.collect()
    assert_right(engines[0], model_of(CLASSES, seeds[0]))
    third = load(engine_file(TOKENS, 8))
    del engines[:]
    gc.collect()
    assert_right(third, model_of(TOKENS, 8))


def test_weights_that_differ_in_their_last_numbers_are_not_taken_for_each_other() -> None:
    engines = [load(engine_file()), load(differing_file())]
    assert_right(engines[1], differing())
    assert_right(engines[0], model_of(CLASSES, 7))


def test_engines_loaded_called_and_dropped_by_several_threads_answer_right() -> None:
    def use(seed: int) -> None:
        for _ in range(3):
            assert_right(load(engine_file(CLASSES, seed)), model_of(CLASSES, seed))

    for seed in (7, 8):
        engine_file(CLASSES, seed)  # built before the threads ask for it
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, [7, 8, 7, 8]))
