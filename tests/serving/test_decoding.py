from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from online_trl.serving.decoding import Policy, Row, answer_batch
from online_trl.serving.engine import EngineError, InvalidPromptError, PromptTooLongError
from online_trl.serving.generation import Generation, GenerationRequest, Sampling
from online_trl.serving.policy_source import SinglePolicy

QUESTIONS = [
    "Hi",
    "How do I reset the password of my account?",
    "Please wait.",
    "Grüße aus München, was gibt es Neues?",
]
GREEDY = Sampling(temperature=0.0, max_tokens=24)


@pytest.fixture(scope="module")
def policy(policy_folders: list[Path]) -> Policy:
    return Policy.load(SinglePolicy(str(policy_folders[0])), "first", "cpu")


def request(question: str, sampling: Sampling, role: str = "user") -> GenerationRequest:
    return GenerationRequest(
        messages=[{"role": role, "content": question}], policy_version="policy-0001", sampling=sampling
    )


def answers(
    policy: Policy, requests: list[GenerationRequest], *, streaming: bool = False
) -> list[list[Generation | EngineError]]:
    rows = [Row(policy, each, 0, streaming=streaming) for each in requests]
    received: dict[Row, list[Generation | EngineError]] = defaultdict(list)

    def deliver(deliveries: list[tuple[Row, Generation | EngineError]]) -> None:
        for row, item in deliveries:
            received[row].append(item)

    answer_batch(rows, deliver)
    return [received[row] for row in rows]


def whole_answers(policy: Policy, requests: list[GenerationRequest]) -> list[Generation]:
    result = []
    for items in answers(policy, requests):
        (item,) = items
        assert isinstance(item, Generation)
        result.append(item)
    return result


def greedy_reference(policy: Policy, prompt_ids: list[int], max_tokens: int) -> list[int]:
    output = policy.model.generate(
        torch.tensor([prompt_ids]),
        attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long),
        max_new_tokens=max_tokens,
        do_sample=False,
    )
    return output[0, len(prompt_ids) :].tolist()


def expected_logprobs(policy: Policy, answer: Generation, sampling: Sampling) -> list[float]:
    ids = torch.tensor([answer.prompt_ids + answer.completion_ids])
    with torch.no_grad():
        logits = policy.model(ids).logits[0, len(answer.prompt_ids) - 1 : -1].double()
    probabilities = (logits / (sampling.temperature or 1.0)).softmax(-1)
    if sampling.temperature > 0 and sampling.top_p < 1:
        for row in probabilities:
            likeliest = row.sort(descending=True)
            size = int((likeliest.values.cumsum(0) < sampling.top_p).sum()) + 1
            row[likeliest.indices[size:]] = 0.0
        probabilities /= probabilities.sum(-1, keepdim=True)
    return [probabilities[place, token].log().item() for place, token in enumerate(answer.completion_ids)]


def test_greedy_batch_equals_generate_token_for_token(policy: Policy):
    for answer in whole_answers(policy, [request(question, GREEDY) for question in QUESTIONS]):
        assert answer.completion_ids == greedy_reference(policy, answer.prompt_ids, 24)
        assert answer.text == policy.decode(answer.completion_ids)
        assert answer.finish_reason == "length"


def test_end_token_ends_the_answer_as_in_generate(policy: Policy):
    config = policy.model.generation_config
    first, *_ = whole_answers(policy, [request(QUESTIONS[0], GREEDY)])
    end = first.completion_ids[5]
    ends = config.eos_token_id
    config.eos_token_id = [ends, end]
    try:
        batch = whole_answers(policy, [request(question, GREEDY) for question in QUESTIONS])
        references = [greedy_reference(policy, answer.prompt_ids, 24) for answer in batch]
    finally:
        config.eos_token_id = ends
    assert [answer.completion_ids for answer in batch] == references
    assert batch[0].completion_ids == first.completion_ids[: first.completion_ids.index(end) + 1]
    assert batch[0].finish_reason == "stop"
    assert batch[0].text == policy.decode(batch[0].completion_ids[:-1])


def test_logprobs_are_those_of_the_sampling_distribution(policy: Policy):
    samplings = [
        Sampling(max_tokens=30, seed=1),
        Sampling(max_tokens=20, seed=2, temperature=0.6),
        Sampling(max_tokens=25, seed=3, temperature=1.3, top_p=0.7),
        GREEDY,
    ]
    requests = [request(question, sampling) for question, sampling in zip(QUESTIONS, samplings, strict=True)]
    for answer, sampling in zip(whole_answers(policy, requests), samplings, strict=True):
        assert answer.logprobs == pytest.approx(expected_logprobs(policy, answer, sampling), abs=1e-4)


def test_seed_decides_the_answer_alone_and_in_a_batch(policy: Policy):
    requests = [request(question, Sampling(seed=7, max_tokens=20)) for question in QUESTIONS]
    together = whole_answers(policy, requests)
    alone = [whole_answers(policy, [each])[0] for each in requests]
    assert [answer.completion_ids for answer in together] == [answer.completion_ids for answer in alone]
    other = whole_answers(policy, [request(QUESTIONS[0], Sampling(seed=8, max_tokens=20))])[0]
    assert other.completion_ids != alone[0].completion_ids


def test_stretches_of_a_stream_are_the_answer(policy: Policy):
    asked = request(QUESTIONS[1], Sampling(seed=3, max_tokens=60))
    (whole,) = whole_answers(policy, [asked])
    stretches = answers(policy, [asked], streaming=True)[0]
    assert len(stretches) > 20
    assert all(isinstance(stretch, Generation) and stretch.text for stretch in stretches[:-1])
    assert [stretch.finish_reason for stretch in stretches[:-1]] == [None] * (len(stretches) - 1)
    joined = Generation.joined(stretches)
    assert replace(joined, logprobs=[]) == replace(whole, logprobs=[])
    assert joined.logprobs == pytest.approx(whole.logprobs, abs=1e-5)


def test_stop_text_ends_the_answer(policy: Policy):
    (whole,) = whole_answers(policy, [request(QUESTIONS[0], GREEDY)])
    stop = whole.text[8:11]
    (stopped,) = whole_answers(policy, [request(QUESTIONS[0], replace(GREEDY, stop=(stop,)))])
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.finish_reason == "stop"
    assert stopped.completion_ids == whole.completion_ids[: len(stopped.completion_ids)]


def test_answer_ends_where_the_context_does(policy: Policy):
    (answer,) = whole_answers(policy, [request("a " * 490, Sampling(temperature=0.0))])
    assert len(answer.prompt_ids) + len(answer.completion_ids) == policy.context_length
    assert answer.finish_reason == "length"


def test_generation_config_says_how_long_an_answer_is(policy: Policy):
    policy.model.generation_config.max_new_tokens = 5
    try:
        asked = [request("Hi", Sampling(temperature=0.0)), request("Hi", Sampling(temperature=0.0, max_tokens=9))]
        batch = whole_answers(policy, asked)
    finally:
        policy.model.generation_config.max_new_tokens = None
    assert [len(answer.completion_ids) for answer in batch] == [5, 9]


def test_refused_prompts_do_not_disturb_the_batch(policy: Policy):
    good = request(QUESTIONS[0], GREEDY)
    (too_long,), (answer,), (refused,) = answers(
        policy, [request("word " * 2000, GREEDY), good, request("result", GREEDY, role="tool")]
    )
    assert isinstance(too_long, PromptTooLongError)
    length = len(policy.encode(request("word " * 2000, GREEDY).messages))
    assert f"{length} tokens" in str(too_long)
    assert f"{policy.context_length} tokens" in str(too_long)
    assert type(refused) is InvalidPromptError
    assert "no tools here" in str(refused)
    assert isinstance(answer, Generation)
    assert answer.completion_ids == whole_answers(policy, [good])[0].completion_ids


def test_template_sees_all_fields_and_may_not_expect_them(policy: Policy, monkeypatch: pytest.MonkeyPatch):
    template = "{% for message in messages %}{{ message.name + ': ' + message.content }}{% endfor %}"
    monkeypatch.setattr(policy.tokenizer, "chat_template", template)
    named = {"role": "user", "content": "Hi", "name": "Ada"}
    assert policy.decode(policy.encode([named])) == "Ada: Hi"
    with pytest.raises(InvalidPromptError, match="the chat template refuses these messages: unsupported operand"):
        policy.encode([named | {"name": 5}])


def test_cancelled_row_leaves_the_batch(policy: Policy):
    rows = [Row(policy, request(question, GREEDY), 0, streaming=True) for question in QUESTIONS[:2]]
    received: dict[Row, list[Generation]] = {row: [] for row in rows}

    def deliver(deliveries: list[tuple[Row, Generation]]) -> None:
        for row, stretch in deliveries:
            received[row].append(stretch)
            rows[0].cancelled = len(received[rows[0]]) >= 3

    answer_batch(rows, deliver)
    assert len(received[rows[0]]) == 3
    assert Generation.joined(received[rows[1]]).completion_ids == greedy_reference(policy, rows[1].prompt_ids, 24)


def test_model_without_a_chat_template_is_refused(policy_folders: list[Path], tmp_path: Path):
    for file in policy_folders[0].iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="no chat template"):
        Policy.load(SinglePolicy(str(tmp_path)), tmp_path.name, "cpu")
