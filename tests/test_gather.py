"""What is gathered of a log and a registry, and shown."""

from __future__ import annotations

import fcntl
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from online_trl.evaluation.opinions import Opinions
from online_trl.evaluation_records import as_record
from online_trl.loop import LoopState
from online_trl.registry import Consumed, ModelRegistry, Sources
from online_trl.report import Gatherer, dashboard_html, plain_report
from online_trl.report.gather import loop_status
from online_trl.report.looks import Looks
from online_trl.store import FeedbackStore
from online_trl.types import (
    Estimate,
    Feedback,
    FeedbackKind,
    Interaction,
    ModelRole,
    PolicyEvaluation,
    Purpose,
    VersionStatus,
)

BASE, BETTER, WORSE = "policy-0001", "policy-0002", "policy-0003"
USERS = [f"user-{number}" for number in range(8)]


@pytest.fixture
def store(tmp_path: Path):
    with FeedbackStore(f"sqlite:///{tmp_path}/feedback.db") as store:
        yield store


def answer(store: FeedbackStore, version: str, user: str, **fields) -> str:
    row = Interaction(
        prompt=[{"role": "user", "content": fields.pop("question", "Where is it?")}],
        completion=[{"role": "assistant", "content": f"Said by {version}"}],
        policy_version=version,
        session_id=user,
        user_id=user,
        **fields,
    )
    return store.add_interaction(row).interaction_id


def say(store: FeedbackStore, kind: FeedbackKind, user: str, value, *ids: str) -> str:
    row = Feedback(kind=kind, interaction_ids=list(ids), value=value, user_id=user)
    return store.add_feedback(row).feedback_id


def chat(store: FeedbackStore, version: str, thumbs: dict[str, bool]) -> list[str]:
    """Each of the users asks once, and some give a thumb; returns the ids of the thumbs."""
    ids = {user: answer(store, version, user) for user in USERS}
    return [say(store, FeedbackKind.BINARY, user, up, ids[user]) for user, up in thumbs.items()]


def write(folder: Path) -> None:
    (folder / "weights").write_text("w")


@pytest.fixture
def registry(tmp_path: Path, store: FeedbackStore) -> ModelRegistry:
    """A base, a better version that learned from the base's thumbs, and one that was tried and rolled back."""
    registry = ModelRegistry(tmp_path / "registry")
    registry.publish(ModelRole.POLICY, write)
    registry.promote(BASE, "the first one")
    thumbs = chat(store, BASE, dict.fromkeys(USERS[:6], False))

    def write_reward(folder: Path) -> None:
        write(folder)
        Consumed(Sources(frozenset(thumbs), frozenset()), Sources()).write(folder)

    registry.publish(
        ModelRole.REWARD,
        write_reward,
        feedback_interval=(0, store.latest_seq()),
        metrics={"reward_accuracy": 0.75, "heldout_statements": 40, "statements": 6},
        config={"drift": "right about 0.40 since row 9"},
    )
    registry.promote("reward-0001", "the first one")
    registry.publish(ModelRole.POLICY, write, parent=BASE, reward_versions=("reward-0001",))
    kl = Estimate(2.5, 2.0, 3.0, 40)
    registry.record_evaluation(
        BETTER, as_record(PolicyEvaluation(policy_version=BETTER, figures={"kl": kl}, prompts=40))
    )
    for number, user in enumerate(USERS):
        pair = [
            answer(store, version, user, purpose=Purpose.EVALUATION, question=f"Question {number}")
            for version in (BASE, BETTER)
        ]
        say(store, FeedbackKind.COMPARISON, user, "second", *pair)
        say(store, FeedbackKind.RATING, user, {"score": 5, "low": 1, "high": 5}, pair[1])
    registry.promote(BETTER, "people prefer it")
    chat(store, BETTER, dict.fromkeys(USERS[:4], True))
    registry.publish(ModelRole.POLICY, write, parent=BETTER)
    registry.start_canary(WORSE, 0.25)
    registry.end_canary(WORSE, "looked fine", promote=True)
    registry.rollback(ModelRole.POLICY, "people complained")
    return registry


def test_what_became_of_each_version_is_told(store: FeedbackStore, registry: ModelRegistry):
    report = Gatherer(store, registry).report()
    assert report.live.policy_version == BETTER
    assert report.statuses == {
        BASE: "base",
        BETTER: "promoted",
        WORSE: "rolled back",
        "reward-0001": "promoted",
    }
    assert [(event.version, event.what, event.reason) for event in report.events] == [
        (BASE, "promoted", "the first one"),
        (BETTER, "promoted", "people prefer it"),
        (WORSE, "canary began", f"answers 25% of the users beside {BETTER}"),
        (WORSE, "promoted", "looked fine"),
        (BETTER, "back in service", f"in place of {WORSE}: people complained"),
    ]
    # The second was promoted after the eight evaluations of two answers each, whose feedback lies between.
    assert [event.row for event in report.events[:2]] == [0, 44]
    assert registry.get(WORSE).status is VersionStatus.RETIRED


def test_what_users_said_is_told_by_version_and_along_the_log(store: FeedbackStore, registry: ModelRegistry):
    report = Gatherer(store, registry).report()
    base, better, worse = report.versions
    assert (base.kl, better.kl) == (0.0, 2.5)
    assert math.isnan(worse.kl)
    assert (base.length, better.length) == (3.0, 3.0)
    assert base.satisfaction.n == 0
    assert (better.satisfaction.mean, better.satisfaction.n) == (1.0, 8)
    assert (better.win_rate_vs_base.mean, better.win_rate_vs_base.n) == (1.0, 8)
    assert (base.chats.satisfaction.mean, better.chats.satisfaction.mean) == (0.0, 1.0)
    assert better.chats.response_rate.mean == 0.5
    assert worse.chats is None
    assert [(look.at, look.estimate.n) for look in report.looks[BASE]] == [(10, 2), (20, 6)]
    assert report.looks[BASE][-1].estimate == base.chats.satisfaction
    rate = report.win_rates[BETTER, BASE]
    assert (rate.n, rate.mean > 0.7) == (8, True)
    assert rate.mean == pytest.approx(1 - report.win_rates[BASE, BETTER].mean)
    assert (report.origin.users, report.origin.rows, report.origin.answers) == (8, 26, 16)
    assert report.origin.response_rate.mean == pytest.approx(10 / 16)
    assert report.delay.rows == 6
    assert report.delay.unlearned == pytest.approx(1 - 6 / len(store.feedback()))
    (refresh,) = report.reward_history
    assert (refresh.upto, refresh.drift, refresh.accuracy.mean) == (14, "right about 0.40 since row 9", 0.75)


def test_gathering_again_tells_what_gathering_anew_tells(store: FeedbackStore, registry: ModelRegistry):
    gatherer = Gatherer(store, registry)
    gatherer.report()
    chat(store, BETTER, dict.fromkeys(USERS, False))
    for change in (lambda: chat(store, WORSE, {USERS[0]: True}), lambda: store.erase_user(USERS[1])):
        change()
        again, anew = (plain_report(each.report()) for each in (gatherer, Gatherer(store, registry)))
        assert again | {"gathered_at": None} == anew | {"gathered_at": None}


def test_satisfaction_along_the_log_is_told_at_round_rows_that_stay_as_it_grows(store: FeedbackStore):
    looks = Looks()

    def rows() -> list[int]:
        opinions = Opinions.read(store, Purpose.CHAT)
        return [look.at for look in looks.over(opinions, store.latest_seq(), times_begun=1)[BASE]]

    for _ in range(2):
        chat(store, BASE, dict.fromkeys(USERS, True))
    assert rows() == [10, 15, 20, 25, 30, 32]
    chat(store, BASE, {USERS[0]: True})
    assert rows() == [10, 15, 20, 25, 30, 35, 41]


def test_samples_and_lineage_are_of_the_versions_chosen(store: FeedbackStore, registry: ModelRegistry):
    gatherer = Gatherer(store, registry)
    samples = gatherer.samples(BASE, BETTER, count=3)
    assert [sample.prompt[0]["content"] for sample in samples] == ["Question 0", "Question 2", "Question 4"]
    assert {(sample.before_score, sample.after_score) for sample in samples} == {(None, 1.0)}
    assert gatherer.samples(BETTER, WORSE) == gatherer.samples(BASE, BASE) == ()
    made = gatherer.lineage(BETTER)
    assert [(row.version, row.made_of, row.trained_on) for row in made] == [
        (BETTER, (f"started from {BASE}", "paid by reward-0001"), 0),
        (BASE, (), 0),
        ("reward-0001", (), 6),
    ]
    assert gatherer.lineage("policy-0099") == ()


def test_samples_tell_what_had_been_said_by_the_time_of_the_report(store: FeedbackStore, registry: ModelRegistry):
    gatherer = Gatherer(store, registry)
    gatherer.report()
    first = store.interactions(policy_version=BASE, purpose=Purpose.EVALUATION, limit=1)[0]
    say(store, FeedbackKind.BINARY, first.user_id, True, first.interaction_id)
    scores = []
    for _ in range(2):
        scores.append([sample.before_score for sample in gatherer.samples(BASE, BETTER, count=1)])
        gatherer.report()
    assert scores == [[None], [1.0]]


def test_a_log_without_a_registry_and_a_registry_without_a_log_are_told_too(store: FeedbackStore, tmp_path: Path):
    nothing = Gatherer(store).report(serving="qwen")
    assert nothing.headline == "qwen is in service; too little was judged to say more."
    assert "nan" not in json.dumps(plain_report(nothing))
    chat(store, "qwen", {USERS[0]: True})
    assert Gatherer(store).report().versions[0].chats.satisfaction.n == 1
    assert 'http-equiv="refresh"' in dashboard_html(nothing, before="qwen", after="qwen", lineage_of="qwen")


def test_the_loop_tells_what_it_is_at_and_what_went_wrong(tmp_path: Path):
    assert loop_status(tmp_path) is None
    at_work = {"step": "3/train", "since": "2026-01-02T03:04:05"}
    content = LoopState(tmp_path / "loop.json").content | {"round": 3, "at": at_work}
    (tmp_path / "processes.json").write_text(json.dumps({"server": "up"}))
    for at, trouble in [
        ({}, ""),
        ({"failed": 2, "reason": "OSError: full"}, "failed 2 times, the last time with OSError: full"),
        ({"failed": 2, "reason": "x", "paused": "the budget is spent"}, "paused: the budget is spent"),
    ]:
        (tmp_path / "loop.json").write_text(json.dumps(content | {"at": content["at"] | at}))
        status = loop_status(tmp_path)
        assert (status.round, status.step, status.trouble, status.processes) == (
            3,
            "3/train",
            trouble,
            {"server": "up"},
        )


def test_a_loop_that_was_killed_is_not_running_and_keeps_nothing_up(store: FeedbackStore, tmp_path: Path):
    LoopState(tmp_path / "loop.json").enter("0/begin")
    (tmp_path / "processes.json").write_text(json.dumps({"server": "up"}))
    report = Gatherer(store).report(serving="qwen")

    def page() -> str:
        shown = replace(report, loop=loop_status(tmp_path))
        return dashboard_html(shown, before="qwen", after="qwen", lineage_of="qwen")

    assert loop_status(tmp_path).is_running is None
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert loop_status(tmp_path).is_running
        assert "server: up" in page()
        assert "not running" not in page()
    assert loop_status(tmp_path).is_running is False
    assert "server: up" not in page()
    assert "not running" in page()
    # Whoever asks does not keep the next one from starting.
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_damaged_state_of_a_loop_is_told_in_its_status(tmp_path: Path):
    (tmp_path / "loop.json").write_text("")
    assert loop_status(tmp_path).trouble.startswith(f"{tmp_path / 'loop.json'} is damaged: ")


def test_gathering_loads_no_training_stack():
    code = "import sys, online_trl.report; print([name for name in ('torch', 'datasets') if name in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
