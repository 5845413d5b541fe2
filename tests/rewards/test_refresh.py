import json
from dataclasses import replace
from functools import partial
from operator import attrgetter

import pytest
import torch

from online_trl.config import RefreshArguments
from online_trl.lineage import uses
from online_trl.registry import ModelRegistry, RegistryError
from online_trl.rewards.drift import DriftAlarm
from online_trl.rewards.judgement import mean_scores
from online_trl.rewards.judging import correctness
from online_trl.rewards.memory import ChangePoint
from online_trl.rewards.refresh import RewardRefresher, learned_upto
from online_trl.rewards.reward_trainer import OnlineRewardConfig
from online_trl.rewards.scorer import LiveReward, RewardScorer
from online_trl.rewards.statements import NothingToTrainOnError
from online_trl.types import ModelRole, VersionStatus
from rewards.reward_runs import SETTINGS
from rewards.statements import START, batch, conversation, label, pair, pairs

_KEPT = "keeps its words as an anchor"
_SETTINGS = {"refresh_replay": 0.0, "refresh_heldout_fraction": 0.3}


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry(tmp_path / "registry")


@pytest.fixture
def live(registry):
    return LiveReward(registry)


@pytest.fixture
def make(live, tiny_policy, tmp_path):
    def make(*, settings=None, **options):
        make_args = partial(
            OnlineRewardConfig,
            **{**SETTINGS, "output_dir": str(tmp_path / "reward"), "logging_strategy": "no", **options},
        )
        arguments = RefreshArguments(**{**_SETTINGS, **(settings or {})})
        return RewardRefresher(live, base_model=tiny_policy, make_args=make_args, settings=arguments)

    return make


@pytest.fixture
def refresher(make):
    return make()


def truth(live, count=40, **sides):
    """How often the live version agrees with people on answers that it has not seen."""
    statements = [pair(number, **sides) for number in range(9000, 9000 + count)]
    return sum(correctness(statements, mean_scores(live.scorer, statements))) / count


def test_a_first_version_learns_and_goes_into_service(refresher, live, registry):
    outcome = refresher.refresh(pairs(1, 120))
    assert outcome.decision.accepted
    assert outcome.accuracy > 0.9
    assert live.version == outcome.version == registry.live(ModelRole.REWARD).name
    version = registry.get(outcome.version)
    assert version.feedback_interval == (0, 120)
    assert learned_upto(registry) == 120
    assert (outcome.trained_on, outcome.statements + outcome.heldout) == ({"PreferencePair": outcome.statements}, 120)
    consumed = registry.consumed(outcome.version)
    trained_on, judged_on = consumed.trained_on.feedback_ids, consumed.judged_on.feedback_ids
    assert (len(trained_on), len(judged_on)) == (outcome.statements, outcome.heldout)
    assert trained_on | judged_on == set(pairs(1, 120).feedback_ids)
    registry.verify(outcome.version)


def test_thumbs_alone_make_a_version_that_orders_answers(make, live):
    thumbs = [label(number, "yes" if number % 2 else "no", up=number % 2 == 1) for number in range(1, 161)]
    outcome = make().refresh(batch(thumbs))
    assert outcome.trained_on.keys() == {"UnpairedLabel"}
    assert truth(live) > 0.9


def test_a_version_says_how_old_and_how_certain_what_it_learned_was(refresher, registry):
    outcome = refresher.refresh(pairs(1, 120))
    version = registry.get(outcome.version)
    assert outcome.ages.by_policy_version == {"policy-0001": outcome.statements}
    assert outcome.ages.delay_hours.median == pytest.approx(1 / 60)
    assert 40 < outcome.ages.rows.median < 80
    assert version.config["ages"]["rows"]["median"] == outcome.ages.rows.median == version.metrics["age_rows"]
    assert 0 <= outcome.ece == version.metrics["ece"] < 0.5
    assert version.config["trained_on"] == {"PreferencePair": outcome.statements}


def test_a_poisoned_interval_puts_no_worse_version_into_service(make, live):
    refresher = make(settings={"refresh_replay": 1.0})
    refresher.refresh(pairs(1, 120))
    before = truth(live)
    flipped = {"chosen": "no", "rejected": "yes"}
    refresher.refresh(batch([pair(number, **flipped if number % 10 < 3 else {}) for number in range(121, 241)]))
    assert truth(live) >= before - 0.05


def test_a_poisoned_interval_that_looks_like_a_change_of_taste_gets_nothing_through(make, live):
    refresher = make(settings={"refresh_replay": 1.0})
    refresher.refresh(pairs(1, 150))
    before = truth(live)
    refresher.remember(pairs(151, 60))
    assert not refresher.watch(pairs(151, 60))
    flipped = {"chosen": "no", "rejected": "yes"}
    poisoned = batch([pair(number, **flipped if number % 10 < 3 else {}) for number in range(211, 331)])
    assert refresher.watch(poisoned)
    assert refresher.drift.is_unconfirmed
    refresher.refresh(poisoned)
    assert truth(live) >= before - 0.05
    for start in (331, 361):
        refresher.refresh(pairs(start, 30))
    assert refresher.memory.change is None
    assert truth(live) >= before - 0.05


def test_comparisons_of_many_that_are_foreseen_wrongly_make_a_change_certain(make):
    refresher = make(settings={"max_user_share": 0.2})
    refresher.refresh(pairs(1, 150))
    refresher.remember(pairs(151, 60))
    assert not refresher.watch(pairs(151, 60))
    flipped = {"chosen": "no", "rejected": "yes"}
    assert refresher.watch(batch([pair(number, **flipped if number % 10 < 4 else {}) for number in range(211, 251)]))
    assert refresher.drift.is_unconfirmed
    # More of the same change, which gives no other alarm.
    assert not refresher.watch(pairs(251, 50, **flipped))
    assert not refresher.drift.is_unconfirmed
    for _ in range(3):
        refresher.drift.settle(confirmed=False, accepted=False)
    assert 200 < refresher.memory.change.seq < 240


def test_what_replaces_a_version_that_is_wrong_more_often_than_right_is_judged_as_a_first_one(make, live):
    refresher = make(settings={"max_user_share": 0.2, "refresh_heldout_fraction": 0.03})
    refresher.refresh(pairs(1, 150))
    refresher.remember(pairs(151, 60))
    assert not refresher.watch(pairs(151, 60))
    turned = {"chosen": "no", "rejected": "yes"}
    assert refresher.watch(pairs(211, 90, **turned))
    resumed = make(settings=vars(refresher.settings))
    resumed.load_state_dict(refresher.state_dict())
    assert resumed.drift.live_is_reversed
    outcome = refresher.refresh(pairs(211, 90, **turned))
    assert outcome.decision.reason.endswith("with no version to measure it against")
    assert truth(live, **turned) > 0.8
    # It stands for itself from then on.
    assert not refresher.drift.live_is_reversed
    assert "of the live version" in refresher.refresh(pairs(301, 200, **turned)).decision.reason


def test_one_user_who_shouts_makes_no_change_certain(make):
    refresher = make(settings={"max_user_share": 0.2})
    refresher.refresh(pairs(1, 150))
    refresher.remember(pairs(151, 60))
    assert not refresher.watch(pairs(151, 60))
    shouted = [pair(number, chosen="no", rejected="yes", voice="ann") for number in range(211, 331)]
    assert refresher.watch(batch(shouted))
    assert refresher.drift.is_unconfirmed
    refresher.watch(pairs(331, 60))
    assert refresher.drift.is_unconfirmed


def test_verdicts_alone_make_no_change_certain(make):
    refresher = make(settings={"max_user_share": 0.2})
    refresher.refresh(pairs(1, 150))
    right = [label(number, ("no", "yes")[number % 2], up=number % 2 == 1) for number in range(151, 271)]
    assert not refresher.watch(batch(right))
    wrong = [label(number, ("no", "yes")[number % 2], up=number % 2 == 0) for number in range(271, 391)]
    assert refresher.watch(batch(wrong))
    assert refresher.drift.is_unconfirmed


def test_a_version_that_is_worse_is_kept_but_not_served(make, live, registry):
    refresher = make()
    refresher.refresh(pairs(1, 60))
    before, truth_before = live.version, truth(live)
    # Somebody turns around all that is trained on, while the others go on as before.
    steady = [pair(number) for number in range(61, 261) if not refresher.memory.trainable([pair(number)])]
    refresher.remember(batch(steady))
    turned = [pair(n, chosen="no", rejected="yes", session_ids=(_trained(refresher, n),)) for n in range(261, 421)]
    outcome = refresher.refresh(batch(turned))
    assert not outcome.decision.accepted
    assert (live.version, truth(live)) == (before, truth_before)
    assert registry.get(outcome.version).status is VersionStatus.REFUSED
    assert "accuracy" in registry.get(outcome.version).reason


def test_after_two_refusals_a_version_is_made_anew_from_all_that_is_remembered(make, live, registry):
    refresher = make()
    refresher.refresh(pairs(1, 60))
    for number in (2, 3):
        refused = registry.publish(ModelRole.REWARD, _write, feedback_interval=(0, 60))
        registry.refuse(refused.name, f"refused: attempt {number}")
    outcome = refresher.refresh(pairs(61, 40))
    assert outcome.restarted == "the 2 refreshes before it were refused"
    assert outcome.statements + outcome.heldout == 100
    assert refresher.refresh(pairs(101, 40)).restarted is None


def _trained(refresher, number):
    """The name of a conversation that is trained on."""
    names = (f"session-{number}-{attempt}" for attempt in range(100))
    return next(name for name in names if refresher.memory.trainable([pair(number, session_ids=(name,))]))


def test_a_change_of_taste_is_noticed_and_followed(make, live):
    refresher = make(settings={"refresh_replay": 1.0, "refresh_drift_half_life": 20.0})
    refresher.refresh(pairs(1, 200))
    assert not refresher.watch(pairs(201, 100))
    refresher.remember(pairs(201, 100))
    turned = {"chosen": "no", "rejected": "yes"}
    assert refresher.watch(pairs(301, 60, **turned))
    assert 270 < refresher.memory.change.seq < 320
    outcome = refresher.refresh(pairs(301, 100, **turned))
    assert "right about" in outcome.drift
    assert outcome.decision.reason.startswith("accepted: people have changed")
    assert make().memory.change == refresher.memory.change
    assert truth(live, **turned) > 0.8
    assert refresher.drift.alarm is None


def test_a_version_that_collapses_is_made_anew_from_the_initial_model(make, live, registry):
    refresher = make(settings={"refresh_replay": 1.0})
    refresher.refresh(pairs(1, 200))
    ruined = make(settings={"refresh_replay": 1.0}, reinit_head=True, learning_rate=0.0)
    ruined.remember(pairs(1, 200))
    ruined_args, sound_args = ruined.make_args, refresher.make_args
    used = iter([ruined_args, sound_args])
    ruined.make_args = lambda: next(used)()
    outcome = ruined.refresh(pairs(201, 60))
    assert outcome.restarted
    assert outcome.statements > 60
    assert registry.get(outcome.version).config["restarted"] == outcome.restarted
    assert truth(live) > 0.9


def test_where_a_refresher_is_comes_back_with_a_checkpoint(refresher, make):
    refresher.refresh(pairs(1, 120))
    refresher.watch(pairs(121, 80))
    assert refresher.watch(pairs(201, 60, chosen="no", rejected="yes"))
    resumed = make()
    resumed.load_state_dict(json.loads(json.dumps(refresher.state_dict())))
    assert resumed.state_dict() == refresher.state_dict()
    assert resumed.drift.is_unconfirmed
    assert resumed.memory.change == ChangePoint(refresher.drift.alarm.change_seq, resumed.memory.change.at)
    assert resumed.memory.change.at > START


def test_what_is_withdrawn_is_neither_trained_nor_judged_on_again(refresher):
    refresher.remember(pairs(1, 40))
    memory = refresher.memory
    withdrawn = frozenset(f"feedback-{number}" for number in range(1, 21))
    refresher.remember(replace(batch([pair(41)]), withdrawn=withdrawn))
    left = memory.judging_slice() + memory.everything(upto=41, now=START)
    assert {row.seq for row in left} == set(range(21, 42))


def test_scores_of_every_version_have_mean_0_and_spread_1_on_the_same_anchors(refresher, live):
    refresher.refresh(pairs(1, 120))
    first = live.scorer
    refresher.refresh(pairs(201, 120))
    second = live.scorer
    assert first is not second
    anchors = first.standard.anchor_set.conversations
    assert anchors == second.standard.anchor_set.conversations
    for scorer in (first, second):
        scores = scorer.scores(anchors)
        assert scores.mean().item() == pytest.approx(0.0, abs=1e-4)
        assert scores.std().item() == pytest.approx(1.0, abs=1e-4)


def test_anchors_that_were_erased_are_replaced_and_those_of_each_version_are_recorded(refresher, live, registry):
    first = refresher.refresh(pairs(1, 120))
    before = live.scorer.standard.anchor_set
    erased = set(before.anchors[0].feedback_ids + before.anchors[9].feedback_ids)
    # Found when a run resumes, or in the batch itself.
    refresher.remember(replace(batch([pair(121)]), withdrawn=frozenset(erased)))
    second = refresher.refresh(pairs(201, 120))
    after = live.scorer.standard.anchor_set
    assert live.version == second.version
    assert len(after.anchors) == len(before.anchors) == 64
    kept = [anchor for anchor in before.anchors if erased.isdisjoint(anchor.feedback_ids)]
    assert list(after.anchors[: len(kept)]) == kept
    assert len(kept) < 64
    names = after.sources.feedback_ids
    assert registry.consumed(second.version).anchored_on.feedback_ids == names
    assert erased.isdisjoint(names)
    assert {use.version for use in uses(registry, feedback_ids=erased) if _KEPT in use.how} == {first.version}


def test_a_version_that_was_rolled_back_is_gone_on_from_by_nobody(refresher, live, registry):
    first = refresher.refresh(pairs(1, 120)).version
    second = refresher.refresh(pairs(121, 60)).version
    assert live.version == second
    registry.rollback(ModelRole.REWARD, "people complained")
    assert registry.get(refresher.refresh(pairs(181, 60)).version).parent == first


def test_feedback_of_a_first_version_that_was_refused_is_learned_from_again(refresher, registry):
    published = registry.publish(ModelRole.REWARD, _write, feedback_interval=(0, 60))
    registry.refuse(published.name, "refused: worse than chance")
    assert learned_upto(registry) == 0
    refresher.refresh(pairs(1, 120))
    assert learned_upto(registry) == 120


def _write(folder):
    (folder / "config.json").write_text("{}")


def test_no_user_carries_more_than_the_share_of_what_a_version_is_trained_on(make):
    refresher = make(settings={"max_user_share": 0.2})
    flood = [pair(number, voice="flood", session_ids=(_trained(refresher, number),)) for number in range(1, 41)]
    others = [pair(n, voice=f"user-{n}", session_ids=(_trained(refresher, n),)) for n in range(41, 49)]
    rows = refresher._rows(batch([*flood, *others]), restart=False)
    carried = sum(row.weight for row in rows if row.voice == "flood")
    assert carried / sum(row.weight for row in rows) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("settings", "attribute", "value"),
    [
        ({"refresh_half_life": 9.0}, "recency.half_life", 9.0),
        ({"refresh_half_life": 0.0}, "recency.half_life", None),
        ({"refresh_drift_half_life": 7.0}, "recency.drift_half_life", 7.0),
        ({"refresh_age_unit": "hours"}, "recency.unit", "hours"),
        ({"refresh_replay": 3.0}, "replay", 3.0),
        ({"refresh_heldout_fraction": 0.4}, "heldout_fraction", 0.4),
    ],
)
def test_every_setting_of_the_memory_reaches_it(make, settings, attribute, value):
    assert attrgetter(attribute)(make(settings=settings).memory) == value


def test_a_refresh_can_start_from_the_initial_model_and_from_a_new_head(make, live, registry):
    refresher = make(settings={"refresh_start": "initial", "refresh_anchors": 10, "refresh_drift_reinit_head": True})
    assert refresher.refresh(pairs(1, 60)).decision.accepted
    assert len(live.scorer.standard.anchor_set.anchors) == 10
    refresher.drift.alarm = DriftAlarm(change_seq=61, seen_seq=80, before=0.9, after=0.4, rows=20)
    outcome = refresher.refresh(pairs(61, 60))
    assert outcome.statements + outcome.heldout == 120
    assert (outcome.restarted, truth(live) > 0.9) == (None, True)


def test_nothing_to_train_on_is_refused(refresher):
    with pytest.raises(NothingToTrainOnError, match=r"feedback in \(5, 5\] gives no statement"):
        refresher.refresh(replace(pairs(1, 1), pairs=(), after=5, upto=5))


def test_feedback_that_is_all_too_long_makes_no_version(make, live, registry):
    short, long = make(), make(max_length=4)
    short.refresh(pairs(1, 60))
    with pytest.raises(NothingToTrainOnError, match="no row with answers of at most `max_length` = 4 tokens"):
        long.refresh(pairs(61, 20))
    assert [version.name for version in registry.versions(ModelRole.REWARD)] == ["reward-0001"]
    assert short.refresh(pairs(61, 20)).version == live.version == "reward-0002"


def test_a_score_does_not_depend_on_the_other_answers_of_the_batch(tiny_policy):
    scorer = RewardScorer(tiny_policy)
    conversations = [conversation("why?", "because " * count) for count in (1, 9, 3, 20)]
    together = scorer.raw_scores(conversations)
    alone = torch.cat([scorer.raw_scores([messages]) for messages in conversations])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert scorer.raw_scores([]).shape == (0, scorer.model.config.num_labels)


def test_the_live_reward_names_its_version_in_the_log(refresher, live):
    refresher.refresh(pairs(1, 60))
    extra, metrics = {}, {}
    prompts = [conversation("why?", "")[:1]] * 2
    completions = [conversation("", "yes 1")[1:], conversation("", "no 1")[1:]]
    scores = live(prompts, completions, log_extra=extra.__setitem__, log_metric=metrics.__setitem__)
    assert scores[0] > scores[1]
    assert extra == {"reward_version": ["reward-0001", "reward-0001"]}
    assert metrics["live_reward/version"] == 1.0


def test_a_live_reward_without_a_version_says_so(live):
    with pytest.raises(RuntimeError, match="no version yet"):
        live([[]], [[]])


def test_damaged_files_are_not_put_into_service(refresher, live, registry):
    version = refresher.refresh(pairs(1, 60)).version
    with (registry.path(version) / "config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(RegistryError, match=r"config\.json"):
        live.load(version)
    with pytest.raises(RegistryError, match=f"the files of {version} .*restore them from a copy, or go back to"):
        refresher.refresh(pairs(61, 60))
