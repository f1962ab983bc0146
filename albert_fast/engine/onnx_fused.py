"""The fused form of an ONNX graph: ONNX Runtime's own operators for attention and for residual plus LayerNorm.

``MultiHeadAttention`` and ``SkipLayerNormalization`` take every weight as it is, so the passes go on sharing them.
The optimizer that comes with ONNX Runtime (``onnxruntime.transformers.optimizer``, 1.32) is not used. It finds no
attention in a captured graph; where it finds some, it merges query, key and value once for every pass; and its
``BiasGelu`` is the exact GELU in place of ALBERT's tanh approximation, an error of 1e-4 that nobody asked for.
"""

from __future__ import annotations

from typing import Any

from albert_fast._optional import require

DOMAIN = "com.microsoft"


def fuse(model: Any) -> tuple[Any, int]:
    """Replace what ONNX Runtime has one operator for.

    Args:
        model: an ``onnx.ModelProto`` of ``onnx_graph.to_onnx``; it is not changed.
    Returns:
        The fused ``onnx.ModelProto``, which only ONNX Runtime runs, and how many operators were put in.
    """
    ir, rewriter, common = (
        require(module, extra="onnx", purpose="fuse an ONNX graph")
        for module in ("onnx_ir", "onnxscript.rewriter", "onnx_ir.passes.common")
    )
    fused = ir.from_proto(model)
    rules = [
        rewriter.pattern.RewriteRule(_attention, _multi_head_attention),
        *rewriter.pattern.RewriteRule(_residual_norm, _skip_layer_normalization, _has_bias).commute(),
    ]
    count = rewriter.pattern.RewriteRuleSet(rules).apply_to_model(fused)
    for tidy in (common.RemoveUnusedNodesPass(), common.CommonSubexpressionEliminationPass(), common.NameFixPass()):
        tidy(fused)
    return ir.to_proto(fused), count


def _attention(
    op: Any,
    query: Any,
    key: Any,
    value: Any,
    bias: Any,
    scale: Any,
    split_q: Any,
    split_k: Any,
    split_v: Any,
    join: Any,
) -> Any:
    """What ``onnx_graph`` writes for attention: ``[B, S, D]`` three times -> ``[B, S, D]``."""
    q_BNSH = op.Transpose(op.Reshape(query, split_q), perm=[0, 2, 1, 3])
    k_BNHS = op.Transpose(op.Reshape(key, split_k), perm=[0, 2, 3, 1])
    v_BNSH = op.Transpose(op.Reshape(value, split_v), perm=[0, 2, 1, 3])
    probabilities = op.Softmax(op.Add(op.MatMul(op.Mul(q_BNSH, scale), k_BNHS), bias), axis=-1)
    return op.Reshape(op.Transpose(op.MatMul(probabilities, v_BNSH), perm=[0, 2, 1, 3]), join)


def _multi_head_attention(op: Any, query: Any, key: Any, value: Any, bias: Any, split_q: Any, **_: Any) -> Any:
    """One node; it scales by itself, and wants the bias for every query, ``[B, 1, S, S]``."""
    one = op.Constant(value_ints=[1])
    bias_B1SS = op.Expand(bias, op.Concat(one, one, op.Shape(bias, start=3, end=4), one, axis=0))
    return op.MultiHeadAttention(
        query, key, value, None, None, bias_B1SS, num_heads=_num_heads(split_q), _domain=DOMAIN, _version=1
    )


def _num_heads(split: Any) -> int:
    """The third number of ``[B, S, N, H]``: a constant of its own where batch or length is dynamic."""
    if split.const_value is not None:
        return int(split.const_value.numpy()[2])
    return int(split.producer().inputs[2].const_value.numpy().item())


def _residual_norm(op: Any, x: Any, bias: Any, skip: Any, gamma: Any, beta: Any, epsilon: Any) -> Any:
    return op.LayerNormalization(op.Add(op.Add(x, bias), skip), gamma, beta, axis=-1, epsilon=epsilon)


def _has_bias(context: Any, bias: Any, **_: Any) -> bool:
    """The bias of a linear map; the embeddings add up three things of other shapes."""
    return bias.const_value is not None and len(bias.const_value.shape) == 1


def _skip_layer_normalization(op: Any, x: Any, bias: Any, skip: Any, gamma: Any, beta: Any, epsilon: Any) -> Any:
    return op.SkipLayerNormalization(x, skip, gamma, beta, bias, epsilon=epsilon.as_float(), _domain=DOMAIN, _version=1)
