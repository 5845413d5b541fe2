"""Which statements say nearly the same: their fingerprint."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata

from ..types import Feedback, FeedbackKind

_WORDS_OF_ONES_OWN = 5
_JSON = json.JSONEncoder(sort_keys=True)


def statement_key(row: Feedback) -> str:
    """
    Returns the fingerprint of a statement; statements that say nearly the same have the same one.

    A text of five words or more, a correction or else a comment, is known by its words, whoever wrote it and whatever
    it is about: case, spacing, punctuation and the forms of letters are folded. A shorter one ("thanks!") is what many
    people write, so that it, like a statement without a text, is only nearly the same as that of the same user about
    the same answers.
    """
    words = _words(row.value if row.kind is FeedbackKind.CORRECTION else row.comment)
    value = None if row.kind is FeedbackKind.CORRECTION else row.value
    statement: object = [row.user_id, row.kind.value, row.interaction_ids, value, words]
    if len(words) >= _WORDS_OF_ONES_OWN:
        statement = words
    return hashlib.sha256(_JSON.encode(statement).encode()).hexdigest()


def _words(text: str | None) -> list[str]:
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()) if text else []
