import itertools
import json
import random
import threading
import time
from collections import Counter

import pytest

from online_trl import evaluation
from online_trl.simulation import helpdesk
from online_trl.simulation.reactions import CHOICE_NOISE, Mixture, round_to_scale
from online_trl.simulation.taste import Taste
from online_trl.simulation.users import SimulatedUsers
from online_trl.types import FeedbackSource, Purpose

BUSY = Mixture(comparison=0.3, ranking=0.1, binary=0.2, rating=0.1, correction=0.1, implicit=0.1, late=0.3)


@pytest.fixture
def users(deployment, tmp_path):
    state_dir = tmp_path / "users"
    with SimulatedUsers(deployment.server.url, Taste(0), seed=0, state_dir=state_dir, mixture=BUSY) as users:
        yield users


def training_feedback(deployment):
    return deployment.store.feedback()


def test_a_round_that_is_held_again_stores_nothing_twice(deployment, users):
    users.chat(40, 1)
    rows = training_feedback(deployment)
    assert {row.kind.value for row in rows} == {"comparison", "ranking", "binary", "rating", "correction", "implicit"}
    assert {row.source for row in rows} == {FeedbackSource.SYNTHETIC}
    assert len({row.user_id for row in rows}) > 5

    # Who said nothing about the first answer may say something about the second; nobody is heard twice.
    users.chat(40, 1)
    again = training_feedback(deployment)
    assert [row.feedback_id for row in again[: len(rows)]] == [row.feedback_id for row in rows]
    assert len({row.idempotency_key for row in again}) == len(again) <= 40


def test_late_feedback_waits_on_disk_for_its_round_and_comes_once(deployment, users, tmp_path):
    users.chat(40, 1)
    in_time = len(training_feedback(deployment))
    waiting = (tmp_path / "users" / "pending.jsonl").read_text().splitlines()
    assert len(waiting) > 3
    assert {json.loads(line)["due"] for line in waiting} == {2}

    users.deliver_late(1)
    assert len(training_feedback(deployment)) == in_time
    with SimulatedUsers(deployment.server.url, Taste(0), seed=0, state_dir=tmp_path / "users") as again:
        again.deliver_late(2)
        assert len(training_feedback(deployment)) == in_time + len(waiting)
        again.deliver_late(2)
    assert len(training_feedback(deployment)) == in_time + len(waiting)


def test_every_version_is_judged_on_the_same_held_out_prompts(deployment, users):
    versions = ["policy-0001", "policy-0002"]
    users.evaluate(versions, 12, 1)
    answers = deployment.store.interactions(purpose=Purpose.EVALUATION)
    asked = {version: [a.prompt[0]["content"] for a in answers if a.policy_version == version] for version in versions}
    assert sorted(asked["policy-0001"]) == sorted(asked["policy-0002"])
    assert len(set(asked["policy-0001"])) == 12
    assert set(asked["policy-0001"]) <= {question.text for question in helpdesk.held_out_questions()}
    satisfied = evaluation.satisfaction(deployment.store, "policy-0001")
    assert satisfied.n == 12
    assert 0.0 < satisfied.mean < 1.0
    assert evaluation.win_rate(deployment.store, "policy-0002", "policy-0001").n == 12


def test_users_go_on_chatting_until_they_are_told_to_stop(deployment, users):
    stop = threading.Event()
    thread = threading.Thread(target=users.chat_forever, args=(stop, 1))
    thread.start()
    deadline = time.monotonic() + 60
    while not deployment.store.interactions(purpose=Purpose.CHAT) and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert deployment.store.interactions(purpose=Purpose.CHAT)


def test_most_conversations_end_without_feedback():
    mixture = Mixture()
    kinds = Counter(mixture.draw(random.Random(number)) for number in range(10_000))
    answers = sum({"comparison": 2, "ranking": 4}.get(kind or "", 1) * count for kind, count in kinds.items())
    assert kinds[None] / 10_000 == pytest.approx(0.60, abs=0.02)
    assert kinds["comparison"] / 10_000 == pytest.approx(mixture.comparison, abs=0.02)
    judged = answers - kinds[None]
    assert judged / answers < 0.6


def test_two_users_agree_on_about_72_percent_of_pairs():
    taste, rng = Taste(0), random.Random(0)
    agreement = []
    for question in helpdesk.train_questions()[:300]:
        scores = [
            taste.satisfaction(question.text, helpdesk.write_answer(question, helpdesk.sample_style(rng), rng))
            for _ in range(2)
        ]
        first = 1 / (1 + 2.718281828 ** (-(scores[0] - scores[1]) / CHOICE_NOISE))
        agreement.append(first**2 + (1 - first) ** 2)
    assert sum(agreement) / len(agreement) == pytest.approx(0.72, abs=0.05)


@pytest.mark.parametrize(
    ("satisfaction", "expected"), list(zip((-0.3, 0.0, 0.5, 1.0, 1.4), (1, 1, 3, 5, 5), strict=True))
)
def test_a_rating_stays_on_its_scale(satisfaction, expected):
    assert round_to_scale(satisfaction, 1, 5) == expected


def test_the_train_and_the_held_out_questions_do_not_overlap():
    train, held_out = helpdesk.train_questions(), helpdesk.held_out_questions()
    assert not {question.text for question in train} & {question.text for question in held_out}
    assert len(train) > 300
    assert all(first.text != second.text for first, second in itertools.pairwise(train))
