from dataclasses import dataclass

import pytest

from online_trl.config import ConfigError, OnlineArguments, check_choice, check_config_file, check_keys


@dataclass
class Arguments:
    learning_rate: float = 0.0
    refresh_steps: int = 0


def test_a_config_file_is_read(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("learning_rate: 0.1\nenv: {A: b}\n")
    assert check_config_file(file, [Arguments]) == {"learning_rate": 0.1, "env": {"A": "b"}}


def test_a_wrong_key_is_named_with_the_nearest_valid_one(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("refresh_step: 3\n")
    with pytest.raises(
        ConfigError, match=r"unknown key `refresh_step` in .*config.yaml; did you mean `refresh_steps`\?"
    ):
        check_config_file(file, [Arguments])


def test_a_key_that_resembles_nothing_gets_no_suggestion():
    with pytest.raises(ConfigError, match=r"unknown key `zzz` in here$"):
        check_keys(["zzz"], ["learning_rate"], where="here")


@pytest.mark.parametrize(
    ("content", "message"),
    [("- a\n- b\n", "must hold a mapping of settings, not list"), ("a: [", "is not valid YAML")],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, content, message):
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        check_config_file(file, [Arguments])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the config file .*nowhere.yaml: No such file"):
        check_config_file(tmp_path / "nowhere.yaml", [Arguments])


def test_an_unknown_choice_is_named_with_the_nearest_and_all():
    with pytest.raises(ConfigError, match=r"unknown trainer `grop`; did you mean `grpo`\?; known: grpo, ppo"):
        check_choice("trainer", "grop", ["grpo", "ppo"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fresh_prompt_fraction", 1.5, "`fresh_prompt_fraction` is 1.5; it must be between 0.0 and 1.0"),
        ("refresh_steps", -1, "`refresh_steps` is -1; it must be at least 0"),
        ("max_prompt_length", 0, "`max_prompt_length` is 0; it must be at least 1"),
        ("long_prompts", "trim", r"unknown long_prompts `trim`.*; known: drop, truncate"),
        ("max_user_share", 0, "`max_user_share` is 0; it must be above 0 and at most 1"),
        ("max_user_share", 1.5, "`max_user_share` is 1.5; it must be above 0 and at most 1"),
    ],
)
def test_online_arguments_are_bounded(name, value, message):
    with pytest.raises(ConfigError, match=message):
        OnlineArguments(**{name: value}).check_online_arguments()
