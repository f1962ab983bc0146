"""Two programs on the same texts: where their hidden states part, and which answers change."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from albert_fast.batch import Batch
from albert_fast.precision.running import GraphRunner
from albert_fast.precision.sites import canonical
from albert_fast.report.data import Accuracy, Change, ErrorPerPass, PassError

_EMBEDDINGS = "encoder.embedding_hidden_mapping_in.weight"
_END_OF_PASS = ".full_layer_layer_norm.weight"


def error_per_pass(
    exact: ExportedProgram, typed: ExportedProgram, batches: Sequence[Batch], *, name: str = "int8"
) -> ErrorPerPass:
    """``errors_per_pass`` of one program."""
    return errors_per_pass(exact, {name: typed}, batches)[0]


def errors_per_pass(
    exact: ExportedProgram, typed: Mapping[str, ExportedProgram], batches: Sequence[Batch]
) -> tuple[ErrorPerPass, ...]:
    """How far the hidden state of prepared programs is from float32 after the embeddings and after each pass.

    Args:
        exact: as captured, in float32.
        typed: what ``precision.prepare`` made of it, by name.
        batches: real text; padding is left out.
    Raises:
        ValueError: there is no batch, or a program lacks a node of ``exact``: it was made of another one.
    """
    places = hidden_states(exact)
    problems = [] if batches else ["there is no batch"]
    for name, program in typed.items():
        there = {node.name for node in program.graph.nodes}
        missing = [node for node in places if node not in there]
        problems += [f"the {name} program has no {', '.join(missing)}"] if missing else []
    if problems:
        raise ValueError(f"errors per pass need programs prepared from the exact one, and text: {'; '.join(problems)}")
    sums = {name: {node: _Sums() for node in places} for name in typed}
    watchers = {name: _Watcher(program, set(places)) for name, program in typed.items()}
    reference = _Watcher(exact, set(places))
    for batch in batches:
        mask = batch.tensors()[1].flatten(0, -2) != 0
        expected = {node: _rows(state, mask) for node, state in reference.look_at(batch).items()}
        for name, watcher in watchers.items():
            for node, state in watcher.look_at(batch).items():
                sums[name][node].add(expected[node], _rows(state, mask))
    return tuple(
        ErrorPerPass(name, tuple(of_node[node].error(after) for node, after in places.items()))
        for name, of_node in sums.items()
    )


def hidden_states(program: ExportedProgram) -> dict[str, str]:
    """Node name -> ``"embeddings"`` or the number of the pass whose hidden state the node gives, in graph order."""
    parameters = program.graph_signature.inputs_to_parameters
    weight_argument = {torch.ops.aten.linear.default: 1, torch.ops.aten.layer_norm.default: 2}
    found: dict[str, str] = {}
    for node in program.graph.nodes:
        weight = node.args[weight_argument[node.target]] if node.target in weight_argument else None
        name = canonical(parameters.get(weight.name, "")) if isinstance(weight, Node) else ""
        if name == _EMBEDDINGS:
            found[node.name] = "embeddings"
        elif name.endswith(_END_OF_PASS):
            found[node.name] = str(sum(after != "embeddings" for after in found.values()))
    return found


def predictions(program: ExportedProgram, batches: Sequence[Batch]) -> tuple[int, ...]:
    """The class of every text.

    Raises:
        ValueError: the program does not answer with one row of scores for a text.
    """
    runner, found = GraphRunner(program), []
    for batch in batches:
        logits = runner.run_batch(batch).get("logits")
        if logits is None or logits.dim() != 2:
            shape = "no logits" if logits is None else f"logits of shape {list(logits.shape)}"
            raise ValueError(f"accuracy is measured on logits [texts, classes], the program gives {shape}")
        found += logits.argmax(-1).tolist()
    return tuple(found)


def accuracy(answers: Mapping[str, Sequence[int]], labels: Sequence[int]) -> tuple[Accuracy, ...]:
    """How many answers are right, of each program, with the 95 % interval of Wilson 1927.

    Args:
        answers: ``{program: the class of every text}``; the first is what the others are compared with.
        labels: the true classes.
    Raises:
        ValueError: there is no text, or a program has more or fewer answers.
    """
    wrong = [name for name, given in answers.items() if len(given) != len(labels)]
    if wrong or not labels:
        raise ValueError(f"expected {len(labels)} answers and at least one; another number gave: {', '.join(wrong)}")
    found, reference = [], next(iter(answers.values()))
    for name, given in answers.items():
        right = sum(a == label for a, label in zip(given, labels, strict=True))
        triples = list(zip(reference, given, labels, strict=True))
        lost = sum(r == label != a for r, a, label in triples)
        gained = sum(a == label != r for r, a, label in triples)
        low, high = _wilson(right, len(labels))
        changed = sum(r != a for r, a, _ in triples)
        found.append(Accuracy(name, right, len(labels), low, high, lost, gained, changed))
    return tuple(found)


def confusion_changes(
    before: Sequence[int], after: Sequence[int], labels: Sequence[int], names: Sequence[str]
) -> tuple[Change, ...]:
    """Which classes turned into which, most texts first.

    Args:
        before, after: the class of every text, in float32 and now.
        labels: the true classes.
        names: of the classes.
    """
    texts: Counter[tuple[int, int]] = Counter()
    lost: Counter[tuple[int, int]] = Counter()
    gained: Counter[tuple[int, int]] = Counter()
    for b, a, label in zip(before, after, labels, strict=True):
        if a != b:
            texts[b, a] += 1
            lost[b, a] += b == label
            gained[b, a] += a == label
    ordered = sorted(texts, key=lambda pair: (-texts[pair], pair))
    return tuple(Change(names[b], names[a], texts[b, a], lost[b, a], gained[b, a]) for b, a in ordered)


class _Watcher(GraphRunner):
    """Keeps the values of some nodes, by name."""

    def __init__(self, program: ExportedProgram, wanted: set[str]) -> None:
        super().__init__(program)
        self.wanted = wanted
        self.values: dict[str, Tensor] = {}

    def look_at(self, batch: Batch) -> dict[str, Tensor]:
        self.values = {}
        self.run_batch(batch)
        return self.values

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.name in self.wanted:
            self.values[n.name] = value
        return value


class _Sums:
    """Sums over tokens, in float64, from which an error follows."""

    def __init__(self) -> None:
        self.count, self.largest = 0, 0.0
        self.differences = self.squares = self.exact = self.other = self.product = 0.0

    def add(self, exact: Tensor, other: Tensor) -> None:
        e, o = exact.to(torch.float64), other.to(exact.device, torch.float64)
        difference = (e - o).abs()
        self.count += e.numel()
        self.largest = max(self.largest, float(difference.max())) if e.numel() else self.largest
        self.differences += float(difference.sum())
        self.squares += float((difference**2).sum())
        self.exact += float((e**2).sum())
        self.other += float((o**2).sum())
        self.product += float((e * o).sum())

    def error(self, after: str) -> PassError:
        length = math.sqrt(self.exact * self.other)
        return PassError(
            after,
            self.differences / max(self.count, 1),
            self.largest,
            math.sqrt(self.squares / self.exact) if self.exact else 0.0,
            self.product / length if length else 1.0,
        )


def _rows(state: Tensor, mask: Tensor) -> Tensor:
    """The tokens of a hidden state ``[batch, length, hidden]`` that are not padding."""
    return state.flatten(0, -3)[mask.to(state.device)]


def _wilson(right: int, texts: int, z: float = 1.96) -> tuple[float, float]:
    share, size = right / texts, 1 + z**2 / texts
    middle = (share + z**2 / (2 * texts)) / size
    half = z * math.sqrt(share * (1 - share) / texts + z**2 / (4 * texts**2)) / size
    return max(0.0, middle - half), min(1.0, middle + half)
