import pytest
from datasets import Dataset

from online_trl.config import ConfigError
from online_trl.prompts import PromptLimit

ROWS = Dataset.from_list([{"prompt": "a"}, {"prompt": "bb"}, {"prompt": "ccc"}])


def test_long_prompts_are_left_out_and_counted(caplog):
    limit = PromptLimit(2, "drop", len)
    assert limit.admitted(ROWS)["prompt"][:] == ["a", "bb"]
    assert limit.dropped == 1
    assert "1 of the 3 prompts of `train_dataset`" in caplog.text
    assert [row["prompt"] for row in limit.admitted(ROWS.to_iterable_dataset())] == ["a", "bb"]
    assert limit.dropped == 2


def test_long_prompts_keep_their_last_tokens():
    limit = PromptLimit(2, "truncate", len)
    assert limit.admitted(ROWS) is ROWS
    assert limit.admits("ccc")
    assert limit.truncated([[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]) == ([[1], [1, 2], [2, 3], [3, 4]], 0.5)
    assert limit.dropped == 0


def test_nothing_left_is_refused():
    with pytest.raises(ConfigError, match=r"longer than `max_prompt_length`, which is 0"):
        PromptLimit(0, "drop", len).admitted(ROWS)
