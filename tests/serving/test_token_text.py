from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from online_trl.serving.token_text import describe_token

PIECES = ["<unk>", "</s>", "▁Hello", "▁", "there", "<0xC3>", "<0xBC>"]


@pytest.fixture(scope="module")
def byte_level(policy_folders: list[Path]) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(policy_folders[0])


@pytest.fixture(scope="module")
def sentencepiece() -> PreTrainedTokenizerFast:
    """A tokenizer that decodes as Llama 2's does."""
    tokenizer = Tokenizer(
        models.BPE({piece: place for place, piece in enumerate(PIECES)}, [], byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


def test_bytes_of_tokens_join_to_the_text(byte_level: PreTrainedTokenizerFast):
    text = "Grüße 😀, the quick fox"
    tokens = [describe_token(byte_level, token_id, -0.5) for token_id in byte_level(text)["input_ids"]]
    assert bytes(byte for token in tokens for byte in token.bytes or []).decode() == text
    assert {token.logprob for token in tokens} == {-0.5}
    split = [token for token in tokens if "\ufffd" in token.token]
    assert split
    assert "".join(token.token for token in tokens if token not in split) == text.replace("😀", "")


def test_end_of_an_answer_has_its_name_as_text(byte_level: PreTrainedTokenizerFast):
    end = describe_token(byte_level, byte_level.eos_token_id, -1.0)
    assert (end.token, bytes(end.bytes or [])) == ("<|end|>", b"<|end|>")


@pytest.mark.parametrize(
    ("piece", "text", "data"),
    [
        ("▁Hello", " Hello", b" Hello"),
        ("▁", " ", b" "),
        ("there", "there", b"there"),
        ("<0xC3>", "\ufffd", b"\xc3"),
        ("</s>", "</s>", b"</s>"),
    ],
)
def test_spaces_and_bytes_of_sentencepiece_are_kept(
    sentencepiece: PreTrainedTokenizerFast, piece: str, text: str, data: bytes
):
    token = describe_token(sentencepiece, PIECES.index(piece), -0.5)
    assert (token.token, bytes(token.bytes or [])) == (text, data)
