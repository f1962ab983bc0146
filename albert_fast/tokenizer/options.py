"""What a call asks for: truncation, padding and what to return, checked once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

VERY_LARGE_LENGTH = int(1e30)
_NO_LIMIT = int(1e20)
TRUNCATIONS = ("longest_first", "only_first", "only_second", "do_not_truncate")
PADDINGS = ("longest", "max_length", "do_not_pad")
SIDES = ("right", "left")


@dataclass(frozen=True)
class EncodeOptions:
    """The checked options of one call.

    Attributes:
        truncation: one of TRUNCATIONS.
        padding: one of PADDINGS.
        max_length: tokens a row may have, specials counted; None where nothing is limited.
        stride: tokens of the cut part that the next overflow row repeats.
        pad_to_multiple_of: round padded lengths up to a multiple of this.
        add_special_tokens: put ``[CLS]`` and ``[SEP]`` around the texts.
        split_special_tokens: take special tokens that stand in a text for ordinary text.
    """

    truncation: str = "do_not_truncate"
    padding: str = "do_not_pad"
    max_length: int | None = None
    stride: int = 0
    pad_to_multiple_of: int | None = None
    padding_side: str = "right"
    truncation_side: str = "right"
    add_special_tokens: bool = True
    split_special_tokens: bool = False


def checked_options(
    *,
    truncation: Any,
    padding: Any,
    max_length: int | None,
    stride: int,
    pad_to_multiple_of: int | None,
    padding_side: str,
    truncation_side: str,
    add_special_tokens: bool,
    split_special_tokens: bool,
    model_max_length: int,
    verbose: bool = True,
) -> EncodeOptions:
    """Resolve ``True``, ``False`` and ``None`` as ``transformers`` does, and check the rest.

    Raises:
        ValueError: every option that makes no sense, in one message.
    """
    if max_length is not None and padding is False and truncation is None:
        truncation = "longest_first"
    problems: list[str] = []
    cut = _strategy("truncation", truncation, TRUNCATIONS, "longest_first", "do_not_truncate", problems)
    pad = _strategy("padding", padding, PADDINGS, "longest", "do_not_pad", problems)
    for name, side in (("padding_side", padding_side), ("truncation_side", truncation_side)):
        if side not in SIDES:
            problems.append(f"{name}={side!r}, expected one of {', '.join(SIDES)}")
    for name, number, least in (
        ("max_length", max_length, 0),
        ("stride", stride, 0),
        ("pad_to_multiple_of", pad_to_multiple_of, 1),
    ):
        optional = name != "stride"
        if (number is None and optional) or (
            isinstance(number, int) and not isinstance(number, bool) and number >= least
        ):
            continue
        problems.append(f"{name}={number!r}, expected an int of at least {least}")
    if problems:
        raise ValueError("; ".join(problems))
    if max_length is None and model_max_length <= _NO_LIMIT and (cut != "do_not_truncate" or pad == "max_length"):
        max_length = model_max_length
    elif max_length is None:
        if verbose and (pad == "max_length" or cut != "do_not_truncate"):
            logger.warning("neither max_length nor model_max_length is set: nothing is cut or padded to a fixed length")
        cut = "do_not_truncate"
        pad = "do_not_pad" if pad == "max_length" else pad
    elif verbose and pad == "longest" and cut == "do_not_truncate":
        logger.warning("max_length=%d has no effect: padding is to the longest text and nothing is cut", max_length)
    if (
        "do_not" not in cut + pad
        and pad_to_multiple_of is not None
        and max_length is not None
        and max_length % pad_to_multiple_of
    ):
        raise ValueError(f"max_length={max_length} is not a multiple of pad_to_multiple_of={pad_to_multiple_of}")
    return EncodeOptions(
        cut,
        pad,
        max_length,
        stride,
        pad_to_multiple_of,
        padding_side,
        truncation_side,
        add_special_tokens,
        split_special_tokens,
    )


def _strategy(name: str, value: Any, allowed: tuple[str, ...], yes: str, no: str, problems: list[str]) -> str:
    if value is None or value is False:
        return no
    if value is True:
        return yes
    text = getattr(value, "value", value)
    if text not in allowed:
        problems.append(f"{name}={value!r}, expected True, False or one of {', '.join(allowed)}")
        return no
    return str(text)
