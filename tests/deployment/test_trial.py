"""A candidate is tried on some of the users: what they say decides, unless somebody does by hand."""

import pytest

from deployment.voters import thumbs
from online_trl.canary import CanarySettings
from online_trl.deployment.trial import CanaryTrial
from online_trl.types import ModelRole, VersionStatus

SETTINGS = CanarySettings(share=0.5, effect=0.2, min_users=5)


@pytest.fixture
def registry(registry):
    for _ in range(2):
        registry.publish(ModelRole.POLICY, lambda folder: (folder / "weights").write_text("w"))
    registry.promote("policy-0001", "the first")
    return registry


@pytest.mark.parametrize(("liked", "status"), [(True, VersionStatus.LIVE), (False, VersionStatus.REFUSED)])
def test_users_decide(store, registry, liked, status):
    # What the version in service heard before the canary is not held against the candidate, nor for it.
    thumbs(store, "policy-0001", ups=0 if not liked else 60, downs=60 if not liked else 0)
    looks = []

    def hear(seconds):
        looks.append(registry.canary().version)
        running = registry.canary()
        thumbs(store, "policy-0002", ups=10 if liked else 0, downs=0 if liked else 10, canary=running)
        thumbs(store, "policy-0001", ups=5, downs=5, canary=running)

    decision = CanaryTrial(registry, store, SETTINGS, wait=hear).run("policy-0002")
    assert decision.accepted is liked
    assert decision.reason.startswith("promoted, as" if liked else "rolled back, as satisfaction is lower")
    assert 1 < len(looks) < 10
    assert set(looks) == {"policy-0002"}
    assert registry.canary() is None
    assert registry.get("policy-0002").status is status


def test_a_candidate_that_makes_people_stop_voting_does_not_win(store, registry):
    satisfactions = []

    def hear(seconds):
        running = registry.canary()
        thumbs(store, "policy-0002", ups=10, downs=0, canary=running, silent=10)
        thumbs(store, "policy-0001", ups=5, downs=5, canary=running)
        satisfactions.append(trial.look(running).satisfaction_difference)

    trial = CanaryTrial(registry, store, SETTINGS, wait=hear)
    decision = trial.run("policy-0002")
    assert satisfactions[-1].mean > 0.4
    assert not decision.accepted
    assert "response rate is lower" in decision.reason
    assert registry.live(ModelRole.POLICY).name == "policy-0001"
    assert "response_rate" in [check.name for check in decision.checks if not check.passed]


def test_a_canary_that_runs_is_gone_on_with(store, registry):
    begun = registry.start_canary("policy-0002", 0.2)

    def stop(seconds):
        assert registry.canary() == begun
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CanaryTrial(registry, store, SETTINGS, wait=stop).run("policy-0002")


def test_whoever_decides_by_hand_ends_it(store, registry):
    def promote(seconds):
        registry.promote("policy-0002", "looks good to me")

    decision = CanaryTrial(registry, store, SETTINGS, wait=promote).run("policy-0002")
    assert (decision.accepted, decision.reason) == (True, "looks good to me")


def test_who_asked_for_the_candidate_by_name_or_before_it_began_does_not_count(store, registry):
    thumbs(store, "policy-0002", ups=60, downs=0)
    thumbs(store, "policy-0001", ups=0, downs=60)
    canary = registry.start_canary("policy-0002", 0.5)
    thumbs(store, "policy-0002", ups=60, downs=0, canary=canary, is_drawn=False)
    thumbs(store, "policy-0001", ups=0, downs=60, canary=canary)
    trial = CanaryTrial(registry, store, SETTINGS, wait=lambda seconds: None)
    assert trial.look(canary).satisfaction_difference.n == 60


def test_a_canary_begins_with_the_first_answer_of_the_candidate_whenever_that_comes(store, registry):
    canary = registry.start_canary("policy-0002", 0.5)
    trial = CanaryTrial(registry, store, SETTINGS, wait=lambda seconds: None)
    assert trial.look(canary).satisfaction_difference.n == 0
    thumbs(store, "policy-0001", ups=0, downs=20, canary=canary)
    assert trial.look(canary).satisfaction_difference.n == 0
    thumbs(store, "policy-0002", ups=10, downs=0, canary=canary)
    thumbs(store, "policy-0001", ups=5, downs=5, canary=canary)
    gone_on_with = CanaryTrial(registry, store, SETTINGS, wait=lambda seconds: None)
    assert trial.look(canary) == gone_on_with.look(canary)
    assert trial.look(canary).satisfaction_difference.n == 20


@pytest.mark.parametrize("how", ["promote", "refuse", "abandon"])
def test_what_was_decided_by_hand_before_it_began_stands(store, registry, how):
    getattr(registry, how)("policy-0002", "I know it")
    decision = CanaryTrial(registry, store, SETTINGS, wait=lambda seconds: None).run("policy-0002")
    assert decision.accepted is (how == "promote")
    assert decision.reason.endswith("by hand: I know it")
    assert registry.canary() is None


def test_a_candidate_waits_for_the_canary_of_another_one(store, registry):
    registry.publish(ModelRole.POLICY, lambda folder: (folder / "weights").write_text("w"))
    registry.start_canary("policy-0003", 0.2)
    waited = []

    def wait(seconds):
        waited.append(registry.canary().version)
        registry.refuse(registry.canary().version, "enough")

    decision = CanaryTrial(registry, store, SETTINGS, wait=wait).run("policy-0002")
    assert waited == ["policy-0003", "policy-0002"]
    assert (decision.accepted, decision.reason) == (False, "enough")
