"""Text to ids as ALBERT was trained on them, and back."""

from albert_fast.tokenizer.added_tokens import AddedToken
from albert_fast.tokenizer.batch_encoding import BatchEncoding
from albert_fast.tokenizer.encoding import CharSpan, Encoding, TokenSpan
from albert_fast.tokenizer.tokenizer import AlbertTokenizer

__all__ = ["AddedToken", "AlbertTokenizer", "BatchEncoding", "CharSpan", "Encoding", "TokenSpan"]
