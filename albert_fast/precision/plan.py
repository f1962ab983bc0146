"""The dtype of every floating tensor of a captured graph, decided before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch.fx import Graph, Node

from albert_fast.precision.policy import Runs, is_floating, needs_row, runs


@dataclass(frozen=True)
class Plan:
    """What ``decide`` found, for the floating nodes of one graph.

    Attributes:
        half: the 16-bit dtype.
        computed: dtype that a node's op runs in; for a weight, the dtype it is stored in.
        given: dtype in which others read the node's value. The graph's outputs read it as computed.
    """

    half: torch.dtype
    computed: dict[Node, torch.dtype]
    given: dict[Node, torch.dtype]


def decide(graph: Graph, half: torch.dtype, keep_float32: Sequence[str] = ()) -> Plan:
    """Choose a dtype for every floating tensor by the table ``policy.POLICY``.

    Args:
        graph: of a program as captured, in float32.
        half: ``torch.float16`` or ``torch.bfloat16``.
        keep_float32: names of tensors (nodes of ``graph``), or patterns such as ``"gelu*"``, that are never
            rounded to ``half``. The op that makes such a tensor and those that read it run in float32. A weight that
            ops of both dtypes read is stored once, in ``half``.
    Raises:
        ValueError: an op without a row, or a pattern that fits no floating tensor of the graph.
    """
    nodes = [node for node in graph.nodes if node.op in ("placeholder", "call_function")]
    rows = {node: runs(node) for node in nodes if needs_row(node)}
    floating = [node for node in nodes if is_floating(node)]
    kept = _kept(floating, rows, keep_float32)
    raised = {node for node in rows if node in kept or not kept.isdisjoint(node.all_input_nodes)}

    def in_float32(node: Node) -> bool:
        """Whether every reader runs in float32, as the output does."""
        return all(wants_float32[user] for user in node.users if user in rows)

    wants_float32: dict[Node, bool] = {}
    for node in reversed(nodes):
        row = rows.get(node)
        if row is not None:
            certain = node in raised or row is Runs.FLOAT32
            wants_float32[node] = certain or (row is not Runs.HALF and in_float32(node))

    plan = Plan(half, {}, {})
    for node in floating:
        row = rows.get(node)
        if row is None:
            stays = _only_float32_reads(node, rows, raised)
            plan.computed[node] = plan.given[node] = torch.float32 if stays else half
        elif row is Runs.AS_GIVEN:
            source = next(source for source in node.all_input_nodes if is_floating(source))
            plan.computed[node] = plan.given[node] = plan.given[source]
        else:
            unrounded = node in kept or (row is Runs.AS_READ and in_float32(node))
            plan.computed[node] = torch.float32 if wants_float32[node] else half
            plan.given[node] = torch.float32 if unrounded else half
    return plan


def _kept(floating: Sequence[Node], rows: dict[Node, Runs], patterns: Sequence[str]) -> set[Node]:
    """The nodes that the patterns name, and all that hold the same numbers in another shape."""
    unmatched = [p for p in patterns if not any(fnmatchcase(node.name, p) for node in floating)]
    if unmatched:
        raise ValueError(
            f"keep_float32 names {', '.join(unmatched)}, but the graph has no floating tensor of that name; names are "
            f"those of program.graph.nodes, such as {floating[-1].name}, or patterns of them, such as 'gelu*'"
        )
    kept = {node for node in floating if any(fnmatchcase(node.name, pattern) for pattern in patterns)}
    movers = [node for node in floating if rows.get(node) is Runs.AS_GIVEN]
    for node in reversed(movers):
        if node in kept:
            kept.update(source for source in node.all_input_nodes if is_floating(source))
    for node in movers:
        if not kept.isdisjoint(node.all_input_nodes):
            kept.add(node)
    return kept


def _only_float32_reads(weight: Node, rows: dict[Node, Runs], raised: set[Node]) -> bool:
    """A LayerNorm's weights stay as they are; so do those that nothing but raised ops read."""
    readers = [user for user in weight.users if user in rows]
    return bool(readers) and all(rows[user] is Runs.FLOAT32 or user in raised for user in readers)
