"""Reads a text character by character and knows, after each, every piece that ends there.

An Aho-Corasick automaton whose states and steps are made when a text first needs them: a vocabulary of 30,000 pieces is
ready in a few hundredths of a second, and a word that resembles earlier ones costs one look-up a character.
Source: Aho and Corasick 1975.
"""

from __future__ import annotations

from collections.abc import Mapping


class State(dict[str, "State"]):
    """What is known after some characters; as a dict, maps the next character to the next state.

    Attributes:
        text: the longest end of the text read that begins some piece.
        matches: (length, score) of every piece that ends here, the longest first; a last character that is no piece
            stands at the end with the score of an unknown one.
    """

    __slots__ = ("_automaton", "matches", "text")

    def __init__(self, automaton: Automaton, text: str, matches: tuple[tuple[int, float], ...]) -> None:
        super().__init__()
        self._automaton, self.text, self.matches = automaton, text, matches

    def __missing__(self, character: str) -> State:
        state = self._automaton.state(self.text + character)
        # Steps on characters that begin no piece are not remembered, so texts in other scripts take no memory.
        if state.text:
            self[character] = state
        return state


class Automaton:
    """The states of a vocabulary.

    Args:
        scores: the score of every piece.
        unknown: the score of a character that is no piece.
    """

    def __init__(self, scores: Mapping[str, float], unknown: float) -> None:
        self._scores = scores
        self._unknown = unknown
        self._beginnings = {""}
        for piece in scores:
            while piece not in self._beginnings:
                self._beginnings.add(piece)
                piece = piece[:-1]
        self._states: dict[str, State] = {}
        self.start = self.state("")

    def state(self, text: str) -> State:
        """The state after reading ``text``, of which only the longest end that begins a piece counts."""
        while text not in self._beginnings:
            text = text[1:]
        state = self._states.get(text)
        if state is None:
            ends = ((len(text) - at, self._scores.get(text[at:])) for at in range(len(text)))
            matches = [(length, score) for length, score in ends if score is not None]
            if not matches or matches[-1][0] != 1:
                matches.append((1, self._unknown))
            state = self._states[text] = State(self, text, tuple(matches))
        return state
