"""Linear maps of a Q/DQ graph on CPU: int8 times int8 in oneDNN, each weight packed once for all passes.

    quantize -> dequantize -> linear(dequantized weight) [-> GELU [-> quantize]]     one ``onednn.qlinear_pointwise``
    linear(dequantized weight) of an input that is kept in floating point            two or three of them, see ``_kept``

x86 multiplies unsigned by signed bytes, so activations are u8 with zero point 128: the numbers of symmetric int8, moved
by 128. oneDNN takes the shift out again exactly, in integers, with sums of the weight that it packs beside it.

A dequantized weight that is read otherwise too, as a word table that is the decoder, keeps its float arithmetic on the
rounded numbers: packed, it would be in the file twice.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers torch.ops.quantized_decomposed
from torch.export import ExportedProgram
from torch.fx import Node

from albert_fast.engine import machine
from albert_fast.engine.linear_groups import (
    LinearGroup,
    activation_behind,
    argument,
    gelu_algorithm,
    group,
    hand_out,
    side_by_side,
)
from albert_fast.engine.rewriting import Rewriting, register_fake, value_of
from albert_fast.errors import EngineError

aten, onednn, qd = torch.ops.aten, torch.ops.onednn, torch.ops.quantized_decomposed

ZERO_POINT, QMAX = 128, 127
INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Any of these adds products of bytes in 32 bits. Without them oneDNN adds pairs in 16, which overflow: on an AVX2 CPU
random numbers come out wrong by a fifth of the largest."""
_GELU_MINIMUM = 0.171
_LEVEL = 2 * QMAX
"""A rounding error of at most half a step, divided into 127 steps: each level of ``_kept`` is 254 times finer."""
_LEVELS = {torch.float32: 3, torch.bfloat16: 2, torch.float16: 2}


def require() -> None:
    """Make sure that int8 products are right and fast here.

    Raises:
        EngineError: this torch lacks oneDNN, this CPU the instructions, or oneDNN was told not to use them; the message
            names what is missing.
    """
    instead = "choose precision bf16 or fp32, or the format onnx"
    if not torch.backends.mkldnn.is_available() or not hasattr(onednn, "qlinear_pointwise"):
        raise EngineError(
            f"int8 in the format aotinductor needs a torch with oneDNN, and torch {torch.__version__} here has none; "
            f"install the build of pytorch.org for x86, or {instead}"
        )
    found = machine.cpu_flags()
    if not any(flag in found for flag in INSTRUCTIONS):
        raise EngineError(
            f"int8 in the format aotinductor needs a CPU with one of {', '.join(INSTRUCTIONS)}; this one has "
            f"{', '.join(found) or 'no instruction set that is known here'}. Without them sums overflow in 16 bits and "
            f"the answers are wrong; {instead}"
        )
    if not _sums_are_exact():
        limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA")
        raise EngineError(
            "int8 products of oneDNN are wrong here, as where it may not use this CPU's "
            f"{', '.join(flag for flag in INSTRUCTIONS if flag in found)}"
            + (f": ONEDNN_MAX_CPU_ISA is {limit}, unset it" if limit else f"; {instead}")
        )


def _sums_are_exact() -> bool:
    """Whether the largest products of bytes come out as they are: 64 times 127 * 127."""
    x = torch.full((1, 64), ZERO_POINT + QMAX, dtype=torch.uint8)
    weight = onednn.qlinear_prepack(torch.full((8, 64), QMAX, dtype=torch.int8), None)
    scales, zeros = torch.ones(8), torch.zeros(8, dtype=torch.int32)
    y = onednn.qlinear_pointwise(
        x, 1.0, ZERO_POINT, weight, scales, zeros, None, 1.0, 0, torch.float32, "none", [], "none"
    )
    return bool((y == 64 * QMAX * QMAX).all())


def is_quantized(program: ExportedProgram) -> bool:
    """Whether any weight in the graph is dequantized before it is multiplied."""
    return any(node.target is qd.dequantize_per_channel.default for node in program.graph.nodes)


def lower(program: ExportedProgram) -> tuple[ExportedProgram, dict[str, int]]:
    """Rewrite the linear maps over int8 weights to oneDNN's packed form.

    The program given is not changed; the new one shares its tensors. It is for lowering with constant folding on: run
    as it is, it packs at every call.

    Returns:
        The program, and how many linear maps and attention products of the Q/DQ graph multiply int8 (``multiplied``),
        split an input that is kept into int8 parts (``kept``), and compute in floating point (``emulated``); and how
        many ``products`` of int8 there are, query, key and value being one.
    Raises:
        EngineError: see ``require``.
    """
    require()
    register_fake("onednn::qlinear_prepack", lambda weight, x_shape: weight.new_empty(weight.shape[1], weight.shape[0]))
    lowering = _Lowering(program)
    lowering.run()
    return lowering.rewriting.finished(), dict(lowering.counts)


@dataclass(frozen=True)
class _Packed:
    """What oneDNN takes of a weight, or of a group's side by side: all nodes that fold into constants."""

    weight: Node
    scale: Node
    bias: Node | None


class _Lowering:
    def __init__(self, program: ExportedProgram) -> None:
        self.rewriting = Rewriting(program)
        self.counts: Counter[str] = Counter(multiplied=0, kept=0, emulated=0, products=0)
        self.linears = [n for n in self.rewriting.find(aten.linear.default) if _is_packable(argument(n, 1))]
        self._packed: dict[tuple[Node, ...], _Packed] = {}
        self._rows: dict[Node, Node] = {}
        self._shaped: dict[Node, Node] = {}
        self._parts: dict[Node, tuple[list[Node], Node]] = {}
        self._zeros: dict[tuple[int, torch.dtype], Node] = {}

    def run(self) -> None:
        """Rewrite all of them, in the order of the graph: a GELU's rounded result is there before it is read."""
        for found in group(self.linears):
            packed = self._pack(found)
            kind, rewrite = ("multiplied", self._quantized) if _is_pair(found.input) else ("kept", self._kept)
            self.counts[kind] += len(found.linears)
            with self.rewriting.graph.inserting_before(found.linears[0]):
                rewrite(found, packed)
        for node in self.rewriting.find(qd.dequantize_per_channel.default):
            if node.users and node.args[2] is None:  # what is left, the decoder's: the compiler wants zero points here
                node.update_arg(2, self._zero_points(int(value_of(argument(node, 1)).shape[0]), torch.int8))
        done = set(self.linears)
        for node in self.rewriting.find(aten.linear.default, aten.matmul.default):
            if node not in done and any(_is_dequantized(source) for source in node.all_input_nodes):
                self.counts["emulated"] += 1

    def _pack(self, found: LinearGroup) -> _Packed:
        if found.weights not in self._packed:
            rewriting = self.rewriting
            with rewriting.graph.inserting_before(rewriting.first_op()):
                weight = side_by_side(rewriting, tuple(argument(one, 0) for one in found.weights))
                scale = side_by_side(rewriting, tuple(argument(one, 1) for one in found.weights))
                bias = side_by_side(rewriting, found.biases)
                assert weight is not None and scale is not None
                if bias is not None and value_of(bias).dtype != torch.float32:
                    bias = rewriting.call(aten.to.dtype, bias, torch.float32)
                weight = rewriting.call(onednn.qlinear_prepack.default, weight, None)
            self._packed[found.weights] = _Packed(weight, scale, bias)
        return self._packed[found.weights]

    def _quantized(self, found: LinearGroup, packed: _Packed) -> None:
        """One product of bytes; the GELU behind it, and the rounding behind that, are computed with it."""
        rewriting, first = self.rewriting, found.linears[0]
        quantize = argument(found.input, 0)
        shaped = self._shaped.get(quantize) or argument(quantize, 0)  # of the input's dimensions, and not dead then
        gelu = activation_behind(first) if len(found.linears) == 1 else None
        again = self._requantized(gelu) if gelu is not None else None
        post_op: tuple[Any, ...] = ("none", [], "none") if gelu is None else ("gelu", [], gelu_algorithm(gelu))
        wanted = value_of(first).dtype
        computed = torch.float32 if wanted == torch.float16 else wanted  # oneDNN does not write float16 here
        output = (1.0, 0, computed) if again is None else (again.args[1], ZERO_POINT, torch.uint8)
        y = self._qlinear(self._bytes(quantize), quantize.args[1], packed, packed.bias, *output, *post_op)
        if again is not None:
            self._rows[again], self._shaped[again] = y, shaped
            return
        if computed != wanted:
            y = rewriting.call(aten.to.dtype, y, wanted)
        if gelu is not None:
            rewriting.replace(gelu, rewriting.like(y, shaped))
        else:
            hand_out(rewriting, found, y, shaped)

    def _kept(self, found: LinearGroup, packed: _Packed) -> None:
        """``x W`` with ``x`` not rounded to int8, over the weight that the other passes read packed.

        Each row of ``x`` is its largest magnitude times a sum of int8 parts, each 254 times finer than the one before:
        two parts hold what bfloat16 does (2**-16 of the largest), three what float32 does (2**-24).
        """
        rewriting, x = self.rewriting, found.input
        parts, largest = self._split(x)
        total: Node | None = None
        for level, part in enumerate(parts):
            scale = 1 / QMAX / _LEVEL**level
            y = self._qlinear(part, scale, packed, None, 1.0, 0, torch.float32, "none", [], "none")
            total = y if total is None else rewriting.call(aten.add.Tensor, total, y)
        y = rewriting.call(aten.mul.Tensor, total, largest)
        if packed.bias is not None:
            y = rewriting.call(aten.add.Tensor, y, packed.bias)
        wanted = value_of(found.linears[0]).dtype
        hand_out(rewriting, found, y if wanted == torch.float32 else rewriting.call(aten.to.dtype, y, wanted), x)

    def _split(self, x: Node) -> tuple[list[Node], Node]:
        """The rows of ``x`` as bytes, coarse to fine, and each row's largest magnitude ``[tokens, 1]``."""
        if x not in self._parts:
            call, levels = self.rewriting.call, _LEVELS[value_of(x).dtype]
            exact = x if value_of(x).dtype == torch.float32 else call(aten.to.dtype, x, torch.float32)
            rows = self.rewriting.rows(exact)
            largest = call(aten.amax.default, call(aten.abs.default, rows), [1], True)
            largest = call(aten.clamp_min.default, largest, torch.finfo(torch.float32).tiny)
            rest = call(aten.mul.Tensor, call(aten.div.Tensor, rows, largest), float(QMAX))
            parts = []
            for level in range(levels):
                parts.append(call(qd.quantize_per_tensor.default, rest, 1.0, ZERO_POINT, 1, 255, torch.uint8))
                if level < levels - 1:
                    rest = call(aten.sub.Tensor, rest, call(aten.round.default, rest))
                    rest = call(aten.mul.Tensor, rest, float(_LEVEL))
            self._parts[x] = parts, largest
        return self._parts[x]

    def _qlinear(self, rows: Node, scale: Any, packed: _Packed, bias: Node | None, *output: Any) -> Node:
        self.counts["products"] += 1
        zero_points = self._zero_points(int(value_of(packed.scale).shape[0]))
        return self.rewriting.call(
            onednn.qlinear_pointwise.default, rows, scale, ZERO_POINT, packed.weight, packed.scale, zero_points, bias,
            *output,
        )  # fmt: skip

    def _zero_points(self, channels: int, dtype: torch.dtype = torch.int32) -> Node:
        """Those of weights, which have none: the ops want them said."""
        if (channels, dtype) not in self._zeros:
            zeros = torch.zeros(channels, dtype=dtype)
            self._zeros[channels, dtype] = self.rewriting.constant(f"zero_points_{len(self._zeros)}", zeros)
        return self._zeros[channels, dtype]

    def _bytes(self, quantize: Node) -> Node:
        """What a quantize node says, as unsigned bytes ``[tokens, in]``."""
        if quantize not in self._rows:
            x, scale = quantize.args[:2]
            with self.rewriting.graph.inserting_before(quantize):
                moved = self.rewriting.call(
                    qd.quantize_per_tensor.default, x, scale, ZERO_POINT, ZERO_POINT - QMAX, ZERO_POINT + QMAX,
                    torch.uint8,
                )  # fmt: skip
                self._rows[quantize] = self.rewriting.rows(moved)
        return self._rows[quantize]

    def _requantized(self, gelu: Node) -> Node | None:
        """The quantize node that alone reads a GELU, for linear maps that read bytes; None where oneDNN cannot do it.

        oneDNN clips at -128 and not at -127 steps. A GELU is never so small, unless its range is tiny.
        """
        users = list(gelu.users)
        if len(users) == 1 and users[0].target is aten.to.dtype:
            users = list(users[0].users)
        if len(users) != 1 or users[0].target is not qd.quantize_per_tensor.default:
            return None
        quantize = users[0]
        scale = quantize.args[1]
        assert isinstance(scale, float)
        readers = [reader for pair in quantize.users for reader in pair.users]
        bytes_only = all(reader in self.linears for reader in readers)
        return quantize if bytes_only and scale * QMAX > _GELU_MINIMUM else None


def _is_packable(weight: Node) -> bool:
    """Whether a linear map's weight is dequantized from int8, which nobody reads otherwise."""
    return _is_dequantized(weight) and weight.target is qd.dequantize_per_channel.default and (
        len(argument(weight, 0).users) == 1 and all(user.target is aten.linear.default for user in weight.users)
    )  # fmt: skip


def _is_dequantized(node: Node) -> bool:
    return node.target in (qd.dequantize_per_channel.default, qd.dequantize_per_tensor.default)


def _is_pair(node: Node) -> bool:
    """Whether a value went through quantize and dequantize."""
    return node.target is qd.dequantize_per_tensor.default and (
        argument(node, 0).target is qd.quantize_per_tensor.default
    )
