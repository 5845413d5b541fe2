from __future__ import annotations

from typing import Any

import pytest

from online_trl.config import ConfigError
from online_trl.serving.settings import ServerSettings, read_settings

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "word for a number": ({"max_body_bytes": "many"}, r"`max_body_bytes` in server\.yaml is 'many': Input should be"),
    "number for a word": ({"public_url": 5}, r"`public_url` in server\.yaml is 5: Input should be a valid string"),
    "one origin, not a list": ({"allowed_origins": "https://a.example"}, "`allowed_origins` in .* valid list"),
    "nothing": ({"burst_rows": None}, "`burst_rows` in .* is None"),
    "misspelt": ({"max_body_byte": 5}, r"unknown key `max_body_byte` in server\.yaml; did you mean `max_body_bytes`"),
    "out of bounds": ({"max_body_bytes": 0}, "`max_body_bytes` is 0; it must be at least 1"),
    "no rate": ({"rate_limit_per_key": "often"}, "`rate_limit_per_key` is 'often', which is not a rate such as"),
    "rate of nothing": ({"rate_limit_per_user": "0/minute"}, "`rate_limit_per_user` is '0/minute'.*let through"),
    "no asking rate": ({"comparison_rate_per_user": "rarely"}, "`comparison_rate_per_user` is 'rarely', which is not"),
    "more than all": ({"comparison_share": 1.5}, "`comparison_share` is 1.5; it must be between 0 and 1"),
    "one candidate": ({"comparison_candidates": 1}, "`comparison_candidates` is 1; it must be between 2 and 16"),
    "too few looks": ({"comparison_looks": 0.5}, "`comparison_looks` is 0.5; it must be between 1 and 100"),
    "no strategy": ({"comparison_strategy": "thompson"}, "`comparison_strategy` in .* 'double_thompson', 'random' or"),
    "any origin": ({"allowed_origins": ["*"]}, r"`allowed_origins` names '\*'; it must be a scheme and a host"),
    "origin that no browser sends": ({"allowed_origins": ["https://A.example"]}, "in lower case"),
    "origin with a path": ({"allowed_origins": ["https://a.example/"]}, "without a path"),
    "URL with a path": ({"public_url": "https://a.example/chat"}, "`public_url` names .* without a path"),
    "bounds, highest first": ({"rating_bounds": {"stars": [5, 1]}}, "'stars' the bounds 5.0 and 1.0"),
    "bounds without an end": ({"rating_bounds": {"stars": [0, float("inf")]}}, "must be finite"),
    "bounds that are one number": ({"rating_bounds": {"stars": 5}}, "`rating_bounds` in server.yaml"),
}


@pytest.mark.parametrize(("values", "message"), BAD.values(), ids=BAD.keys())
def test_bad_setting_is_named(values: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        read_settings(values, where="server.yaml")


def test_settings_are_read():
    values = {"allowed_origins": ["https://a.example:8443"], "rate_limit_per_key": "20 per 10 second"}
    assert read_settings(values, where="server.yaml") == ServerSettings(**values)
    assert read_settings({}, where="server.yaml") == ServerSettings()
    bounds = read_settings({"rating_bounds": {"stars": [1, 5]}}, where="server.yaml").rating_bounds
    assert bounds == {"stars": (1, 5)}
