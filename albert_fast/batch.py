"""What goes into a model or an engine: a Batch of token ids, and the range of shapes a ShapeProfile allows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
POSITIONS = "positions"
"""The fourth input of programs that answer at asked positions alone: what ``Batch.positions`` returns."""
_ID_DTYPES = (torch.int64, torch.int32)
_MASK_DTYPES = (
    torch.int64,
    torch.int32,
    torch.bool,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.uint8,
    torch.int8,
)


@dataclass(frozen=True)
class Batch:
    """Token ids and what belongs to them.

    Attributes:
        input_ids: ``[batch, length]`` (multiple choice: ``[batch, choices, length]``), int64 or int32.
        attention_mask: same shape: 1 where there is text, 0 where there is padding; None means no padding.
        token_type_ids: same shape: 0 for the first text of a pair, 1 for the second; None means one text.
        asked: ``[batch, length]`` bool, for engines that answer at asked positions alone: True where scores are wanted;
            None asks wherever there is text.
    """

    input_ids: Tensor
    attention_mask: Tensor | None = None
    token_type_ids: Tensor | None = None
    asked: Tensor | None = None

    def filled(self) -> Batch:
        """The same batch with its missing parts made explicit."""
        mask = torch.ones_like(self.input_ids) if self.attention_mask is None else self.attention_mask
        types = torch.zeros_like(self.input_ids) if self.token_type_ids is None else self.token_type_ids
        return Batch(self.input_ids, mask, types, self.asked)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(input_ids, attention_mask, token_type_ids)``, none of them missing."""
        full = self.filled()
        assert full.attention_mask is not None and full.token_type_ids is not None
        return full.input_ids, full.attention_mask, full.token_type_ids

    def asked_or_text(self) -> Tensor:
        """``[batch, length]`` bool: ``asked``, or where there is text."""
        return self.tensors()[1] != 0 if self.asked is None else self.asked

    def positions(self) -> Tensor:
        """What is asked, as indices into the ``[batch * length]`` tokens: ``[asked]`` int64, in ascending order."""
        return self.asked_or_text().flatten().nonzero().squeeze(-1)

    def to(self, target: torch.device | torch.dtype | str) -> Batch:
        """Every tensor moved to a device, or cast to an integer dtype; ``asked`` stays bool."""
        mask, types, asked = self.attention_mask, self.token_type_ids, self.asked
        return Batch(
            self.input_ids.to(target),
            None if mask is None else mask.to(target),
            None if types is None else types.to(target),
            asked if asked is None or isinstance(target, torch.dtype) else asked.to(target),
        )


def check_inputs(
    *,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    vocab_size: int,
    max_position_embeddings: int,
    type_vocab_size: int,
    embedding_size: int,
) -> None:
    """Refuse inputs that no ALBERT of these sizes can take, before any work is done.

    Shapes: ids ``[batch, length]``; mask ``[batch, length]`` or ``[batch, length, length]``; positions ``[1 or batch,
    length]``; embeddings ``[batch, length, embedding_size]``.

    Raises:
        ValueError: every problem found, in one message.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("exactly one of input_ids and inputs_embeds is needed")
    problems: list[str] = []
    given: dict[str, Any] = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "token_type_ids": token_type_ids,
        "position_ids": position_ids,
        "inputs_embeds": inputs_embeds,
    }
    for name, value in given.items():
        if value is not None and not isinstance(value, Tensor):
            found = type(value).__name__
            raise ValueError(f"{name} is a {found}, expected a torch.Tensor; tokenize with return_tensors='pt'")
    for name in ("input_ids", "token_type_ids", "position_ids"):
        ids = given[name]
        if ids is not None and ids.dtype not in _ID_DTYPES:
            problems.append(f"{name} is {ids.dtype}, expected torch.int64 or torch.int32")
        if ids is not None and ids.dim() != 2:
            problems.append(f"{name} has shape {list(ids.shape)}, expected [batch, length]")
    if inputs_embeds is not None and not inputs_embeds.is_floating_point():
        problems.append(f"inputs_embeds is {inputs_embeds.dtype}, expected a floating dtype")
    if inputs_embeds is not None and (inputs_embeds.dim() != 3 or inputs_embeds.shape[-1] != embedding_size):
        shape = list(inputs_embeds.shape)
        problems.append(f"inputs_embeds has shape {shape}, expected [batch, length, {embedding_size} (embedding_size)]")
    if not problems:
        source = input_ids if input_ids is not None else inputs_embeds
        assert source is not None
        problems += _shape_problems(source.shape[0], source.shape[1], attention_mask, token_type_ids, position_ids)
        if source.shape[1] > max_position_embeddings:
            problems.append(
                f"the text has {source.shape[1]} tokens, the model takes at most {max_position_embeddings} "
                "(max_position_embeddings); truncate with the tokenizer: "
                f"truncation=True, max_length={max_position_embeddings}"
            )
    if not problems:
        limits = (
            ("input_ids", input_ids, vocab_size, "vocab_size"),
            ("token_type_ids", token_type_ids, type_vocab_size, "type_vocab_size"),
            ("position_ids", position_ids, max_position_embeddings, "max_position_embeddings"),
        )
        for name, ids, size, field in limits:
            problems += _range_problems(name, ids, size, field)
    if problems:
        raise ValueError("; ".join(problems))


def check_positions(positions: Tensor, tokens: int) -> None:
    """Refuse positions that are no places among so many tokens.

    Raises:
        ValueError: they are not ``[asked]`` int64, or one is outside ``0..tokens - 1``.
    """
    if positions.dim() != 1 or positions.dtype != torch.int64:
        found = f"{positions.dtype} {list(positions.shape)}"
        raise ValueError(f"positions is {found}, expected torch.int64 [asked], as Batch.positions() returns them")
    if positions.numel() and not 0 <= int(positions.min()) <= int(positions.max()) < tokens:
        wrong = int(positions.min()) if int(positions.min()) < 0 else int(positions.max())
        raise ValueError(f"positions holds {wrong}, expected 0..{tokens - 1}: the batch has {tokens} tokens")


def _shape_problems(
    batch: int, length: int, mask: Tensor | None, types: Tensor | None, positions: Tensor | None
) -> list[str]:
    found = []
    if batch == 0 or length == 0:
        found.append(f"the batch is empty (shape [{batch}, {length}]); give at least one text of one token")
    if mask is not None:
        if mask.dtype not in _MASK_DTYPES:
            found.append(f"attention_mask is {mask.dtype}, expected an integer, bool or floating dtype with 0 and 1")
        if tuple(mask.shape) not in ((batch, length), (batch, length, length)):
            expected = f"[{batch}, {length}] as the ids, or [{batch}, {length}, {length}]"
            found.append(f"attention_mask has shape {list(mask.shape)}, expected {expected}")
    if types is not None and tuple(types.shape) != (batch, length):
        found.append(f"token_type_ids has shape {list(types.shape)}, expected [{batch}, {length}] as the ids")
    if positions is not None and tuple(positions.shape) not in ((1, length), (batch, length)):
        found.append(f"position_ids has shape {list(positions.shape)}, expected [1, {length}] or [{batch}, {length}]")
    return found


def _range_problems(name: str, ids: Tensor | None, size: int, field: str) -> list[str]:
    if ids is None:
        return []
    low, high = (int(v) for v in torch.aminmax(ids))
    if low >= 0 and high < size:
        return []
    wrong = low if low < 0 else high
    return [
        f"{name} holds {wrong}, expected 0..{size - 1} ({field} is {size}); tokenizer and model do not belong together"
    ]


@dataclass(frozen=True)
class ShapeProfile:
    """The shapes an engine is built for: smallest, best tuned and largest ``batch x length``.

    A field whose minimum equals its maximum is static in the captured graph; the others are dynamic.
    """

    min_batch: int = 1
    opt_batch: int = 8
    max_batch: int = 32
    min_length: int = 1
    opt_length: int = 128
    max_length: int = 512

    def __post_init__(self) -> None:
        batches = (self.min_batch, self.opt_batch, self.max_batch)
        lengths = (self.min_length, self.opt_length, self.max_length)
        for name, sizes in (("batch", batches), ("length", lengths)):
            if any(not isinstance(s, int) or s < 1 for s in sizes) or not sizes[0] <= sizes[1] <= sizes[2]:
                raise ValueError(f"the profile's {name} sizes are {sizes}, expected 1 <= minimum <= optimum <= maximum")

    @classmethod
    def parse(cls, text: str) -> ShapeProfile:
        """Read ``"1x16:8x128:32x512"`` (min:opt:max, each batch x length), or one shape ``"8x128"`` for all three."""
        shapes = re.findall(r"(\d+)x(\d+)", text)
        if not re.fullmatch(r"\d+x\d+(:\d+x\d+:\d+x\d+)?", text.strip()):
            raise ValueError(
                f"{text!r} is no profile; expected MIN:OPT:MAX as in 1x16:8x128:32x512, or one shape 8x128"
            )
        (b0, s0), (b1, s1), (b2, s2) = [(int(b), int(s)) for b, s in (shapes if len(shapes) == 3 else shapes * 3)]
        return cls(b0, b1, b2, s0, s1, s2)

    def __str__(self) -> str:
        smallest, largest = f"{self.min_batch}x{self.min_length}", f"{self.max_batch}x{self.max_length}"
        return f"{smallest}:{self.opt_batch}x{self.opt_length}:{largest}"

    def check(self, batch: int, length: int) -> None:
        """Raise ``ValueError`` when a batch of this shape does not fit; it names the range and the next step."""
        problems = []
        if not self.min_batch <= batch <= self.max_batch:
            problems.append(f"batch {batch} is outside {self.min_batch}..{self.max_batch}")
        if not self.min_length <= length <= self.max_length:
            problems.append(f"length {length} is outside {self.min_length}..{self.max_length}")
        if problems:
            raise ValueError(
                f"{' and '.join(problems)} of the engine's profile {self}; "
                "split, truncate or pad the batch, or export an engine with a wider --profile"
            )

    def fits(self, batch: int, length: int) -> bool:
        """Whether a batch of this shape is within the profile."""
        return self.min_batch <= batch <= self.max_batch and self.min_length <= length <= self.max_length


def parse_profiles(text: str) -> tuple[ShapeProfile, ...]:
    """Read one profile or several, separated by commas: ``"1x1:1x32:1x128,1x16:8x128:32x512"``.

    Raises:
        ValueError: text that is no profile, or the same profile twice.
    """
    profiles = tuple(ShapeProfile.parse(part) for part in text.split(","))
    if len(set(profiles)) != len(profiles):
        raise ValueError(f"{text!r} names a profile twice; each needs to be given once")
    return profiles


def hull(profiles: Sequence[ShapeProfile]) -> ShapeProfile:
    """The profile that spans all of ``profiles``; its optimum is the first one's."""
    first = profiles[0]
    return ShapeProfile(
        min(p.min_batch for p in profiles), first.opt_batch, max(p.max_batch for p in profiles),
        min(p.min_length for p in profiles), first.opt_length, max(p.max_length for p in profiles),
    )  # fmt: skip


def smallest_fitting(profiles: Sequence[ShapeProfile], batch: int, length: int) -> int | None:
    """Which of ``profiles`` takes a batch of this shape and has the smallest largest shape; None where none does."""
    fitting = [index for index, profile in enumerate(profiles) if profile.fits(batch, length)]
    return min(fitting, key=lambda i: (profiles[i].max_batch * profiles[i].max_length, i), default=None)
