"""When a round begins, what is done again after a kill, and the command that launches a recipe."""

import sys

import pytest

from evaluation.answers import PROMPTS, kindness, length
from evaluation.answers import policy as answering
from feedback import add_comparisons
from online_trl.config import ConfigError
from online_trl.deployment.settings import DeploymentSettings, LaunchSettings, Triggers
from online_trl.deployment.stations import DeploymentStations, launch_command
from online_trl.evaluation.evaluator import Evaluator
from online_trl.evaluation_records import as_record
from online_trl.loop import PausedError
from online_trl.types import GateDecision, ModelRole, PolicyDecision, VersionStatus


@pytest.fixture
def make(tmp_path, store, registry):
    """Makes stations; whatever they wait for never comes, so that a wait is the end of them."""

    def make(**settings):
        (tmp_path / "recipe").touch()
        launch = LaunchSettings(script=str(tmp_path / "recipe"), config=str(tmp_path / "recipe"))
        settings = DeploymentSettings(
            **{
                "store": store.url,
                "registry": str(registry.location),
                "train": launch,
                "refresh": launch,
                "output_dir": str(tmp_path / "output"),
                **settings,
            }
        )
        return DeploymentStations(settings, store, registry, stopped=lambda: True)

    return make


def publish(registry, role, **fields):
    return registry.publish(role, lambda folder: (folder / "config.json").write_text("{}"), **fields)


def is_waiting(stations, after=0):
    try:
        stations.collect(1, after)
    except KeyboardInterrupt:
        return True
    return False


def test_a_round_begins_with_so_many_new_rows_of_feedback(make, store):
    stations = make(triggers=Triggers(feedback=5))
    add_comparisons(store, 4)
    assert is_waiting(stations)
    add_comparisons(store, 1, start=4)
    assert not is_waiting(stations)
    assert is_waiting(stations, after=store.latest_seq())


def test_feedback_that_was_erased_begins_no_round(make, store, registry):
    publish(registry, ModelRole.POLICY)
    by_rows, by_time = make(triggers=Triggers(feedback=5)), make(triggers=Triggers(feedback=0, minutes=1e-9))
    add_comparisons(store, 1)
    assert is_waiting(by_rows)
    assert not is_waiting(by_time)
    store.erase_user("user-0")
    assert is_waiting(by_time)
    add_comparisons(store, 4, start=1)
    assert is_waiting(by_rows)
    add_comparisons(store, 1, start=5)
    assert not is_waiting(by_rows)


def test_each_row_of_feedback_is_read_once_while_a_round_is_waited_for(make, store, monkeypatch):
    read, admitted_feedback = [], store.admitted_feedback

    def recorded(**interval):
        rows = admitted_feedback(**interval)
        read.extend(row.seq for row in rows)
        return rows

    monkeypatch.setattr(store, "admitted_feedback", recorded)
    stations = make(triggers=Triggers(feedback=5))
    for number in range(4):
        add_comparisons(store, 1, start=number)
        assert is_waiting(stations)
        assert is_waiting(stations)
    add_comparisons(store, 1, start=4)
    assert not is_waiting(stations)
    assert read == [row.seq for row in store.feedback()]


def test_a_round_begins_so_many_minutes_after_the_last_one_if_anything_was_said(make, store, registry):
    publish(registry, ModelRole.POLICY)
    stations = make(triggers=Triggers(feedback=0, minutes=1e-9))
    assert is_waiting(stations)
    add_comparisons(store, 1)
    assert not is_waiting(stations)


def test_a_round_begins_when_people_have_changed(make, store, registry):
    stations = make(triggers=Triggers(feedback=0, drift=True))
    add_comparisons(store, 1)
    publish(registry, ModelRole.REWARD, config={"drift": "they had changed before"})
    publish(registry, ModelRole.POLICY)
    publish(registry, ModelRole.REWARD, config={"drift": None})
    assert is_waiting(stations)
    publish(registry, ModelRole.REWARD, config={"drift": "accuracy fell from 0.8 to 0.4"})
    assert not is_waiting(stations)


def test_the_first_policy_is_published_and_promoted_once(make, registry, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    stations = make(policy=str(tmp_path / "model"))
    stations.begin()
    stations.begin()
    assert [version.status for version in registry.versions(ModelRole.POLICY)] == [VersionStatus.LIVE]


def test_without_a_first_policy_it_says_what_to_name(make):
    with pytest.raises(ConfigError, match="holds no policy: name a first one with `policy`"):
        make().begin()


def test_a_policy_that_was_published_for_a_round_is_not_trained_again(make, registry):
    publish(registry, ModelRole.POLICY)
    publish(registry, ModelRole.POLICY, config={"run_name": "output-round-3"})
    assert make().train(3, upto=10) == "policy-0002"


@pytest.mark.parametrize(("accepted", "status"), [(True, VersionStatus.LIVE), (False, VersionStatus.REFUSED)])
def test_what_was_decided_is_done_and_unfinished_training_goes(make, registry, tmp_path, accepted, status):
    publish(registry, ModelRole.POLICY)
    (tmp_path / "output" / "training" / "output-round-1").mkdir(parents=True)
    decision = PolicyDecision(version="policy-0001", decision=GateDecision(accepted, "because"))
    make().promote(1, decision)
    (tmp_path / "output" / "training").mkdir(exist_ok=True)
    make().promote(1, decision)
    assert (registry.get("policy-0001").status, registry.get("policy-0001").reason) == (status, "because")
    assert not (tmp_path / "output" / "training").exists()


def test_a_rollback_by_hand_is_not_undone(make, registry):
    for _ in range(2):
        publish(registry, ModelRole.POLICY)
    for name in ("policy-0001", "policy-0002"):
        registry.promote(name, "by the loop")
    registry.rollback(ModelRole.POLICY, "users complain")
    make().promote(1, PolicyDecision(version="policy-0002", decision=GateDecision(True, "by the loop")))
    assert registry.live(ModelRole.POLICY).name == "policy-0001"


def test_a_candidate_that_was_promoted_by_hand_is_not_evaluated(make, registry):
    publish(registry, ModelRole.POLICY)
    registry.promote("policy-0001", "I know it")
    decision = make().evaluate(1, "policy-0001").decision
    assert (decision.accepted, decision.reason) == (True, "live by hand: I know it")


def test_a_candidate_that_only_its_own_reward_model_likes_does_not_reach_users(make, registry):
    base = answering("policy-0001", "yes please", "no", "yes please", "no well thanks")
    hacked = answering("policy-0002", *["please yes well well well", "no well well well well"] * 2)
    for _ in range(2):
        publish(registry, ModelRole.POLICY)
    registry.promote("policy-0001", "the first one")
    evaluator = Evaluator(
        prompts=PROMPTS,
        judges={"live": length, "other": kindness},
        live=base,
        base=base,
        proxy="live",
        heldout="other",
        main_judge="live",
    )
    registry.record_evaluation("policy-0002", as_record(evaluator.evaluate(hacked)))
    stations = make()
    decision = stations.canary(1, stations.evaluate(1, "policy-0002"))
    stations.promote(1, decision)
    refused = registry.get("policy-0002")
    assert (refused.status, registry.live(ModelRole.POLICY).name) == (VersionStatus.REFUSED, "policy-0001")
    assert refused.reason.startswith("refused: reward_gap rose from 0 to ")


def test_old_weights_are_pruned_as_asked(make, registry):
    for _ in range(4):
        publish(registry, ModelRole.POLICY)
    registry.promote("policy-0003", "the one before")
    make(keep=1).promote(1, PolicyDecision(version="policy-0004", decision=GateDecision(True, "better")))
    pruned = [version.name for version in registry.versions(ModelRole.POLICY) if version.pruned_at is not None]
    assert pruned == ["policy-0002"]  # the first one is what all are compared with


def test_one_round_at_once_needs_new_feedback(make, store):
    stations = make()
    stations.now = True
    with pytest.raises(PausedError, match="no new feedback"):
        stations.collect(1, 0)
    add_comparisons(store, 1)
    assert stations.collect(1, 0) == store.latest_seq()


def test_a_recipe_is_launched_as_its_settings_say(tmp_path):
    for name in ("recipe.py", "recipe.yaml", "zero2.yaml"):
        (tmp_path / name).touch()
    files = [str(tmp_path / name) for name in ("recipe.py", "recipe.yaml", "zero2.yaml")]
    settings = LaunchSettings(script=files[0], config=files[1], accelerate_config=files[2])
    command = launch_command(settings, {"run_name": "round-1"})
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--config_file", files[2]]
    assert command == [*launch, files[0], "--config", files[1], "--run_name", "round-1"]
