"""AlbertTokenizer: the calls that ``transformers`` users know, over the rooms of this package."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Self

from albert_fast.tokenizer import json_format, proto
from albert_fast.tokenizer.assembly import Rows, assemble, samples_of
from albert_fast.tokenizer.batch_encoding import BatchEncoding
from albert_fast.tokenizer.encoder import TextEncoder
from albert_fast.tokenizer.encoding import Layout
from albert_fast.tokenizer.files import CONFIG, JSON, SPIECE, TokenizerFiles, locate, read_file, read_folder, write
from albert_fast.tokenizer.framing import FramedTokens
from albert_fast.tokenizer.normalization import Normalizer
from albert_fast.tokenizer.options import VERY_LARGE_LENGTH, checked_options
from albert_fast.tokenizer.padding import pad_examples
from albert_fast.tokenizer.tokens import ROLES
from albert_fast.tokenizer.unigram import Sampler, Unigram

logger = logging.getLogger(__name__)

_SETTINGS = {
    "do_lower_case": True,
    "keep_accents": False,
    "remove_space": True,
    "sp_model_kwargs": None,
    "model_max_length": VERY_LARGE_LENGTH,
    "padding_side": "right",
    "truncation_side": "right",
    "clean_up_tokenization_spaces": False,
    "additional_special_tokens": (),
}


class AlbertTokenizer(FramedTokens):
    """Turns text into the ids an ALBERT was trained on, and back.

    Args:
        vocab_file: a SentencePiece ``.model`` or a ``tokenizer.json``.
        settings: as in ``transformers``: ``do_lower_case`` (True), ``keep_accents`` (False), ``remove_space`` (has no
            effect: white space separates words), ``sp_model_kwargs`` (``{"enable_sampling": True, "nbest_size": -1,
            "alpha": 0.1}`` draws segmentations), ``model_max_length``, ``padding_side``, ``truncation_side``,
            ``clean_up_tokenization_spaces``, ``additional_special_tokens``, and special tokens (``mask_token``, ...).
    Raises:
        CheckpointError: the file is no ALBERT vocabulary.
        ValueError: an unknown setting.
    """

    model_input_names = ("input_ids", "token_type_ids", "attention_mask")

    def __init__(self, vocab_file: str | Path, **settings: Any) -> None:
        _refuse_unknown(settings)
        self._start(read_file(vocab_file), settings, str(vocab_file))

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        **settings: Any,
    ) -> Self:
        """Load from a folder, a vocabulary file, ``albert-fast/wordnet`` (needs no network) or a name on the hub.

        Args:
            name_or_path: a folder that holds ``spiece.model``, ``30k-clean.model`` or ``tokenizer.json``.
            settings: as for the constructor; they win over the files.
        """
        _refuse_unknown(settings)
        path = locate(name_or_path, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
        files = read_file(path) if path.is_file() else read_folder(path)
        tokenizer = cls.__new__(cls)
        tokenizer._start(files, settings, str(name_or_path))
        return tokenizer

    def _start(self, files: TokenizerFiles, given: dict[str, Any], source: str) -> None:
        held = {**_SETTINGS, **files.settings, **given}
        if not held.get("add_prefix_space", True):
            raise ValueError(f"{source}: add_prefix_space=False, expected True: words of an ALBERT begin with a space")
        self.name_or_path = source
        self._do_lower_case, self._keep_accents = bool(held["do_lower_case"]), bool(held["keep_accents"])
        self.remove_space = bool(held["remove_space"])
        self._sp_model_kwargs = dict(held["sp_model_kwargs"] or {})
        self.model_max_length = int(held["model_max_length"] or VERY_LARGE_LENGTH)
        self.padding_side, self.truncation_side = held["padding_side"], held["truncation_side"]
        self.clean_up_tokenization_spaces = bool(held["clean_up_tokenization_spaces"])
        self._warned = False
        unk = files.vocabulary.pieces[files.vocabulary.unk_id]
        defaults = {**ROLES, "unk_token": unk}
        missing = [t for r, t in defaults.items() if r not in held and t not in files.vocabulary.ids]
        if missing:
            raise ValueError(
                f"{source} has no piece {', '.join(sorted(set(missing)))}; name the special tokens it has "
                "(cls_token=, sep_token=, pad_token=, mask_token=, bos_token=, eos_token=) "
                "or train it with control_symbols"
            )
        roles = {role: held.get(role) or text for role, text in defaults.items()}
        super().__init__(files.vocabulary, roles, files.added)
        extra = list(held["additional_special_tokens"] or ()) + list(held.get("extra_special_tokens") or ())
        self.add_tokens(extra, special_tokens=True)

    def _changed(self) -> None:
        """Make the encoder anew: results made before keep the old one."""
        old: TextEncoder | None = self.__dict__.get("_encoder")
        if old is None:
            charsmap = self.vocabulary.model.charsmap
            normalizer = Normalizer(charsmap, do_lower_case=self._do_lower_case, keep_accents=self._keep_accents)
            unigram, sampler = Unigram(self.vocabulary), None
            if self._sp_model_kwargs:
                sampler = Sampler(self.vocabulary, self._sp_model_kwargs)
        else:
            normalizer, unigram, sampler = old.normalizer, old.unigram, old.sampler
        self._encoder = TextEncoder(normalizer, unigram, {t: i for i, t in self._content.items()}, sampler)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_encoder"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._changed()

    def __repr__(self) -> str:
        limit = self.model_max_length if self.model_max_length < VERY_LARGE_LENGTH else None
        return f"AlbertTokenizer({self.name_or_path!r}, vocab_size={self.vocab_size}, model_max_length={limit})"

    @property
    def do_lower_case(self) -> bool:
        """Whether text is lower-cased; give it when loading."""
        return self._do_lower_case

    @property
    def keep_accents(self) -> bool:
        """Whether accents stay; give it when loading."""
        return self._keep_accents

    @property
    def sp_model_kwargs(self) -> dict[str, Any]:
        """The options of sampling; give them when loading."""
        return dict(self._sp_model_kwargs)

    @property
    def is_fast(self) -> bool:
        """True: tokens know their place in the text."""
        return True

    def __call__(
        self,
        text: Any,
        text_pair: Any = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str | None = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        truncation_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        split_special_tokens: bool = False,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Texts, or pairs of texts, to model inputs.

        Args:
            text: one text, a list of texts, or a list of (text, second text); with ``is_split_into_words`` a list of
                words or a list of such lists.
            text_pair: the second text of each; an empty one counts as none.
            padding: ``True`` or ``"longest"``, ``"max_length"``, ``False``.
            truncation: ``True`` or ``"longest_first"``, ``"only_first"``, ``"only_second"``, ``False``.
            max_length: tokens a row may have, specials counted; ``model_max_length`` if not given.
            stride: tokens of the cut part that the next row of ``return_overflowing_tokens`` repeats.
            return_tensors: ``"pt"`` (torch), ``"np"`` (numpy), ``"tf"`` (TensorFlow, int32) or None (lists).
        Returns:
            ``input_ids``, ``token_type_ids`` and ``attention_mask`` ``[rows, length]``, int64 as arrays or tensors; of
            one text as flat lists without ``return_tensors``.
        Raises:
            ValueError: what is no text, options that make no sense, rows of different lengths with ``return_tensors``.
        """
        options = checked_options(
            truncation=truncation,
            padding=padding,
            max_length=max_length,
            stride=stride,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side or self.padding_side,
            truncation_side=truncation_side or self.truncation_side,
            add_special_tokens=add_special_tokens,
            split_special_tokens=split_special_tokens,
            model_max_length=self.model_max_length,
            verbose=verbose,
        )
        samples, batched = samples_of(text, text_pair, is_split_into_words)
        rows = assemble(samples, self._encoder, self._layout(options.add_special_tokens, options.padding_side), options)
        if not return_overflowing_tokens:
            rows = rows.without_overflow()
        self._warn_about_length(rows, options.max_length, verbose)
        data = rows.fields(
            token_type_ids=return_token_type_ids is not False,
            attention_mask=return_attention_mask is not False,
            special_tokens_mask=return_special_tokens_mask,
            offset_mapping=return_offsets_mapping,
            length=return_length,
            overflow_to_sample_mapping=return_overflowing_tokens,
        )
        if not batched and return_tensors is None and not return_overflowing_tokens:
            data = {name: value[0] if isinstance(value[0], list) else value for name, value in data.items()}
        return BatchEncoding(data, rows.encodings, return_tensors)

    def _layout(self, add_special_tokens: bool, padding_side: str) -> Layout:
        cls, sep, pad = ((self._added[t][1], t) for t in (self.cls_token, self.sep_token, self.pad_token))
        return Layout(cls, sep, pad, add_special_tokens, padding_side == "left")

    def _warn_about_length(self, rows: Rows, max_length: int | None, verbose: bool) -> None:
        longest = rows.longest()
        if verbose and not self._warned and max_length is None and longest > self.model_max_length:
            self._warned = True
            logger.warning(
                "a text has %d tokens, the model takes %d: pass truncation=True", longest, self.model_max_length
            )

    def encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        """One text, or one pair: the same as calling the tokenizer."""
        return self(text, text_pair, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs: Any, **options: Any) -> BatchEncoding:
        """A list of texts or of pairs: the same as calling the tokenizer."""
        return self(list(batch_text_or_text_pairs), **options)

    def encode(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """The ids of one text or pair, ``[CLS]`` and ``[SEP]`` included."""
        return self(text, text_pair, **options)["input_ids"]

    def tokenize(self, text: Any, pair: Any = None, add_special_tokens: bool = False, **options: Any) -> list[str]:
        """The tokens of one text or pair as text."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Bring examples that have ``input_ids`` to one length: a dict of lists, or a list of dicts."""
        options = checked_options(
            truncation=False,
            padding=padding,
            max_length=max_length,
            stride=0,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side or self.padding_side,
            truncation_side=self.truncation_side,
            add_special_tokens=False,
            split_special_tokens=False,
            model_max_length=self.model_max_length,
            verbose=False,
        )
        data = pad_examples(encoded_inputs, options, self.pad_token_id, return_attention_mask is not False)
        return BatchEncoding(data, None, return_tensors)

    def save_pretrained(self, save_directory: str | Path) -> tuple[str, ...]:
        """Write ``spiece.model``, ``tokenizer.json`` and ``tokenizer_config.json``, for ``transformers`` 4 and 5 too.

        Returns:
            The paths written.
        """
        return tuple(map(str, write(Path(save_directory), self._contents())))

    def _contents(self) -> dict[str, bytes]:
        """The files to save, by name."""
        added = [(token, id) for id, token in self.added_tokens_decoder.items()]
        described = json_format.serialize(
            self.vocabulary,
            added,
            do_lower_case=self.do_lower_case,
            keep_accents=self.keep_accents,
            cls=(self.cls_token, self.cls_token_id),
            sep=(self.sep_token, self.sep_token_id),
        )
        config = {
            "tokenizer_class": "AlbertTokenizer",
            "added_tokens_decoder": {str(id): token.to_dict() for token, id in added},
            "do_lower_case": self.do_lower_case,
            "keep_accents": self.keep_accents,
            "remove_space": self.remove_space,
            "model_max_length": self.model_max_length,
            "model_input_names": list(self.model_input_names),
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            **self._roles,
        }
        if self.additional_special_tokens:
            config["additional_special_tokens"] = self.additional_special_tokens
        if self._sp_model_kwargs:
            config["sp_model_kwargs"] = self._sp_model_kwargs
        serialized = self.vocabulary.serialized or proto.serialize(self.vocabulary.model)
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        return {SPIECE: serialized, JSON: described, CONFIG: text.encode()}


def _refuse_unknown(settings: dict[str, Any]) -> None:
    known = {*_SETTINGS, *ROLES}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no setting of AlbertTokenizer, expected {', '.join(sorted(known))}")
