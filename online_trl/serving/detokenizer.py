"""Token ids to text, one token at a time: what has been handed out is never taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# Stands for bytes that are no character, or not yet.
_REPLACEMENT = "\ufffd"


class Detokenizer:
    """
    The text of one answer as it grows.

    Text is held back while it may still change: bytes that are not yet a character, and text that may turn out to be
    the beginning of a stop text.

    Args:
        decode (`Callable[[list[int]], str]`):
            Gives the text of token ids, special tokens left out.
        stop (`Sequence[str]`, *optional*):
            Texts that end the answer.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        self.stopped = False
        """Whether a stop text has come up."""
        self._decode = decode
        self._stop = stop
        self._ids: list[int] = []
        self._context_start = 0
        self._read_end = 0
        self._held = ""

    def push(self, token_id: int) -> str:
        """Takes the next token and returns the text that is certain now."""
        self._ids.append(token_id)
        return self._release(self._new_text(final=False))

    def finish(self) -> str:
        """Returns what is still held back, at the end of the answer."""
        if self.stopped:
            return ""
        released = self._release(self._new_text(final=True))
        rest, self._held = self._held, ""
        return released + rest

    def _new_text(self, *, final: bool) -> str:
        # Some tokenizers write a token differently at the beginning of a text (a leading space): what the new one adds
        # is the difference between the last tokens decoded with it and without.
        known = self._decode(self._ids[self._context_start : self._read_end])
        text = self._decode(self._ids[self._context_start :])
        if len(text) <= len(known) or (text.endswith(_REPLACEMENT) and not final):
            return ""
        self._context_start, self._read_end = self._read_end, len(self._ids)
        return text[len(known) :]

    def _release(self, new_text: str) -> str:
        text = self._held + new_text
        found = [position for position in map(text.find, self._stop) if position >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = _possible_stop(text, self._stop)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _possible_stop(text: str, stop: Sequence[str]) -> int:
    """Returns the length of the longest end of `text` with which a stop text begins."""
    longest = min(len(text), max(map(len, stop), default=1) - 1)
    ends = (length for length in range(longest, 0, -1) if any(word.startswith(text[-length:]) for word in stop))
    return next(ends, 0)
