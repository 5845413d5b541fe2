"""Asking a server for rewards: batches, retries, timeouts and the cache, against a real one."""

import asyncio
import re

import pytest
from fastapi import Response

from online_trl.backoff import Backoff
from online_trl.config import ConfigError
from online_trl.rewards import server as server_module
from online_trl.rewards.remote_scorer import RemoteScorer
from online_trl.rewards.server import RewardServerError
from scoring_server import Scripted, scoring_server


@pytest.fixture(scope="module")
def running():
    with scoring_server() as (url, script):
        yield f"{url}/score", script


@pytest.fixture
def script(running, monkeypatch):
    monkeypatch.setattr(server_module, "_BACKOFF", Backoff(seconds=0.001, longest=0.05))
    running[1].__dict__.update(Scripted().__dict__)
    return running[1]


@pytest.fixture
def make(running, script):
    return lambda **options: RemoteScorer(url=running[0], **options)


def ask(scorer, *answers):
    prompts = [[{"role": "user", "content": "What?"}]] * len(answers)
    completions = [[{"role": "assistant", "content": answer}] for answer in answers]
    return asyncio.run(scorer(prompts=prompts, completions=completions, completion_ids=[]))


def conversation(answer):
    return [{"role": "user", "content": "What?"}, {"role": "assistant", "content": answer}]


def unavailable(**headers):
    return Response("busy", status_code=503, headers=headers)


def test_conversations_are_posted_in_batches_and_the_scores_come_back_in_order(make, script):
    assert ask(make(batch_size=2, concurrency=1), "a", "bb", "ccc") == [1.0, 2.0, 3.0]
    assert script.paths == ["/score", "/score"]
    assert script.bodies == [
        {"conversations": [conversation("a"), conversation("bb")]},
        {"conversations": [conversation("ccc")]},
    ]


def test_plain_text_is_sent_as_messages(make, script):
    assert asyncio.run(make()(prompts=["What?"], completions=["four"])) == [4.0]
    assert script.bodies == [{"conversations": [conversation("four")]}]


def test_null_says_that_the_scorer_does_not_apply(make, script):
    script.replies = [{"scores": [None, 1]}]
    assert ask(make(), "a", "bb") == [None, 1]


def test_no_more_requests_are_open_than_allowed(make, script):
    script.seconds = 0.02
    assert ask(make(batch_size=1, concurrency=3), *"abcdefgh", "two") == [1.0] * 8 + [3.0]
    assert script.open_at_most == 3


def test_what_was_asked_before_is_not_asked_again(make, script):
    scorer = make(batch_size=10)
    assert ask(scorer, "a", "bb", "a") == [1.0, 2.0, 1.0]
    assert ask(scorer, "bb", "ccc") == [2.0, 3.0]
    assert script.bodies == [
        {"conversations": [conversation("a"), conversation("bb")]},
        {"conversations": [conversation("ccc")]},
    ]


def test_the_cache_keeps_the_latest_used(make, script):
    scorer = make(cache_size=2)
    ask(scorer, "a", "bb")
    ask(scorer, "a")
    ask(scorer, "ccc")
    script.bodies.clear()
    ask(scorer, "a", "ccc")
    assert script.bodies == []
    ask(scorer, "bb")
    assert script.bodies == [{"conversations": [conversation("bb")]}]


def test_without_a_cache_every_batch_asks_again(make, script):
    scorer = make(cache_size=0)
    assert ask(scorer, "a", "a") == ask(scorer, "a", "a") == [1.0, 1.0]
    assert script.bodies == [{"conversations": [conversation("a")]}] * 2


@pytest.mark.parametrize(
    "reply", [unavailable(), {"scores": [1.0]}, {"score": 1}, Response("<html>"), {"scores": ["good", 2]}]
)
def test_a_server_that_has_no_time_or_talks_nonsense_is_asked_again(reply, make, script):
    script.replies = [reply, reply]
    assert ask(make(retries=2), "a", "bb") == [1.0, 2.0]
    assert len(script.bodies) == 3


def test_a_server_that_says_when_to_come_back_is_left_alone_until_then(make, script, monkeypatch):
    pauses = []
    sleep = asyncio.sleep

    async def recorded(seconds):
        pauses.append(seconds)
        await sleep(0)

    script.replies = [unavailable(**{"Retry-After": "7"})]
    monkeypatch.setattr(server_module.asyncio, "sleep", recorded)
    assert ask(make(), "a") == [1.0]
    assert 0.05 in pauses  # what it asks for, up to the longest pause


def test_a_server_that_stays_away_is_named_with_the_reason(make, script):
    script.always = lambda body: unavailable()
    with pytest.raises(RewardServerError, match=r"/score was asked 3 times in vain: status 503 .*'busy'"):
        ask(make(retries=2), "a")
    with pytest.raises(RewardServerError, match=r"http://127.0.0.1:9 was asked once in vain"):
        ask(RemoteScorer(url="http://127.0.0.1:9", retries=0), "a")


def test_a_server_that_is_too_slow_is_given_up(make, script):
    script.seconds = 0.5
    with pytest.raises(RewardServerError, match=r"in vain: no answer within 0.05 s"):
        ask(make(retries=1, timeout=0.05), "a")
    assert len(script.bodies) == 2


def test_nonsense_to_the_end_is_shown(make, script):
    script.always = lambda body: {"scores": [True]}
    with pytest.raises(RewardServerError, match=r"reply cannot be read: it is not `scores` with a number .*true"):
        ask(make(retries=0), "a")


def test_a_refusal_is_not_repeated(make, script):
    script.always = lambda body: Response("no such route", status_code=404)
    with pytest.raises(RewardServerError, match="does not answer: status 404 Not Found: 'no such route'"):
        ask(make(), "a")
    assert len(script.bodies) == 1


def test_the_first_failure_ends_the_batch(make, script):
    script.always = lambda body: Response("no", status_code=400)
    with pytest.raises(RewardServerError):
        ask(make(batch_size=1, concurrency=1), *"abcdefgh")
    assert len(script.bodies) < 8


def test_what_failed_is_not_remembered(make, script):
    scorer = make(retries=0)
    script.replies = [unavailable()]
    with pytest.raises(RewardServerError):
        ask(scorer, "a")
    assert ask(scorer, "a") == [1.0]


def test_the_key_comes_from_the_environment_and_is_not_shown(make, script, monkeypatch):
    monkeypatch.setenv("SCORER_KEY", "sk-secret")
    scorer = make(api_key_variable="SCORER_KEY")
    ask(scorer, "a")
    assert script.headers[0]["authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in repr(scorer)
    ask(make(), "a")
    assert "authorization" not in script.headers[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:9000"}, "`url` is 'localhost:9000', which is not the URL of a server"),
        ({"url": "ftp://host/score"}, "which is not the URL of a server"),
        ({"url": "http://host:port/"}, "which is not a URL"),
        ({"url": "http://me:secret@host/"}, "`url` holds a user or a key; name the variable"),
        ({"timeout": 0}, "`timeout` is 0; it must be above 0"),
        ({"retries": -1}, "`retries` is -1; it must be at least 0"),
        ({"concurrency": 0}, "`concurrency` is 0; it must be at least 1"),
        ({"cache_size": -1}, "`cache_size` is -1"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"api_key_variable": "NO_SUCH_KEY"}, "the environment variable `NO_SUCH_KEY`, named in `api_key_variable`"),
        ({"api_key_variable": "BAD_KEY"}, "`BAD_KEY` holds a space"),
    ],
)
def test_a_wrong_option_is_found_before_anything_is_asked(options, message, monkeypatch):
    monkeypatch.setenv("BAD_KEY", "two words")
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        RemoteScorer(**{"url": "http://127.0.0.1:9/score", **options})
    assert "secret" not in str(raised.value)
