"""``torch.ops.albert_fast``: the ops of the compiled library, their fake kernels and their references in PyTorch.

Importing this module loads ``libalbert_fast_ops.so`` if it lies beside it. Without it everything here imports, the
references work, and :func:`require_ops` says how to build it. C++ owns the schemas and kernels (``csrc/library.cpp``);
both sides check the same conditions, here in :func:`_check_layout` and :func:`_check_boundaries`.
"""

# T tokens of all sequences end to end   D hidden   N heads   H head size   L length of one sequence

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from albert_fast.errors import MissingDependencyError

BUILD_COMMAND = (
    "ALBERT_FAST_BUILD_OPS=1 pip install --no-build-isolation --no-deps --force-reinstall . (`make ops` in a checkout)"
)
_LIBRARY_PATH = Path(__file__).with_name("libalbert_fast_ops.so")


def library_path() -> Path | None:
    """The op library's file, for a program in C++ that loads it too; None where it is not built."""
    return _LIBRARY_PATH if _LIBRARY_PATH.is_file() else None


def _load_library() -> str | None:
    """Load the op library; returns None, or the reason in words why its ops cannot be used."""
    if not _LIBRARY_PATH.is_file():
        return f"the op library {_LIBRARY_PATH} is not built"
    try:
        torch.ops.load_library(_LIBRARY_PATH)
    except OSError as error:
        return f"the op library {_LIBRARY_PATH} does not load into torch {torch.__version__}: {error}"
    built, running = torch.ops.albert_fast.built_with_torch(), torch.__version__
    if built.split(".")[:2] != running.split(".")[:2]:
        return f"the op library {_LIBRARY_PATH} was built with torch {built} and torch {running} is running"
    return None


_PROBLEM = _load_library()


def is_available() -> bool:
    """Whether the compiled ops can be called."""
    return _PROBLEM is None


def require_ops() -> None:
    """Make sure that the compiled ops can be called.

    Raises:
        MissingDependencyError: the library is not built, or was built for another torch; the message says which, and
            holds the command that builds it.
    """
    if _PROBLEM is not None:
        raise MissingDependencyError(f"{_PROBLEM}. Build it: {BUILD_COMMAND}")


def cpu_kernel() -> str:
    """The instruction set of the CPU kernels in use: ``"avx512_bf16"`` (with VNNI), ``"avx512_vnni"``, ``"avx512"``,
    ``"avx2"`` or ``"baseline"``; it follows the variable ``ATEN_CPU_CAPABILITY`` as torch does.
    """
    require_ops()
    kernel: str = torch.ops.albert_fast.cpu_kernel()
    return kernel


def packed_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_length: int, num_heads: int, scale: float, int8_scales: Sequence[float] = ()
) -> Tensor:
    """Softmax attention within each sequence of a packed batch, by the compiled op.

    Args:
        qkv: ``[tokens, 3 * hidden_size]``, float32, bfloat16 or int8: query, key and value of a token side by side.
        cu_seqlens: ``[batch + 1]``, int32: sequence ``i`` is rows ``cu_seqlens[i]`` to ``cu_seqlens[i + 1]``; it may be
            empty. Begins with 0, ends with the number of tokens.
        max_length: at least the length of the longest sequence.
        num_heads: divides ``hidden_size``; any head size.
        scale: what the scores are multiplied by before the softmax, ``head_size ** -0.5`` in ALBERT.
        int8_scales: with int8, what query, key, value and the result are multiplied by to be what they stand for; else
            empty.
    Returns:
        ``[tokens, hidden_size]`` in ``qkv.dtype``, int8 within +-127. Both products multiply numbers of that dtype and
        add them up in float32, of int8 in int32; probabilities are rounded to it in between, for int8 to 255ths of the
        largest. A thread holds the keys and values of one head and the scores of a few queries at a time, never a
        matrix of scores: at head size 64 and length 512 some 320 KB in float32.
    Raises:
        MissingDependencyError: the op library is not there.
        RuntimeError: an argument breaks a condition above, or a gradient is asked for: the op serves inference.
    Source: Dao et al. 2022 (arXiv:2205.14135), section 3.1, for computing by blocks of queries without the matrix.
    """
    require_ops()
    result: Tensor = torch.ops.albert_fast.packed_attention(
        qkv, cu_seqlens, max_length, num_heads, scale, list(int8_scales)
    )
    return result


def packed_attention_reference(
    qkv: Tensor, cu_seqlens: Tensor, max_length: int, num_heads: int, scale: float, int8_scales: Sequence[float] = ()
) -> Tensor:
    """What :func:`packed_attention` computes, in plain PyTorch: same arguments, result and conditions.

    Runs on any device and holds one ``[num_heads, length, length]`` matrix of scores at a time.

    Raises:
        ValueError: an argument breaks a condition of :func:`packed_attention`.
    """
    _check_layout(qkv, cu_seqlens, max_length, num_heads, scale, int8_scales)
    boundaries = cu_seqlens.tolist()
    _check_boundaries(boundaries, qkv.shape[0], max_length)
    qkv_T3NH = qkv.float().unflatten(1, (3, num_heads, qkv.shape[1] // 3 // num_heads))
    if int8_scales:
        qkv_T3NH = qkv_T3NH * qkv_T3NH.new_tensor(int8_scales[:3])[:, None, None]
    query_NTH, key_NTH, value_NTH = qkv_T3NH.permute(1, 2, 0, 3)
    context_NTH = torch.empty_like(query_NTH)
    for begin, end in pairwise(boundaries):
        if begin == end:
            continue
        scores_NLL = query_NTH[:, begin:end] @ key_NTH[:, begin:end].transpose(1, 2) * scale
        shares_NLL = (scores_NLL - scores_NLL.amax(-1, keepdim=True)).exp()
        if int8_scales:
            shares_NLL = (shares_NLL * 255).round()
        total_NL1 = shares_NLL.sum(-1, keepdim=True)
        rounded_NLL = shares_NLL if int8_scales else shares_NLL.to(qkv.dtype).float()
        context_NTH[:, begin:end] = rounded_NLL @ value_NTH[:, begin:end] / total_NL1
    context = context_NTH.transpose(0, 1).flatten(1)
    return ((context / int8_scales[3]).round().clamp(-127, 127) if int8_scales else context).to(qkv.dtype)


def _packed_attention_fake(
    qkv: Tensor, cu_seqlens: Tensor, max_length: int, num_heads: int, scale: float, int8_scales: Sequence[float] = ()
) -> Tensor:
    _check_layout(qkv, cu_seqlens, max_length, num_heads, scale, int8_scales)
    return qkv.new_empty(qkv.shape[0], qkv.shape[1] // 3)


def _check_layout(
    qkv: Tensor, cu_seqlens: Tensor, max_length: int, num_heads: int, scale: float, int8_scales: Sequence[float]
) -> None:
    """Refuse what is wrong with shapes, dtypes and numbers, without looking at any data."""
    if qkv.dim() != 2 or qkv.shape[1] == 0 or qkv.shape[1] % 3 != 0:
        raise ValueError(
            "packed_attention: qkv must be [tokens, 3 * hidden_size] with query, key and value side by side, "
            f"found shape {list(qkv.shape)}"
        )
    if qkv.dtype not in (torch.float32, torch.bfloat16, torch.int8):
        raise ValueError(f"packed_attention: qkv must be float32, bfloat16 or int8, found {qkv.dtype}")
    wanted = 4 if qkv.dtype == torch.int8 else 0
    if len(int8_scales) != wanted:
        raise ValueError(
            f"packed_attention: int8_scales must hold {wanted} numbers for {qkv.dtype}, found {len(int8_scales)}"
        )
    wrong = [one for one in int8_scales if not (math.isfinite(one) and one > 0)]
    if wrong:
        raise ValueError(f"packed_attention: int8_scales must be finite and positive, found {wrong[0]}")
    if num_heads < 1 or qkv.shape[1] // 3 % num_heads != 0:
        raise ValueError(
            f"packed_attention: num_heads must be at least 1 and divide hidden_size {qkv.shape[1] // 3}, "
            f"found {num_heads}"
        )
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 1:
        raise ValueError(f"packed_attention: cu_seqlens must be [batch + 1], found shape {list(cu_seqlens.shape)}")
    if cu_seqlens.dtype != torch.int32:
        raise ValueError(f"packed_attention: cu_seqlens must be int32, found {cu_seqlens.dtype}")
    if cu_seqlens.device != qkv.device:
        raise ValueError(
            f"packed_attention: cu_seqlens must be on the device of qkv, {qkv.device}, found {cu_seqlens.device}"
        )
    if max_length < 0:
        raise ValueError(f"packed_attention: max_length must not be negative, found {max_length}")
    if not math.isfinite(scale):
        raise ValueError(f"packed_attention: scale must be finite, found {scale}")


def _check_boundaries(cu_seqlens: list[int], tokens: int, max_length: int) -> None:
    """Refuse sequences that overlap, reach outside the tokens or exceed ``max_length``."""
    if cu_seqlens[0] != 0:
        raise ValueError(f"packed_attention: cu_seqlens must begin with 0, found {cu_seqlens[0]}")
    for sequence, (begin, end) in enumerate(pairwise(cu_seqlens)):
        if end < begin:
            raise ValueError(
                f"packed_attention: cu_seqlens must not decrease, found {end} after {begin} at index {sequence + 1}"
            )
        if end - begin > max_length:
            raise ValueError(
                f"packed_attention: sequence {sequence} has {end - begin} tokens, "
                f"expected at most max_length {max_length}"
            )
    if cu_seqlens[-1] != tokens:
        raise ValueError(
            f"packed_attention: cu_seqlens must end with the number of tokens in qkv, {tokens}, found {cu_seqlens[-1]}"
        )


if is_available():
    torch.library.register_fake("albert_fast::packed_attention", _packed_attention_fake)
