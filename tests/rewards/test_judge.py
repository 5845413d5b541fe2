"""A judge behind the OpenAI API: what it is told, and what is read from its replies."""

import asyncio
import re

import pytest
from fastapi import Response

from online_trl.config import ConfigError
from online_trl.rewards.judge import Judge
from online_trl.rewards.server import RewardServerError
from scoring_server import Scripted, says, scoring_server

OPTIONS = {"url": "http://127.0.0.1:9/v1", "model": "big"}


@pytest.fixture(scope="module")
def running():
    with scoring_server() as (url, script):
        yield f"{url}/v1", script


@pytest.fixture
def script(running):
    running[1].__dict__.update(Scripted().__dict__)
    return running[1]


@pytest.fixture
def make(running, script):
    return lambda **options: Judge(url=running[0], model="big", retries=0, **options)


def ask(judge, *answers, prompt=({"role": "user", "content": "What?"},)):
    completions = [[{"role": "assistant", "content": answer}] for answer in answers]
    return asyncio.run(judge(prompts=[list(prompt)] * len(answers), completions=completions, completion_ids=[]))


def told(script):
    return [body["messages"][0]["content"] for body in script.bodies]


def test_each_answer_is_judged_on_its_own_and_scored_from_0_to_1(make, script):
    script.replies = [says("Vague.\nScore: 2.5"), says("**Score:** 10/10")]
    assert ask(make(concurrency=1), "perhaps", "it is 7") == [0.25, 1.0]
    assert script.paths == ["/v1/chat/completions"] * 2
    assert [(body["model"], body["temperature"]) for body in script.bodies] == [("big", 0)] * 2
    first, second = told(script)
    assert "<conversation>\nWhat?\n</conversation>" in first
    assert "<answer>\nperhaps\n</answer>" in first
    assert "<answer>\nit is 7\n</answer>" in second
    assert "from 0 (worst) to 10 (best)" in first


def test_a_template_of_ones_own_gets_all_messages(make, script):
    script.always = lambda body: says("-1")
    template = (
        "{% for message in messages %}[{{ message.role }}] {{ message.content }} {% endfor %}{{ low }}..{{ high }}"
    )
    judge = make(template=template, low=-2, high=2, score_pattern=r"^(-?\d)$", extra_body={"max_tokens": 3})
    asked = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "<b>What?</b>"}]
    assert ask(judge, "it", prompt=asked) == [0.25]
    assert told(script) == ["[system] Be kind. [user] <b>What?</b> [assistant] it -2..2"]
    assert script.bodies[0]["max_tokens"] == 3
    assert "temperature" not in script.bodies[0]


def test_several_messages_are_told_apart_as_text(make, script):
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "So?"},
    ]
    ask(make(template="{{ prompt }}|{{ completion }}", high=1000), "it", prompt=turns)
    assert told(script) == ["user: Hi\n\nassistant: \n\nuser: So?|it"]


def test_plain_text_is_judged_too(make, script):
    judge = make(template="{{ prompt }}|{{ completion }}")
    assert asyncio.run(judge(prompts=["ab"], completions=["cd"])) == [0.5]


@pytest.mark.parametrize("said", ["I would rather not.", "Score: 11", "Score: -1", "score 1e999", None])
def test_an_answer_whose_judgement_holds_no_score_is_left_out(said, make, script, running):
    script.replies = [says(said), says("Score: 5")]
    judge = make(concurrency=1, score_pattern=r"(?i)score\W*?(-?\d[\de.]*)")
    assert ask(judge, "a", "b") == [None, 0.5]


def test_the_last_score_counts(make, script):
    script.replies = [says("<think>Score: 1? No, score: 3.</think> It says `Score: 9` itself. Score: 4")]
    assert ask(make(), "a") == [0.4]


def test_a_judge_that_never_gives_a_score_has_failed(make, script):
    script.always = lambda body: says("Very nice!")
    with pytest.raises(
        RewardServerError, match=r"no reply of .*/v1 holds a score from 0 to 10 .* such as 'Very nice!'"
    ):
        ask(make(), "a", "b")


@pytest.mark.parametrize("reply", [{"error": "no"}, {"choices": []}, [], Response("<html>")])
def test_what_is_no_chat_completion_is_a_failure(reply, make, script):
    script.replies = [reply]
    with pytest.raises(RewardServerError, match="its reply cannot be read"):
        ask(make(), "a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "{% for %}{{ completion }}"}, "`template` cannot be parsed: "),
        ({"template": "{{ completion }} {{ prmpt }}"}, "unknown key `prmpt` in `template`; did you mean `prompt`?"),
        ({"template": "{{ prompt }}"}, "`template` does not show the judge the answer"),
        ({"score_pattern": "("}, "`score_pattern` cannot be parsed"),
        ({"score_pattern": r"\d+"}, "`score_pattern` has 0 groups; it must have one"),
        ({"low": 10}, "`low` is 10 and `high` 10.0"),
        ({"url": "http://127.0.0.1:9/v1/chat/completions"}, "give the base of the API, without `/chat/completions`"),
    ],
)
def test_a_wrong_option_is_found_before_anything_is_asked(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Judge(**{**OPTIONS, **options})
