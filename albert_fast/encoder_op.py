"""``torch.ops.albert_fast.encoder``: ALBERT's whole encoder as one op on the CPU, its layout of weights, its reference.

All passes run over the tokens that are text, end to end, so padding is never computed. C++ owns the schema and the
kernel (``csrc/library.cpp``, ``csrc/encoder_kernel.cpp``).
"""

# B batch  S sequence  E embedding_size  D hidden_size  N heads  H head size

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from albert_fast import ops

PANEL = 32
"""Output channels that lie together in a packed weight."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "linear": lambda x: x,
}
"""What the kernel computes between the two maps of the feed-forward."""
ATTENTION_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.int8)
ZERO_POINT, QMAX = 128, 127


@dataclass(frozen=True)
class EncoderSettings:
    """What the op needs to know beside its tensors.

    Attributes:
        schedule: for each pass the index of its layer.
        num_heads: divides the hidden size.
        attention_scale: what scores are multiplied by before the softmax.
        layer_norm_eps: of all LayerNorms.
        activation: a name of ``ACTIVATIONS``.
        attention_dtype: ``"float32"`` or ``"bfloat16"``: of query, key, value and probabilities. That of the weights
            where they are not int8.
        input_scales: empty where weights are floating-point; else the scale of what the mapping reads (0.0 where its
            own weight is floating-point), and in each pass of what query, key and value, dense, ffn and ffn_output
            read, times its factors where there are any. A number is ``(u - 128) * scale``, ``u`` in 1..255.
        first_token_only: of the last pass compute only each text's first position.
    """

    schedule: tuple[int, ...]
    num_heads: int
    attention_scale: float
    layer_norm_eps: float
    activation: str
    attention_dtype: str
    input_scales: tuple[float, ...] = ()
    first_token_only: bool = False

    def arguments(self) -> tuple[Any, ...]:
        """The op's arguments behind ``tensors``, in the schema's order."""
        return (
            list(self.schedule), self.num_heads, self.attention_scale, self.layer_norm_eps, self.activation,
            self.attention_dtype, list(self.input_scales), self.first_token_only,
        )  # fmt: skip


def encoder(embedded: Tensor, attention_mask: Tensor, tensors: Sequence[Tensor], settings: EncoderSettings) -> Tensor:
    """Map embeddings to the hidden size and apply all passes, by the compiled op.

    Residuals and LayerNorms are float32; products are of the weights' dtype, their sums and biases float32.

    Args:
        embedded: ``[B, S, E]``, float32: the embeddings behind their LayerNorm.
        attention_mask: ``[B, S]``, int64, nonzero where there is text.
        tensors: the mapping's linear map; then for each layer the linear map of query, key and value side by side
            (``[3 D, D]``), dense, weight and bias of attention's LayerNorm, ffn, ffn_output, weight and bias of the
            layer's LayerNorm. A linear map is what ``linear_tensors`` returns.
    Returns:
        ``[B, S, D]`` float32, 0 at padding; ``[B, 1, D]`` with ``first_token_only``. The first position of every text
        is computed whatever its mask, for the pooler reads it. In a text without a token it sees itself alone: there
        is no right answer, and the number is finite.
    Raises:
        MissingDependencyError: the op library is not there.
        RuntimeError: an argument breaks a condition above, or a gradient is asked for: the op serves inference.
    """
    ops.require_ops()
    result: Tensor = torch.ops.albert_fast.encoder(embedded, attention_mask, list(tensors), *settings.arguments())
    return result


def pack(weight: Tensor) -> Tensor:
    """A weight in the order that the kernel reads it.

    Args:
        weight: ``[out, in]`` in float32, bfloat16 or int8; of which 1, 2 or 4 fill 32 bits.
    Returns:
        ``[out / 32, in / k, 32, k]``, ``k`` being 1, 2 or 4: ``packed[p, j, c, i] = weight[32 p + c, k j + i]``, with
        zeros to the next multiple of 32 and of ``k``.
    """
    step = 4 // weight.element_size()
    padded = F.pad(weight, (0, -weight.shape[1] % step, 0, -weight.shape[0] % PANEL))
    panels, steps = padded.shape[0] // PANEL, padded.shape[1] // step
    return padded.view(panels, PANEL, steps, step).transpose(1, 2).contiguous()


def unpack(packed: Tensor) -> Tensor:
    """The weight that ``pack`` was given, its padding still there."""
    panels, steps, panel, step = packed.shape
    return packed.transpose(1, 2).reshape(panels * panel, steps * step)


def linear_tensors(
    weight: Tensor, bias: Tensor, scale: Tensor | None = None, factors: Tensor | None = None
) -> tuple[Tensor, ...]:
    """A linear map as the op takes it.

    Args:
        weight: ``[out, in]`` in float32, bfloat16 or int8.
        bias: ``[out]``, any floating dtype.
        scale: ``[out]``, what each row of an int8 weight is multiplied by; None where the weight is floating-point.
        factors: ``[in]``, what each channel of the input is multiplied by before it is rounded for an int8 weight,
            which has been divided by them (SmoothQuant); None: nothing.
    Returns:
        The factors where there are any, the packed weight, for int8 its ``scale`` and the ``sums`` of its rows (int32),
        and the bias (float32); all padded with zeros to a multiple of 32.
    """
    behind = (0, -weight.shape[0] % PANEL)
    if scale is None:
        return pack(weight), F.pad(bias.float(), behind)
    before = () if factors is None else (F.pad(factors.float(), (0, -weight.shape[1] % PANEL)),)
    sums = weight.sum(1, dtype=torch.int32)
    return *before, pack(weight), F.pad(scale.float(), behind), F.pad(sums, behind), F.pad(bias.float(), behind)


def encoder_reference(
    embedded: Tensor, attention_mask: Tensor, tensors: Sequence[Tensor], settings: EncoderSettings
) -> Tensor:
    """What :func:`encoder` computes, in plain PyTorch: same arguments, result and conditions.

    It computes padding too, and puts zeros there in the end. Every product's operands are rounded as the kernel rounds
    them, and the product computed in float32.

    Raises:
        ValueError: an argument breaks a condition of :func:`encoder`.
    """
    _check(embedded, attention_mask, tensors, settings)
    mapping, layers = _layers(tensors)
    scales = settings.input_scales or (0.0,) * (1 + 4 * len(settings.schedule))
    seen_BS = attention_mask != 0
    first_BS = torch.arange(seen_BS.shape[1]).expand_as(seen_BS) == 0
    keys_BS = seen_BS | (first_BS & ~seen_BS.any(1, keepdim=True))
    x_BSD = _apply(mapping, embedded, scales[0])[..., : layers[0].norms[0].shape[0]]
    for index, place in enumerate(settings.schedule):
        x_BSD = _one_pass(x_BSD, keys_BS, layers[place], scales[1 + 4 * index :], settings)
    x_BSD = torch.where((seen_BS | first_BS)[..., None], x_BSD, 0.0)
    return x_BSD[:, :1].contiguous() if settings.first_token_only else x_BSD


class _Linear(NamedTuple):
    weight: Tensor
    scale: Tensor | None
    bias: Tensor
    factors: Tensor | None = None


class _Layer(NamedTuple):
    qkv: _Linear
    dense: _Linear
    ffn: _Linear
    ffn_output: _Linear
    norms: tuple[Tensor, ...]


def _one_pass(x_BSD: Tensor, keys_BS: Tensor, layer: _Layer, scales: Sequence[float], s: EncoderSettings) -> Tensor:
    dtype, D = ATTENTION_DTYPES[s.attention_dtype], x_BSD.shape[-1]
    qkv = _apply(layer.qkv, x_BSD, scales[0])[..., : 3 * D].to(dtype).float()
    query, key, value = qkv.unflatten(-1, (3, s.num_heads, D // s.num_heads)).permute(2, 0, 3, 1, 4)  # [B, N, S, H]
    scores = (query @ key.transpose(2, 3) * s.attention_scale).masked_fill(~keys_BS[:, None, None], -torch.inf)
    shares = (scores - scores.amax(-1, keepdim=True)).exp()
    context = shares.to(dtype).float() @ value / shares.sum(-1, keepdim=True)
    projected = _apply(layer.dense, context.transpose(1, 2).flatten(2), scales[1])[..., :D]
    x_BSD = F.layer_norm(x_BSD + projected, (D,), layer.norms[0], layer.norms[1], s.layer_norm_eps)
    middle = ACTIVATIONS[s.activation](_apply(layer.ffn, x_BSD, scales[2]))
    x_BSD = x_BSD + _apply(layer.ffn_output, middle, scales[3])[..., :D]
    return F.layer_norm(x_BSD, (D,), layer.norms[2], layer.norms[3], s.layer_norm_eps)


def _apply(linear: _Linear, x: Tensor, input_scale: float) -> Tensor:
    """The linear map on ``x`` rounded as its weight's dtype asks; all its padded output channels."""
    weight = unpack(linear.weight)
    if linear.factors is not None:
        x = x * linear.factors[: x.shape[-1]]
    x = F.pad(x, (0, weight.shape[1] - x.shape[-1]))
    if linear.scale is None:
        return F.linear(x.to(weight.dtype).float(), weight.float(), linear.bias)
    rounded = (x / input_scale).round().clamp(-QMAX, QMAX)
    exact = F.linear(rounded.double(), weight.double()).float()
    return exact * (linear.scale * input_scale) + linear.bias


def _layers(tensors: Sequence[Tensor]) -> tuple[_Linear, list[_Layer]]:
    """The flat list as the mapping and the layers."""
    left = list(tensors)

    def linear() -> _Linear:
        factors = left.pop(0) if left[0].dim() == 1 else None  # a weight has four dimensions
        if left[0].dtype == torch.int8:
            weight, scale, _sums, bias = (left.pop(0) for _ in range(4))
            return _Linear(weight, scale, bias, factors)
        return _Linear(left.pop(0), None, left.pop(0), factors)

    mapping, layers = linear(), []
    while left:
        qkv, dense = linear(), linear()
        norms = left.pop(0), left.pop(0)
        layers.append(_Layer(qkv, dense, linear(), linear(), (*norms, left.pop(0), left.pop(0))))
    return mapping, layers


def _check(embedded: Tensor, mask: Tensor, tensors: Sequence[Tensor], settings: EncoderSettings) -> None:
    """Refuse what is wrong with shapes, dtypes and settings, without looking at any data."""
    if embedded.dim() != 3 or embedded.dtype != torch.float32:
        raise ValueError(f"encoder: embedded must be [B, S, E] of float32, found {_seen(embedded)}")
    if mask.dim() != 2 or mask.dtype != torch.int64:
        raise ValueError(f"encoder: attention_mask must be [B, S] of int64, found {_seen(mask)}")
    if settings.activation not in ACTIVATIONS:
        raise ValueError(f"encoder: activation is {settings.activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    if settings.attention_dtype not in ATTENTION_DTYPES:
        raise ValueError(f"encoder: attention_dtype is {settings.attention_dtype!r}, expected float32 or bfloat16")
    try:
        mapping, layers = _layers(tensors)
    except IndexError:
        raise ValueError(f"encoder: {len(tensors)} tensors are not a mapping and whole layers") from None
    if not settings.schedule or not all(0 <= place < len(layers) for place in settings.schedule):
        raise ValueError(f"encoder: schedule is {list(settings.schedule)}, expected indices of {len(layers)} layers")
    hidden_size = layers[0].norms[0].shape[0]
    if settings.num_heads < 1 or hidden_size % settings.num_heads != 0:
        raise ValueError(f"encoder: num_heads must divide hidden_size {hidden_size}, found {settings.num_heads}")
    for layer in layers:
        for linear in (layer.qkv, layer.dense, layer.ffn, layer.ffn_output):
            _check_weight(linear.weight, layers[0].qkv.weight.dtype)
        for linear in (layer.qkv, layer.dense, layer.ffn):
            _check_factors(linear, hidden_size)
        _check_factors(layer.ffn_output, PANEL * layer.ffn.weight.shape[0])
    _check_factors(mapping, embedded.shape[2])
    wanted = 1 + 4 * len(settings.schedule) if layers[0].qkv.scale is not None else 0
    if len(settings.input_scales) != wanted:
        raise ValueError(f"encoder: there are {len(settings.input_scales)} input_scales, expected {wanted}")


def _check_weight(weight: Tensor, dtype: torch.dtype) -> None:
    if weight.dtype not in WEIGHT_DTYPES or weight.dtype != dtype:
        raise ValueError(f"encoder: weights must be float32, bfloat16 or int8, all alike, found {weight.dtype}")
    if weight.dim() != 4 or weight.shape[2:] != (PANEL, 4 // weight.element_size()):
        raise ValueError(f"encoder: a weight must be packed, [out / 32, in / k, 32, k], found {_seen(weight)}")


def _check_factors(linear: _Linear, inputs: int) -> None:
    if linear.factors is None:
        return
    if linear.scale is None:
        raise ValueError("encoder: a linear map has factors of its input, but no int8 weight")
    wanted = inputs + -inputs % PANEL
    if linear.factors.shape != (wanted,) or linear.factors.dtype != torch.float32:
        raise ValueError(f"encoder: factors must be [{wanted}] of float32, found {_seen(linear.factors)}")


def _seen(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} of {tensor.dtype}"


def _encoder_fake(embedded: Tensor, attention_mask: Tensor, tensors: Sequence[Tensor], *arguments: Any) -> Tensor:
    schedule, num_heads, attention_scale, eps, activation, dtype, scales, first_token_only = arguments
    settings = EncoderSettings(
        tuple(schedule), num_heads, attention_scale, eps, activation, dtype, tuple(scales), first_token_only
    )
    _check(embedded, attention_mask, tensors, settings)
    batch, length = embedded.shape[:2]
    hidden_size = _layers(tensors)[1][0].norms[0].shape[0]
    return embedded.new_empty(batch, 1 if first_token_only else length, hidden_size)


if ops.is_available():
    torch.library.register_fake("albert_fast::encoder", _encoder_fake)
