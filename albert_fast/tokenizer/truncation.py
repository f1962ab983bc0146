"""How much of each text goes into a row, and which rows its overflow makes."""

from __future__ import annotations

from albert_fast.tokenizer.options import EncodeOptions

Window = tuple[int, int]


def windows(first: int, second: int | None, options: EncodeOptions) -> list[tuple[Window, Window | None]]:
    """The rows that texts of these lengths give: which tokens of each text stand in each row.

    Args:
        first: tokens of the first text.
        second: tokens of the second text, None where there is none.
    Returns:
        One pair of half-open ranges per row; the first is the row itself, the others are its overflow.
    Raises:
        ValueError: no room, a side too short for ``only_first`` or ``only_second``, a stride that leaves no progress.
    """
    whole = (0, first), None if second is None else (0, second)
    if options.truncation == "do_not_truncate" or options.max_length is None:
        return [whole]
    room = room_for_text(second is not None, options)
    if first + (second or 0) <= room:
        return [whole]
    keep_first, keep_second = _lengths(first, second, room, options)
    firsts = _slices(first, keep_first, options)
    if second is None:
        return [(window, None) for window in firsts]
    seconds = _slices(second, keep_second, options)
    rows: list[tuple[Window, Window | None]] = [(firsts[0], seconds[0])]
    rows += [(one, other) for one in firsts[1:] for other in seconds]
    rows += [(firsts[0], other) for other in seconds[1:]]
    return rows


def room_for_text(pair: bool, options: EncodeOptions) -> int:
    """Tokens of text that fit in ``max_length`` beside the special tokens of one text or of a pair.

    Raises:
        ValueError: the special tokens alone do not fit, or ``stride`` is as large as the room.
    """
    assert options.max_length is not None
    specials = (3 if pair else 2) if options.add_special_tokens else 0
    room = options.max_length - specials
    if room < 0:
        raise ValueError(
            f"max_length={options.max_length} has no room for the {specials} special tokens; "
            f"give at least {specials}, or add_special_tokens=False"
        )
    if options.stride and options.stride >= room:
        raise ValueError(
            f"stride={options.stride} must be less than the {room} tokens of text that fit in "
            f"max_length={options.max_length} beside {specials} special tokens"
        )
    return room


def _lengths(first: int, second: int | None, room: int, options: EncodeOptions) -> tuple[int, int]:
    """How many tokens of each text a row keeps."""
    strategy, excess = options.truncation, first + (second or 0) - room
    if strategy == "longest_first":
        if second is None:
            return room, 0
        if room == 0:
            return 0, 0
        short, long = min(first, second), max(first, second)
        long = short if short > room else max(short, room - short)
        if short + long > room:
            short, long = room // 2, room - room // 2
        return (short, long) if first <= second else (long, short)
    if strategy == "only_second" and second is None:
        raise ValueError("truncation='only_second' needs a second text (text_pair), found one text")
    side, length = ("first", first) if strategy == "only_first" else ("second", second or 0)
    if length <= excess and room > 0:
        raise ValueError(
            f"truncation={strategy!r}: the {side} text has {length} tokens and {excess} must go to reach "
            f"max_length={options.max_length}; cut the other text too (truncation='longest_first') or raise max_length"
        )
    if room == 0:
        return 0, 0
    return (first - excess, second or 0) if strategy == "only_first" else (first, (second or 0) - excess)


def _slices(length: int, keep: int, options: EncodeOptions) -> list[Window]:
    """The kept range of ``length`` tokens and those of the overflow, each ``stride`` tokens into the one before."""
    if keep >= length:
        return [(0, length)]
    left = options.truncation_side == "left"
    if keep == 0:
        return [(0, 0), (0, length)]
    if options.stride >= keep:
        raise ValueError(
            f"stride={options.stride} must be less than the {keep} tokens that truncation={options.truncation!r} "
            f"keeps of a text of {length}"
        )
    step, out = keep - options.stride, []
    for distance in range(0, length, step):
        window = (
            (max(length - distance - keep, 0), length - distance) if left else (distance, min(distance + keep, length))
        )
        out.append(window)
        if window[0 if left else 1] == (0 if left else length):
            break
    return out
