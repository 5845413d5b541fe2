"""A judge that sees two answers, behind the OpenAI API."""

import asyncio
import re

import pytest

from online_trl.config import ConfigError
from online_trl.rewards.pairwise_judge import PairwiseJudge
from online_trl.rewards.server import RewardServerError
from online_trl.rewards.source_options import PAIRWISE_KINDS, read_reward_sources
from scoring_server import says, scoring_server


def ask(judge, *pairs):
    firsts, seconds = (
        [[{"role": "assistant", "content": text}] for text in side] for side in zip(*pairs, strict=True)
    )
    prompts = [[{"role": "user", "content": "What?"}]] * len(pairs)
    return asyncio.run(judge.compare(prompts=prompts, firsts=firsts, seconds=seconds))


def test_the_last_verdict_counts_and_one_without_is_left_out():
    with scoring_server() as (url, script):
        judge = PairwiseJudge(url=f"{url}/v1", model="big", concurrency=1, retries=0)
        script.replies = [
            says("**Verdict:** A"),
            says("Verdict: A? No.\nVerdict: B"),
            says("verdict: tie"),
            says("Verdict: Both are fine."),
        ]
        pairs = [("one", "two"), ("two", "one"), ("one", "one"), ("two", "two")]
        assert ask(judge, *pairs) == [1.0, 0.0, 0.5, None]
        assert ask(judge, ("one", "two")) == [1.0], "what was asked before is remembered"
        first = script.bodies[0]["messages"][0]["content"]
        assert "<answer_a>\none\n</answer_a>" in first
        assert "<answer_b>\ntwo\n</answer_b>" in first
        assert len(script.bodies) == 4
        script.always = lambda body: says("Hard to tell.")
        with pytest.raises(RewardServerError, match="holds a verdict that `verdict_pattern` finds, such as 'Hard"):
            ask(judge, ("three", "four"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "{{ prompt }}"}, "it uses neither `first` nor `second`"),
        ({"template": "{{ completion }}"}, "unknown key `completion` in `template`"),
        ({"verdict_pattern": "A|B"}, "`verdict_pattern` has 0 groups; it must have one, the verdict"),
        ({"url": "http://127.0.0.1:9/v1/chat/completions"}, "give the base of the API"),
    ],
)
def test_a_wrong_option_is_found_before_anything_is_asked(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        PairwiseJudge(**{"url": "http://127.0.0.1:9/v1", "model": "big", **options})


def test_it_judges_and_pays_nobody():
    options = {"versus": {"kind": "pairwise_judge", "url": "http://127.0.0.1:9/v1", "model": "big"}}
    assert isinstance(read_reward_sources(options, kinds=PAIRWISE_KINDS)["versus"].reward, PairwiseJudge)
    with pytest.raises(ConfigError, match="unknown kind `pairwise_judge`; did you mean `judge`"):
        read_reward_sources(options)
