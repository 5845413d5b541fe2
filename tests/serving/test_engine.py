from __future__ import annotations

from online_trl.serving.engine import Generation, GenerationRequest, Sampling

MESSAGES = [{"role": "user", "content": "Hi"}]


def test_stretches_join_to_the_answer():
    first = Generation(text="Good ", prompt_ids=[1, 2], completion_ids=[7, 8], logprobs=[-0.5, -1.0], index=3)
    last = Generation(
        text="day", prompt_ids=[1, 2], completion_ids=[9], logprobs=[-2.0], finish_reason="stop", index=3
    )
    assert Generation.joined([first, last]) == Generation(
        text="Good day",
        prompt_ids=[1, 2],
        completion_ids=[7, 8, 9],
        logprobs=[-0.5, -1.0, -2.0],
        finish_reason="stop",
        index=3,
    )
    assert Generation.joined([first]).finish_reason is None


def test_each_answer_has_its_own_seed():
    request = GenerationRequest(messages=MESSAGES, policy_version="policy-0001", sampling=Sampling(seed=5), n=3)
    assert [request.seed_of(index) for index in range(3)] == [5, 6, 7]
    assert GenerationRequest(messages=MESSAGES, policy_version="policy-0001").seed_of(2) is None
