"""A small SentencePiece vocabulary made here, texts of all kinds, and the peer of transformers from the same files."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import sentencepiece
from hypothesis import strategies as st

from albert_fast.tokenizer import AlbertTokenizer

Pair = tuple[AlbertTokenizer, Any]

LAYOUTS = ("tok_hub", "tok_spm", "saved/v4_slow", "saved/v4_fast", "saved/v5")
USER_DEFINED = ("(", ")", '"', "-", ".", "–", "£", "€")

TEXTS = (
    "This is a test",
    "The capital of France is Paris, isn't it?",
    "In 2010, 9,9 and 31,4 of 1,000,000 (about $10,000) paid 3,14.",
    "foo[MASK]bar [MASK] [CLS]x[SEP] <unk> <pad>y [PAD] [UNK] [mask] <s> [MASK][MASK]",
    "``quoted'' and ```three''' and ''''four",
    "Café CAFÉ cafe\u0301 naïve Ångström ﬁnance ½ ² ⅷ ㎏ Ⅷ",
    "ΟΔΟΣ Σίσυφος İstanbul ıI ẞß ŉ ǆ Ǆ",
    "漢字かな交じり文 한국어 عَرَبِيّ עִבְרִית हिन्दी ไทย",
    "tab\there\r\nnew\u00a0line\u2028sep\u3000wide\u200bzero\ufeffbom\u200djoin\u2581bar\ufffdx",
    "a\x00b \x07 c\x1cd \x7f\x85e \u00adsoft",
    "👩‍👩‍👧‍👦 👍🏽 🇫🇷 e\u0302\u0301\u0323 \u0301start",
    '£5–€6 -- ... "x" (a)(b) -.- £€',
    "<PAD> <UNK>漢 [CLＳ] <pad<pad>>",
    "www.aaaaaaa.bbb uuuuu nnnn 99999 6666 ababababab",
    "x" * 300,
    "  leading and trailing  ",
    " ",
    "",
    "word " * 50,
)

# Characters that tokenizers trip over, then everything else there is.
_ODD = "aAbuz09,.-–£€()\"'`[]<> \t\n\r\u00a0\u0301\u0345\u200b\u200d\u2028\u2581\ufeffßΣİ½ﬁ漢가é👍🏽Ⅷ"
_FRAGMENTS = ("[MASK]", "[CLS]", "<unk>", "``", "''", "2010,", "1,4", " the ", "on uuu", "\r\n")
NASTY = st.lists(
    st.one_of(
        st.sampled_from(_ODD),
        st.sampled_from(_FRAGMENTS),
        st.text(alphabet="abcdefghijklmnopqrstuvwxyz ", max_size=8),
        st.characters(codec="utf-8", max_codepoint=0xFFFF, exclude_categories=("Mn", "Mc", "Me", "Cn", "Cs", "Lm")),
    ),
    max_size=12,
).map("".join)


def trained_model() -> bytes:
    """A unigram model of 600 pieces with the options of ALBERT's, trained on Python's own help texts."""
    lines = [line.strip().lower() for text in topics.values() for line in text.splitlines() if len(line) > 20]
    numbers = [f"in 201{i % 10}, about {i},{i % 7} of {i},000 came" for i in range(300)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines[:2000] + numbers),
        model_writer=model,
        vocab_size=600,
        model_type="unigram",
        normalization_rule_name="nmt_nfkc",
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        user_defined_symbols=list(USER_DEFINED),
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder that lives as long as the test run, so that every test file shares what takes long to make."""
    return tempfile.TemporaryDirectory(prefix="tokenizer-samples-")


@cache
def small_folder() -> Path:
    """A folder with the small vocabulary in all three files."""
    folder = Path(_scratch().name) / "small"
    folder.mkdir()
    trained = folder.parent / "trained.model"
    trained.write_bytes(trained_model())
    AlbertTokenizer(trained, model_max_length=64).save_pretrained(folder)
    return folder


@cache
def true_folder(source: Path) -> Path:
    """The published vocabulary as on the hub, with its files where a checkout may have the texts of links."""
    folder = Path(_scratch().name) / "true"
    shutil.copytree(source / "tok_hub", folder)
    shutil.copyfile(source / "spiece.model", folder / "spiece.model")
    return folder


@cache
def pair(folder: Path) -> Pair:
    """Our tokenizer and that of transformers, from one folder."""
    return AlbertTokenizer.from_pretrained(folder), peer(folder)


def peer(folder: Path, **settings: Any) -> Any:
    """The tokenizer of transformers 5, which must be told to return segments."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    tokenizer = transformers.AlbertTokenizer.from_pretrained(folder, **settings)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer
