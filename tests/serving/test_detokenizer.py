from __future__ import annotations

import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from online_trl.serving.detokenizer import Detokenizer


def decode_bytes(token_ids: list[int]) -> str:
    return bytes(token_ids).decode(errors="replace")


def pushed(detokenizer: Detokenizer, text: bytes) -> list[str]:
    return [detokenizer.push(byte) for byte in text]


def test_half_a_character_is_held_back():
    detokenizer = Detokenizer(decode_bytes)
    assert pushed(detokenizer, "aß€".encode()) == ["a", "", "ß", "", "", "€"]
    assert detokenizer.finish() == ""


def test_half_a_character_at_the_end_is_marked():
    detokenizer = Detokenizer(decode_bytes)
    assert pushed(detokenizer, "a€".encode()[:-1]) == ["a", "", ""]
    assert detokenizer.finish() == "\ufffd"


def test_beginning_of_a_stop_text_is_held_back_until_it_is_none():
    detokenizer = Detokenizer(decode_bytes, ["END", "\n\n"])
    assert pushed(detokenizer, b"aEN\nx") == ["a", "", "", "EN", "\nx"]
    assert not detokenizer.stopped


def test_stop_text_ends_the_answer_and_is_not_part_of_it():
    detokenizer = Detokenizer(decode_bytes, ["END"])
    assert pushed(detokenizer, b"aEEND") == ["a", "", "E", "", ""]
    assert detokenizer.stopped
    assert detokenizer.finish() == ""


def test_earliest_stop_text_counts():
    detokenizer = Detokenizer(lambda ids: "one two three"[: 4 * len(ids)], ["three", "wo"])
    assert [detokenizer.push(0), detokenizer.push(0)] == ["one ", "t"]
    assert detokenizer.stopped


def test_what_is_held_back_comes_at_the_end():
    detokenizer = Detokenizer(decode_bytes, ["END"])
    assert pushed(detokenizer, b"aEN") == ["a", "", ""]
    assert detokenizer.finish() == "EN"


@pytest.mark.parametrize("seed", range(20))
def test_pieces_are_the_text_for_any_tokens(policy_folders: list[Path], seed: int):
    tokenizer = AutoTokenizer.from_pretrained(policy_folders[0])
    token_ids = random.Random(seed).choices(range(len(tokenizer)), k=200)

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True)

    detokenizer = Detokenizer(decode)
    pieces = [detokenizer.push(token_id) for token_id in token_ids]
    assert "".join([*pieces, detokenizer.finish()]) == decode(token_ids)
