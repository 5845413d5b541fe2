"""Single tokens as clients see them: their text, and their bytes where the text of one token alone is no character."""

from __future__ import annotations

import re
from functools import lru_cache

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from .generation import TokenCandidate

_REPLACEMENT = "\ufffd"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def describe_token(tokenizer: PreTrainedTokenizerBase, token_id: int, logprob: float) -> TokenCandidate:
    """
    Returns a token with its log-probability.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The tokenizer that the token is from.
        token_id (`int`):
            The token.
        logprob (`float`):
            Its log-probability.
    """
    text = _text(tokenizer, token_id)
    whole = _REPLACEMENT not in text
    return TokenCandidate(text, logprob, list(text.encode()) if whole else _bytes(tokenizer, token_id))


def _text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    # Some tokenizers drop the space at the beginning of a text: the second of two tokens is not there.
    once, twice = (
        str(tokenizer.decode([token_id] * count, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        for count in (1, 2)
    )
    return twice[len(once) :]


def _bytes(tokenizer: PreTrainedTokenizerBase, token_id: int) -> list[int] | None:
    token = str(tokenizer.convert_ids_to_tokens(token_id))
    if fallback := _BYTE.fullmatch(token):
        return [int(fallback[1], 16)]
    known = _byte_of_character()
    return [known[character] for character in token] if known.keys() >= set(token) else None


@lru_cache
def _byte_of_character() -> dict[str, int]:
    return {character: byte for byte, character in bytes_to_unicode().items()}
