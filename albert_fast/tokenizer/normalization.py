"""Text as the vocabulary knows it: quotes, accents, case and odd characters brought to one form.

Every step after the replacement of double quotes maps single characters, so a text is one ``str.translate`` with a
table that fills itself as characters are met. Only ``keep_accents=True`` has one rule for sequences: a letter with its
combining marks, of fewer than six bytes, becomes the entry of its shortest known beginning, as in the ``tokenizers``
library.
"""

from __future__ import annotations

import re
import struct
import unicodedata
from array import array
from functools import cache, cached_property

from albert_fast.errors import CheckpointError

_DOUBLE_QUOTE = re.compile("``|''")
_INFORMATION_SEPARATORS = "\x1c\x1d\x1e\x1f"


class CharacterMap:
    """The ``precompiled_charsmap`` of a SentencePiece model: a Darts double array and the texts it points to.

    Source: darts-clone, sentencepiece/src/normalizer.cc.
    """

    def __init__(self, compiled: bytes) -> None:
        self.compiled = compiled
        self._units: array[int] = array("I")
        self._texts = b""
        if not compiled:
            return
        size = struct.unpack_from("<I", compiled)[0] if len(compiled) >= 4 else -1
        if size < 0 or size % 4 or 4 + size > len(compiled):
            raise CheckpointError(f"the character map of the vocabulary is damaged: {len(compiled)} bytes, trie {size}")
        self._units = array("I", struct.unpack_from(f"<{size // 4}I", compiled, 4))
        self._texts = compiled[4 + size :]

    def shortest(self, key: str) -> str | None:
        """The replacement of the shortest beginning of ``key`` that the map knows, or None."""
        if not self._units or not key:
            return None
        units = self._units
        try:
            unit = units[0]
            node = _offset(unit)
            for byte in key.encode("utf-8", "surrogatepass"):
                if byte == 0:
                    return None
                node ^= byte
                unit = units[node]
                if unit & 0x800000FF != byte:
                    return None
                node ^= _offset(unit)
                if unit >> 8 & 1:
                    start = units[node] & 0x7FFFFFFF
                    return self._texts[start : self._texts.index(b"\0", start)].decode()
        except (IndexError, ValueError) as error:
            raise CheckpointError(f"the character map of the vocabulary is damaged at {key!r}: {error}") from error
        return None


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 0x200) >> 6)


class Normalizer(dict[int, str]):
    """Maps code points to their normalized text, and texts by that table.

    Args:
        charsmap: the compiled character map of the model, or ``b""``.
        do_lower_case: lower-case character by character.
        keep_accents: do not decompose (NFKD) and do not delete the characters of general category M.
    """

    def __init__(self, charsmap: bytes, *, do_lower_case: bool = True, keep_accents: bool = False) -> None:
        super().__init__()
        self.charsmap = CharacterMap(charsmap)
        self.do_lower_case = do_lower_case
        self.keep_accents = keep_accents

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (self.charsmap.compiled, self.do_lower_case, self.keep_accents)

    def __missing__(self, code_point: int) -> str:
        text = chr(code_point)
        if not self.keep_accents:
            decomposed = unicodedata.normalize("NFKD", text)
            text = "".join(c for c in decomposed if not unicodedata.category(c).startswith("M"))
        text = "".join(self._mapped(c) for c in self._lowered(text)).replace("\u2581", " ")
        self[code_point] = text
        return text

    def _lowered(self, text: str) -> str:
        return "".join(c.lower() for c in text) if self.do_lower_case else text

    def _mapped(self, character: str) -> str:
        replacement = self.charsmap.shortest(character)
        return character if replacement is None else replacement

    @cached_property
    def _ascii_is_plain(self) -> bool:
        """Whether printable ASCII is only lower-cased (or kept), so that ``str.lower`` may do it."""
        printable = [chr(code) for code in range(0x20, 0x7F)]
        return all(self[ord(c)] == (c.lower() if self.do_lower_case else c) for c in printable)

    @cached_property
    def _separators_are_gone(self) -> bool:
        """Whether no character that only Python takes for white space survives."""
        return all(self[ord(c)] != c for c in _INFORMATION_SEPARATORS)

    def split(self, normal: str) -> list[str]:
        """The parts of a normalized text between Unicode white space, none of them empty."""
        if self._separators_are_gone or not any(c in normal for c in _INFORMATION_SEPARATORS):
            return normal.split()
        return [word for word in re.split(r"[^\S\x1c-\x1f]+", normal) if word]

    def __call__(self, text: str) -> str:
        """The normalized text."""
        if text.isascii() and text.isprintable() and self._ascii_is_plain:
            if "``" in text or "''" in text:
                text = _DOUBLE_QUOTE.sub('"', text)
            return text.lower() if self.do_lower_case else text
        text = text.replace("``", '"').replace("''", '"')
        if self.keep_accents and not text.isascii():
            return "".join(mapped for mapped, _ in self._clusters(text))
        return text.translate(self)

    def _clusters(self, text: str) -> list[tuple[str, int]]:
        """(normalized text, number of original characters) of every letter with its marks."""
        out: list[tuple[str, int]] = []
        at = 0
        for match in _cluster_pattern().finditer(text):
            out += [(self[ord(c)], 1) for c in text[at : match.start()]]
            at = match.end()
            cluster = self._lowered(match.group())
            short = len(cluster.encode("utf-8", "surrogatepass")) < 6
            replacement = self.charsmap.shortest(cluster) if short else None
            if replacement is None:
                out += [(self[ord(c)], 1) for c in match.group()]
            else:
                out.append((replacement.replace("\u2581", " "), at - match.start()))
        out += [(self[ord(c)], 1) for c in text[at:]]
        return out

    def aligned(self, text: str) -> tuple[str, list[tuple[int, int]] | None]:
        """The normalized text, and for each of its characters the (start, end) in ``text`` it came from.

        A replaced quote has the span of its second character; a letter composed with its marks that of the letter.
        The list is None where each character came from the one at its own place.
        """
        if text.isascii() and text.isprintable() and self._ascii_is_plain and "``" not in text and "''" not in text:
            return self(text), None
        quoted, starts, at = [], [], 0
        for match in _DOUBLE_QUOTE.finditer(text):
            quoted.append(text[at : match.start()] + '"')
            starts += [*range(at, match.start()), match.end() - 1]
            at = match.end()
        quoted.append(text[at:])
        starts += range(at, len(text))
        plain = "".join(quoted)
        parts = self._clusters(plain) if self.keep_accents else [(self[ord(c)], 1) for c in plain]
        out: list[str] = []
        spans: list[tuple[int, int]] = []
        index = 0
        for mapped, count in parts:
            out.append(mapped)
            spans += [(starts[index], starts[index] + 1)] * len(mapped)
            index += count
        return "".join(out), spans


def _restore(charsmap: bytes, do_lower_case: bool, keep_accents: bool) -> Normalizer:
    return Normalizer(charsmap, do_lower_case=do_lower_case, keep_accents=keep_accents)


@cache
def _cluster_pattern() -> re.Pattern[str]:
    """A character (no control) followed by combining marks or joiners; compiled on first use."""
    marks, controls = [], []
    for code in range(0x110000):
        category = unicodedata.category(chr(code))
        if category.startswith("M"):
            marks.append(code)
        elif category in ("Cc", "Cf", "Zl", "Zp", "Cs") and code not in (0x200C, 0x200D):
            controls.append(code)
    extend = _ranges(sorted([*marks, 0x200C, 0x200D]))
    return re.compile(f"[^{_ranges(controls)}{extend}]?[{extend}]+")


def _ranges(codes: list[int]) -> str:
    """The inside of a character class that matches these code points, given in rising order."""
    out: list[list[int]] = []
    for code in codes:
        if out and out[-1][1] == code - 1:
            out[-1][1] = code
        else:
            out.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in out)
