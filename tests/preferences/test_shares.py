from __future__ import annotations

import pytest
from datasets import Dataset

from online_trl.preferences import cap_user_shares, import_dataset
from online_trl.types import UnpairedLabel


def rows(**weights: list[float]) -> list[UnpairedLabel]:
    return [
        UnpairedLabel(
            prompt=[], completion=[], label=True, score=1.0, feedback_ids=(), seq=1, voice=voice, weight=weight
        )
        for voice, of_voice in weights.items()
        for weight in of_voice
    ]


@pytest.mark.parametrize(
    ("share", "weights", "expected"),
    [
        # 2 of 4 is a half: what the heavy one may keep depends on what is left of the whole.
        (0.5, {"ann": [4, 4], "bob": [1], "cyd": [1]}, [1, 1, 1, 1]),
        # A fifth of 10 is 2, so that nobody is above it.
        (0.2, {"ann": [2], "bob": [2], "cyd": [2], "dan": [2], "eve": [2]}, [2, 2, 2, 2, 2]),
        # Two are cut down to c = (2c + 2) / 4.
        (0.25, {"ann": [6], "bob": [3], "cyd": [1], "dan": [0.5], "eve": [0.5]}, [1, 1, 1, 0.5, 0.5]),
        # Rows of one user keep their proportions.
        (0.5, {"ann": [3, 1], "bob": [1], "cyd": [1]}, [1.5, 0.5, 1, 1]),
        # Fewer users than 1 / share: all weigh the same.
        (0.2, {"ann": [3], "bob": [1]}, [1, 1]),
        (0.1, {"ann": [5, 5, 5]}, [5, 5, 5]),
        (1.0, {"ann": [9], "bob": [1]}, [9, 1]),
    ],
)
def test_nobody_carries_more_than_the_share(share, weights, expected):
    assert [row.weight for row in cap_user_shares(rows(**weights), share)] == pytest.approx(expected)


def test_no_weight_is_ever_scaled_up_and_the_bound_holds():
    given = rows(ann=[1.0] * 50, bob=[0.25] * 8, cyd=[0.5], dan=[1.0], eve=[0.125] * 3, fay=[1.0, 1.0])
    capped = cap_user_shares(given, 0.25)
    assert all(after.weight <= before.weight for before, after in zip(given, capped, strict=True))
    total = sum(row.weight for row in capped)
    for voice in ["ann", "bob", "cyd", "dan", "eve", "fay"]:
        assert sum(row.weight for row in capped if row.voice == voice) <= 0.25 * total + 1e-9


def test_nothing_is_nothing():
    assert cap_user_shares([], 0.2) == []


def test_a_flood_weighs_what_it_may(log):
    for number in range(20):
        answers = [log.answer(f"{number}a"), log.answer(f"{number}b")]
        log.say("comparison", answers, "first", user_id="flood" if number < 16 else f"user-{number}")
    pairs = log.read().with_capped_shares(0.2).pairs
    assert sum(pair.weight for pair in pairs if pair.voice == "flood") == pytest.approx(1.0)
    assert [pair.weight for pair in pairs[16:]] == [1.0] * 4


def test_every_row_of_an_imported_dataset_is_a_voice_of_its_own(log):
    given = [{"prompt": f"p{number}", "chosen": "a", "rejected": "b"} for number in range(30)]
    import_dataset(log.store, Dataset.from_list(given))
    batch = log.read()
    assert len({pair.voice for pair in batch.pairs}) == 30
    assert batch.with_capped_shares(0.1).pairs == batch.pairs


def test_feedback_on_imported_answers_is_its_users_own_word(log):
    import_dataset(log.store, Dataset.from_list([{"prompt": "p", "chosen": "a", "rejected": "b"}]))
    log.say("comparison", log.store.interactions(), "first", user_id="bob")
    assert [pair.voice == "bob" for pair in log.read().pairs] == [False, True]
