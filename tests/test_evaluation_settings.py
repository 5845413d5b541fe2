import re

import pytest

from online_trl.config import ConfigError
from online_trl.evaluation_settings import EvaluationSettings, read_evaluation_settings

TASK = {"dataset_name": "sums.jsonl", "reward_func": "my:function"}


def test_the_proxy_is_the_live_reward_where_it_judges():
    assert EvaluationSettings().proxy == "live"
    assert EvaluationSettings(judges=["my:judge"]).proxy is None
    assert EvaluationSettings(judges=["live", "my:judge"], proxy_judge="my:judge").proxy == "my:judge"


def test_tasks_and_benchmarks_are_read_with_their_options():
    settings = EvaluationSettings(tasks={"sums": {**TASK, "num_prompts": 50}}, harness={"tasks": ["arc_easy"]})
    assert settings.task_options["sums"].num_prompts == 50
    assert settings.harness_options.tasks == ["arc_easy"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("judge: [live]", "unknown key `judge` in "),
        ("num_prompts: 0", "`num_prompts` is 0; it must be at least 1"),
        ("num_prompts: many", "`num_prompts` in "),
        ("temperature: -1", "`temperature` is -1.0; it must be at least 0"),
        ("heldout_judge: other", "`heldout_judge` is `other`, which is not in `judges`: live"),
        ("heldout_judge: live", "`live` cannot be both the proxy and the held-out judge"),
        ("refusal_pattern: (", "`refusal_pattern` cannot be parsed"),
        ("tasks: {sums: my:function}", "the task `sums` must be a mapping"),
        ("tasks: {sums: {dataset_name: sums.jsonl}}", "`reward_func` is missing in the task `sums`"),
        ("harness: {task: [arc_easy]}", "unknown key `task` in `harness`; did you mean `tasks`?"),
        ("harness: {tasks: []}", "`tasks` names no benchmark"),
        ("harness: {tasks: [arc_easy], limit: 0}", "`limit` is 0; it must be at least 1"),
    ],
)
def test_a_mistake_in_the_file_is_named(text, message, tmp_path):
    path = tmp_path / "evaluate.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_evaluation_settings(path)
