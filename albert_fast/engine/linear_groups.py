"""Which linear maps read one value, so that one product with their weights side by side does for all of them.

Query, key and value do, in every pass. Their weights are concatenated once, in the graph itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.fx import Node

from albert_fast.engine.rewriting import Rewriting

aten = torch.ops.aten


@dataclass(frozen=True)
class LinearGroup:
    """Linear maps (``aten.linear`` nodes) of one input, in the order of the graph; often just one."""

    linears: tuple[Node, ...]

    @property
    def input(self) -> Node:
        """What they read."""
        return argument(self.linears[0], 0)

    @property
    def weights(self) -> tuple[Node, ...]:
        """Their weights."""
        return tuple(argument(linear, 1) for linear in self.linears)

    @property
    def biases(self) -> tuple[Node, ...]:
        """Their biases: one each, or none at all."""
        return tuple(linear.args[2] for linear in self.linears if has_bias(linear))  # type: ignore[misc]


def group(linears: Iterable[Node]) -> list[LinearGroup]:
    """Put those that read one value together, where they do so with the same weights in every pass.

    A weight that one pass reads in other company stays alone everywhere, for it is stored once. So does one with an
    activation of its own behind it, which is better computed with the product.
    """
    by_input: dict[Node, list[Node]] = {}
    for linear in linears:
        by_input.setdefault(argument(linear, 0), []).append(linear)
    groups = [LinearGroup(tuple(found)) for found in by_input.values()]
    companies = Counter(weight for weights in {found.weights for found in groups} for weight in weights)
    shared = {weight for weight, count in companies.items() if count > 1}
    apart = {found.weights for found in groups if not _can_be_one(found) or shared.intersection(found.weights)}
    result = []
    for found in groups:
        together = found.weights not in apart
        result += [found] if together else [LinearGroup((linear,)) for linear in found.linears]
    return result


def _can_be_one(found: LinearGroup) -> bool:
    return len(found.biases) in (0, len(found.linears)) and not any(map(activation_behind, found.linears))


def activation_behind(linear: Node) -> Node | None:
    """The GELU that alone reads a linear map, or None."""
    users = list(linear.users)
    return users[0] if len(users) == 1 and users[0].target is aten.gelu.default else None


def gelu_algorithm(gelu: Node) -> str:
    """``"tanh"`` or ``"none"``: how a GELU is computed."""
    return str(gelu.kwargs.get("approximate", gelu.args[1] if len(gelu.args) > 1 else "none"))


def side_by_side(rewriting: Rewriting, parts: tuple[Node, ...]) -> Node | None:
    """Weights, scales or biases of a group as one tensor; None where there are none."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return rewriting.call(aten.cat.default, list(parts))


def hand_out(rewriting: Rewriting, found: LinearGroup, y: Node, x: Node) -> None:
    """Give each reader of a group its columns of the product ``y``, ``[tokens, all their outputs]``.

    ``x`` is a node of their input's leading dimensions.
    """
    start, shares = 0, []
    for linear in found.linears:
        columns = int(linear.meta["val"].shape[-1])
        mine = y
        if len(found.linears) > 1:
            mine = rewriting.call(aten.slice.Tensor, y, 1, start, start + columns)
        shares.append(rewriting.like(mine, x))
        start += columns
    for linear, share in zip(found.linears, shares, strict=True):  # last: new nodes go in before the first linear map
        rewriting.replace(linear, share)


def has_bias(linear: Node) -> bool:
    """Whether a linear map adds a bias."""
    return len(linear.args) > 2 and linear.args[2] is not None


def argument(node: Node, index: int) -> Node:
    """An argument that is a node."""
    found = node.args[index]
    assert isinstance(found, Node)
    return found
