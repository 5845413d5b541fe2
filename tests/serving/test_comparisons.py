"""Two answers where one was asked for: when, which, and what the log and the metrics hold of it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from online_trl.rewards.asking import Scores, thompson_probabilities
from online_trl.serving.comparisons import Comparisons
from online_trl.serving.engine import EngineLoad, ServedVersion, UpstreamRefusedError
from online_trl.serving.generation import ChatRequest, Generation, Origin, Piece
from online_trl.serving.live_scores import ScoringError
from online_trl.serving.metrics import Metrics
from online_trl.serving.rate_limits import RateLimits
from online_trl.serving.schemas import ChatCompletionRequest
from online_trl.serving.settings import ServerSettings
from online_trl.serving.upstream_engine import UpstreamEngine
from online_trl.store import FeedbackStore
from online_trl.types import Message
from serving.small_app import SmallApp, app_before, small_app
from serving.test_metrics import samples
from serving.upstream import Script, scripted_upstream

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 6, "seed": 3}
WELCOME = {"X-Comparison": "welcome"}
ALWAYS = {"comparison_share": 1.0, "comparison_rate_per_user": None}
# The pair of the third and the fourth is chosen by half of the heads, that of the second and the fourth by the others.
# The last one is too bad to be shown.
OPINIONS = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.5], [0.5, 0.75], [-5.0, -5.0]])


class Parrot:
    """An engine that answers at once, and each answer differently, or refuses to give several."""

    default_version = "policy"

    def __init__(self, *, most: int = 16) -> None:
        self.most = most

    async def versions(self) -> list[ServedVersion]:
        return []

    async def resolve(self, model: str, *, asker: str | None = None) -> str:
        return model

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def load(self) -> EngineLoad:
        return EngineLoad(0)

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        n = request.generation.n
        if n > self.most:
            raise UpstreamRefusedError(400, b"no n here", {})
        assert request.body["n"] == n
        assert "stream" not in request.body
        answers = [
            Generation(text=f"answer {index}", origin=Origin(policy_version="policy", sampling={}), index=index)
            for index in range(n)
        ]
        choices = [{"index": each.index, "message": {"role": "assistant", "content": each.text}} for each in answers]
        yield Piece(json.dumps({"id": "chatcmpl-1", "choices": choices}).encode(), tuple(answers))


class Opinions:
    """Scores of every set of candidates: always the same, or drawn."""

    def __init__(self, scores: Scores | None = None, *, heads: int = 4, error: str | None = None) -> None:
        self._scores = scores
        self._heads = heads
        self._error = error
        self._rng = np.random.default_rng(7)

    async def version(self) -> str:
        return "reward-0001"

    async def score(self, conversations: Sequence[list[Message]]) -> tuple[str, Scores]:
        if self._error is not None:
            raise ScoringError(self._error)
        drawn = self._rng.normal(size=(len(conversations), self._heads)) * self._rng.lognormal()
        return "reward-0001", drawn if self._scores is None else self._scores[: len(conversations)]


@dataclass(frozen=True)
class Asking:
    """What decides on comparisons, and what it counts in."""

    comparisons: Comparisons
    metrics: Metrics

    def offers(self, count: int, **fields: Any) -> list[Any]:
        body = BODY | fields
        request = ChatCompletionRequest(**body)

        async def run() -> list[Any]:
            return [await self.comparisons.offer(request, body, "policy") for _ in range(count)]

        return asyncio.run(run())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    with FeedbackStore(f"sqlite:///{tmp_path}/feedback.db") as store:
        yield store


def asking(store: FeedbackStore, *, engine: Any = None, scores: Any = None, **settings: Any) -> Asking:
    engine = engine or Parrot()
    chosen = ServerSettings(**settings)
    limits = RateLimits(comparisons_per_user=chosen.comparison_rate_per_user)
    metrics = Metrics(store, engine)
    return Asking(Comparisons(engine, chosen, limits, metrics, scores, np.random.default_rng(0)), metrics)


def asked(found: Sequence[Any]) -> list[Any]:
    return [offer.comparison for offer in found if offer is not None and offer.comparison]


# How often


@pytest.mark.parametrize(
    ("scores", "settings", "strategy"),
    [
        (Opinions(OPINIONS), {}, "double_thompson"),
        (Opinions(OPINIONS), {"comparison_looks": 4.0}, "double_thompson"),
        (Opinions(heads=1), {"comparison_looks": 1.0}, "double_thompson"),
        (Opinions(OPINIONS), {"comparison_strategy": "random"}, "random"),
        (None, {}, "random"),
    ],
)
def test_configured_share_is_asked(store: FeedbackStore, scores: Any, settings: dict[str, Any], strategy: str):
    share = 0.2
    service = asking(store, scores=scores, comparison_share=share, comparison_rate_per_user=None, **settings)
    how = asked(service.offers(4000))
    assert {each["strategy"] for each in how} == {strategy}
    assert len(how) / 4000 == pytest.approx(share, abs=0.02)


def test_conversations_that_the_heads_disagree_about_most_are_asked_about(store: FeedbackStore):
    def worths(looks: float) -> list[float]:
        service = asking(
            store,
            scores=Opinions(),
            comparison_share=0.25,
            comparison_looks=looks,
            comparison_rate_per_user=None,
        )
        return [each["worth"] for each in asked(service.offers(2000))]

    chosen, unchosen = np.array(worths(4.0)), np.array(worths(1.0))
    assert np.quantile(chosen, 0.05) > np.quantile(unchosen, 0.5)


def test_no_user_is_asked_more_often_than_the_limit(store: FeedbackStore):
    service = asking(store, comparison_share=1.0, comparison_rate_per_user="3/hour")
    assert len(asked(service.offers(10, user="ada"))) == 3
    assert len(asked(service.offers(2, user="bob"))) == 2
    assert service.offers(1, user="ada") == [None]
    # Nobody can tell who they are, so that they are one.
    assert len(asked(service.offers(10))) == 3


@pytest.mark.parametrize("settings", [{"comparison_strategy": "off"}, {"comparison_share": 0.0}])
def test_nobody_is_asked_where_that_is_turned_off(store: FeedbackStore, settings: dict[str, Any]):
    service = asking(store, **ALWAYS | settings)
    assert service.offers(20) == [None] * 20


@pytest.mark.parametrize("fields", [{"n": 2}, {"temperature": 0.0}, {"tools": [{"type": "function"}]}])
def test_requests_that_have_no_two_readable_answers_are_left_alone(store: FeedbackStore, fields: dict[str, Any]):
    service = asking(store, **ALWAYS)
    assert service.offers(3, **fields) == [None] * 3
    assert len(asked(service.offers(3))) == 3


# Which answers


def test_pair_is_drawn_by_double_thompson_and_its_propensity_told(store: FeedbackStore):
    service = asking(store, scores=Opinions(OPINIONS), comparison_candidates=5, comparison_looks=1.0, **ALWAYS)
    shown = {}
    for offer in service.offers(400):
        (piece,) = asyncio.run(anext_all(offer.pieces))
        texts = [generation.text for generation in piece.stretches]
        assert [choice["message"]["content"] for choice in json.loads(piece.wire)["choices"]] == texts
        assert [generation.index for generation in piece.stretches] == [0, 1]
        pair = frozenset(int(text.split()[-1]) for text in texts)
        shown[pair] = offer.comparison
    matrix = thompson_probabilities(OPINIONS[:4])
    expected = {
        frozenset((first, second)): matrix[first, second] + matrix[second, first]
        for first in range(4)
        for second in range(first)
        if matrix[first, second] + matrix[second, first] > 0
    }
    assert {pair: how["propensity"] for pair, how in shown.items()} == pytest.approx(expected)
    assert sum(expected.values()) == pytest.approx(1)
    (how, *_) = shown.values()
    assert (how["strategy"], how["reward_version"], how["candidates"]) == ("double_thompson", "reward-0001", 4)


async def anext_all(pieces: AsyncGenerator[Piece, None]) -> list[Piece]:
    return [piece async for piece in pieces]


def test_nobody_is_asked_if_no_second_answer_is_good_enough(store: FeedbackStore):
    scores = Opinions(np.array([[3.0, 3.0], [0.0, 0.0]]))
    service = asking(store, scores=scores, comparison_candidates=2, comparison_looks=1.0, **ALWAYS)
    (offer,) = service.offers(1)
    assert offer.comparison == {}
    (piece,) = asyncio.run(anext_all(offer.pieces))
    assert [choice["message"]["content"] for choice in json.loads(piece.wire)["choices"]] == ["answer 0"]
    assert "comparison" not in json.loads(piece.wire)


# What goes wrong


def test_scorer_that_fails_costs_the_second_answer_only(store: FeedbackStore, caplog: pytest.LogCaptureFixture):
    service = asking(store, scores=Opinions(error="reward-0001 cannot score: no memory"), **ALWAYS)
    found = service.offers(3)
    counts = samples(service.metrics.exposition().decode())
    assert [len(offer.interaction_ids) for offer in found] == [1, 1, 1]
    assert asked(found) == []
    assert counts["online_trl_comparisons_total", "failed", "double_thompson"] == 3
    assert caplog.messages == ["answers to compare cannot be chosen: reward-0001 cannot score: no memory"]


def test_engine_that_gives_one_answer_at_a_time_is_asked_as_ever(
    store: FeedbackStore, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.ERROR):
        assert asking(store, engine=Parrot(most=1), **ALWAYS).offers(2) == [None, None]
    assert caplog.messages == [
        "no 2 answers at once to compare: the upstream server refused the request with status 400"
    ]


# Over HTTP


@pytest.fixture
def app(tmp_path: Path, policy_folders: list[Path]) -> Iterator[SmallApp]:
    with small_app(tmp_path, policy_folders[0], **ALWAYS) as app:
        yield app


def ask(app: SmallApp, headers: dict[str, str] = WELCOME, **fields: Any) -> Any:
    return app.request("POST", "/v1/chat/completions", json=BODY | fields, headers=headers)


def test_two_answers_of_one_turn_are_stored_and_compared(app: SmallApp):
    reply = ask(app, user="ada")
    completion = reply.json()
    assert reply.headers["X-Comparison"] == completion["comparison"] == "asked"
    ids = reply.headers["X-Interaction-Id"].split(", ")
    assert [choice["interaction_id"] for choice in completion["choices"]] == ids
    assert [choice["index"] for choice in completion["choices"]] == [0, 1]
    assert completion["id"] == ids[0]
    stored = app.store.get_interactions(ids)
    rows = [stored[name] for name in ids]
    assert [row.completion[0]["content"] for row in rows] == [
        choice["message"]["content"] for choice in completion["choices"]
    ]
    assert len({row.session_id for row in rows}) == 1
    assert [row.regenerates for row in rows] == [None, None]
    assert [row.sampling["comparison"] for row in rows] == [{"strategy": "random", "propensity": 1.0}] * 2
    assert {row.sampling["seed"] for row in rows} == {3, 4}
    assert completion["usage"]["completion_tokens"] == sum(len(row.completion_ids or []) for row in rows)
    said = {"kind": "comparison", "interaction_ids": ids, "value": "second", "user_id": "ada"}
    by_hand = {"kind": "comparison", "interaction_ids": [app.add_answer(), app.add_answer()], "value": "tie"}
    for statement in (said, by_hand | {"user_id": "ada"}):
        assert app.request("POST", "/v1/feedback", json=statement).status_code == 201
    found = samples(app.request("GET", "/metrics").text)
    assert {key[1:]: count for key, count in found.items() if key[0] == "online_trl_comparisons_total"} == {
        ("asked", "random"): 1,
        ("answered", "random"): 1,
    }


def test_streamed_answers_come_as_the_choices_0_and_1(app: SmallApp):
    reply = ask(app, stream=True, stream_options={"include_usage": True}, logprobs=True)
    assert reply.headers["X-Comparison"] == "asked"
    assert reply.headers["Content-Type"].startswith("text/event-stream")
    *events, done = reply.text.removesuffix("\n\n").split("\n\n")
    first, second, usage = (json.loads(event.removeprefix("data: ")) for event in events)
    assert done == "data: [DONE]"
    ids = reply.headers["X-Interaction-Id"].split(", ")
    assert [chunk["object"] for chunk in (first, second, usage)] == ["chat.completion.chunk"] * 3
    assert {chunk["id"] for chunk in (first, second, usage)} == {ids[0]}
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 12)
    stored = app.store.get_interactions(ids)
    for place, chunk in enumerate((first, second)):
        (choice,) = chunk["choices"]
        assert (choice["index"], choice["interaction_id"], choice["finish_reason"]) == (place, ids[place], "length")
        assert choice["delta"] == stored[ids[place]].completion[0]
        assert len(choice["logprobs"]["content"]) == 6


@pytest.mark.parametrize(
    "headers",
    [{}, WELCOME | {"X-Purpose": "background"}, WELCOME | {"X-Purpose": "evaluation"}],
)
def test_only_a_person_who_can_compare_is_asked(app: SmallApp, headers: dict[str, str]):
    reply = ask(app, headers)
    assert "X-Comparison" not in reply.headers
    assert "comparison" not in reply.json()
    assert len(reply.json()["choices"]) == 1
    (row,) = app.store.interactions()
    assert "comparison" not in row.sampling


def test_other_words_than_welcome_are_refused(app: SmallApp):
    reply = ask(app, {"X-Comparison": "please"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "header.x-comparison")


# Before an upstream server

UPSTREAM_REPLY = {
    "id": "chatcmpl-7",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "big",
    "service_tier": "fast",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "one"}, "finish_reason": "stop", "safety": "checked"},
        {"index": 1, "message": {"role": "assistant", "content": "two"}, "finish_reason": "stop", "safety": "checked"},
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[tuple[SmallApp, Script]]:
    with scripted_upstream() as (url, script), app_before(UpstreamEngine(url, model="big"), tmp_path, **ALWAYS) as app:
        yield app, script


@pytest.mark.parametrize("stream", [False, True])
def test_candidates_of_an_upstream_server_are_compared(upstream: tuple[SmallApp, Script], stream: bool):
    app, script = upstream
    script.says(json.dumps(UPSTREAM_REPLY).encode())
    reply = ask(app, stream=stream)
    ((_, _, sent),) = script.requests
    assert json.loads(sent) == BODY | {"n": 2, "model": "big"}
    assert reply.headers["X-Comparison"] == "asked"
    ids = reply.headers["X-Interaction-Id"].split(", ")
    stored = app.store.get_interactions(ids)
    texts = [stored[name].completion[0]["content"] for name in ids]
    assert sorted(texts) == ["one", "two"]
    assert {row.upstream_id for row in stored.values()} == {"chatcmpl-7"}
    counts = samples(app.request("GET", "/metrics").text)
    assert [counts["online_trl_tokens_total", part, "big"] for part in ("prompt", "completion")] == [3, 4]
    assert {row.policy_version for row in stored.values()} == {"big"}
    common = {name: UPSTREAM_REPLY[name] for name in ("id", "created", "model", "service_tier")}
    choices = [{"index": place, "finish_reason": "stop", "safety": "checked"} for place in (0, 1)]
    messages = [{"role": "assistant", "content": text} for text in texts]
    if stream:
        chunks = [json.loads(line.removeprefix("data: ")) for line in reply.text.split("\n\n")[:2]]
        for chunk, choice, message in zip(chunks, choices, messages, strict=True):
            assert chunk == common | {
                "object": "chat.completion.chunk",
                "comparison": "asked",
                "choices": [choice | {"delta": message}],
            }
    else:
        assert reply.json() == UPSTREAM_REPLY | {
            "comparison": "asked",
            "choices": [choice | {"message": message} for choice, message in zip(choices, messages, strict=True)],
        }


def test_upstream_server_that_gives_one_answer_is_passed_on(upstream: tuple[SmallApp, Script]):
    # As `transformers serve` does.
    app, script = upstream
    one = UPSTREAM_REPLY | {"choices": UPSTREAM_REPLY["choices"][:1]}
    script.says(json.dumps(one).encode())
    reply = ask(app)
    assert "X-Comparison" not in reply.headers
    assert reply.json() == one
    assert len(script.requests) == len(app.store.interactions()) == 1
    found = samples(app.request("GET", "/metrics").text)
    assert found["online_trl_comparisons_total", "failed", "random"] == 1


def test_upstream_server_that_refuses_several_answers_is_asked_for_one(upstream: tuple[SmallApp, Script]):
    app, script = upstream
    script.says(b'{"error": "busy"}', status=429)
    assert ask(app).status_code == 429
    assert [json.loads(body).get("n") for _, _, body in script.requests] == [2, None]
