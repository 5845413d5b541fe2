"""The YAML file of a loop: what it may say, and what is wrong with it before anything starts."""

import pytest
import yaml

from online_trl.config import ConfigError
from online_trl.deployment.settings import Triggers, read_deployment


@pytest.fixture
def content(tmp_path):
    for name in ("online_grpo.py", "online_grpo.yaml"):
        (tmp_path / name).touch()
    train = {"script": str(tmp_path / "online_grpo.py"), "config": str(tmp_path / "online_grpo.yaml")}
    return {"store": "sqlite:///feedback.db", "registry": "registry", "train": train}


@pytest.fixture
def read(tmp_path):
    def read(content):
        (tmp_path / "loop.yaml").write_text(yaml.safe_dump(content))
        return read_deployment(tmp_path / "loop.yaml")

    return read


@pytest.fixture
def write_evaluation(tmp_path):
    """Writes the file of an evaluation that has one task; returns its path."""

    def write(evaluation):
        task = {"dataset_name": "sums.jsonl", "reward_func": "my_rewards:exact"}
        (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump({"tasks": {"sums": task}} | evaluation))
        return str(tmp_path / "evaluate.yaml")

    return write


def test_what_is_not_said_is_at_its_default(read, content):
    settings = read(content | {"triggers": {"minutes": 30}, "serve": {"port": 9000}})
    assert (settings.triggers, settings.retry.attempts) == (Triggers(feedback=200, minutes=30.0), 5)
    assert (settings.serve.host, settings.serve.port, settings.refresh) == ("127.0.0.1", 9000, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"serv": {}}, r"unknown key `serv` in .*loop.yaml; did you mean `serve`\?"),
        ({"train": None}, "`train` in .*loop.yaml is None"),
        ({"train": {"script": "no.py", "config": "no.yaml"}}, "`script` is no.py, which is no file"),
        ({"triggers": {"feedbak": 5}}, r"unknown key `feedbak` in `triggers` of .*; did you mean `feedback`\?"),
        ({"triggers": {"feedback": 0}}, "no round would ever begin"),
        ({"triggers": {"drift": True}}, "describe it under `refresh`"),
        ({"triggers": 200}, "`triggers` of .* must hold a mapping of settings, not int"),
        ({"serve": {"port": 99999}}, "`port` is 99999; it must be between 0 and 65535"),
        ({"serve": {"settings": {"pin": True}}}, "unknown key `pin` in `serve.settings`"),
        ({"budget": {"rounds": -1}}, "`rounds` is -1; it must be at least 0"),
        ({"gate": {"budgets": {"refusal": {"rise": 0.1}}}}, "unknown key `refusal` in `gate.budgets`; did you mean"),
        ({"gate": {"budgets": {"response_rate": {"fall": 0.1}}}}, "unknown key `response_rate` in `gate.budgets`"),
        (
            {"gate": {"budgets": {"reward_gap": {"rise": 0.5}}}},
            "limits `reward_gap`, .* set `heldout_judge` in the file",
        ),
        ({"gate": {"budgets": {"task/sums": {"fall": 0.1}}}}, "limits `task/sums`, .* set `tasks` in the file"),
        ({"canary": {"share": 1.0}}, "`share` is 1.0; it must lie between 0 and 1"),
        ({"retry": {"attempts": 0}}, "`retry.attempts` is 0; it must be at least 1"),
        ({"retry": {"seconds": -1}}, "`retry.seconds` is -1.0; it must be at least 0"),
    ],
)
def test_a_mistake_is_named(read, content, change, message):
    with pytest.raises(ConfigError, match=message):
        read(content | change)


@pytest.mark.parametrize(
    ("name", "evaluation", "message"),
    [
        ("kl", {"temperature": 0.7}, "limits `kl`, .* set `temperature` and `top_p` to 1 in the file"),
        ("kl", {"top_p": 0.9}, "limits `kl`, .* set `temperature` and `top_p` to 1 in the file"),
        ("reward_gap", {"judges": ["a", "b"], "heldout_judge": "b"}, "limits `reward_gap`, .* set `proxy_judge` in"),
        ("task/sum", {}, "unknown key `task/sum` in `gate.budgets`; did you mean `task/sums`"),
        ("length/x", {}, "unknown key `length/x` in `gate.budgets`; did you mean `length`"),
        ("harnes/arc_easy/acc", {}, "unknown key `harnes/arc_easy/acc` in `gate.budgets`"),
    ],
)
def test_a_budget_for_what_would_not_be_measured_is_named(read, content, write_evaluation, name, evaluation, message):
    budgets = {name: {"fall": 0.1, "rise": 0.1}}
    with pytest.raises(ConfigError, match=message):
        read(content | {"gate": {"budgets": budgets}, "evaluate": write_evaluation(evaluation)})


def test_whatever_is_measured_may_have_a_budget(read, content, write_evaluation):
    names = ["kl", "reward_gap", "heldout_reward", "length", "task", "task/sums", "harness", "harness/arc_easy/acc"]
    budgets = {name: {"fall": 0.1, "rise": 0.1} for name in names}
    evaluation = {"judges": ["a", "b"], "heldout_judge": "b", "proxy_judge": "a", "harness": {"tasks": ["arc_easy"]}}
    settings = read(content | {"gate": {"budgets": budgets}, "evaluate": write_evaluation(evaluation)})
    assert settings.gate.budgets.keys() == set(names)


@pytest.mark.parametrize(
    ("canary", "judges", "alone"),
    [(None, ["live"], True), (None, ["live", "my_rewards:exact"], False), ({"share": 0.1}, ["live"], False)],
)
def test_it_is_known_where_the_reward_model_alone_decides(read, content, write_evaluation, canary, judges, alone):
    settings = read(content | {"canary": canary, "evaluate": write_evaluation({"judges": judges})})
    assert settings.trusts_proxy_alone is alone
