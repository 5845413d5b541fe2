from dataclasses import replace
from functools import partial

import pytest
import torch
from trl import RewardConfig

from online_trl.lineage import uses
from online_trl.preferences import PreferenceBatch
from online_trl.registry import ModelRegistry, RegistryError
from online_trl.rewards.refresh import RewardRefresher
from online_trl.rewards.scorer import LiveReward, RewardScorer
from online_trl.types import FeedbackKind, ModelRole, PreferencePair, VersionStatus

_KEPT = "keeps its words as an anchor"


def conversation(prompt, answer):
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def pair(number, *, chosen="yes", rejected="no", weight=1.0):
    return PreferencePair(
        prompt=conversation(f"question {number}", "")[:1],
        chosen=[{"role": "assistant", "content": f"{chosen} {number}"}],
        rejected=[{"role": "assistant", "content": f"{rejected} {number}"}],
        kind=FeedbackKind.COMPARISON,
        feedback_ids=(f"feedback-{number}",),
        seq=number,
        weight=weight,
        session_ids=(f"session-{number}",),
    )


def batch(first, count, **sides):
    pairs = tuple(pair(number, **sides) for number in range(first, first + count))
    ids = tuple(pair.feedback_ids[0] for pair in pairs)
    return PreferenceBatch(pairs=pairs, labels=(), feedback_ids=ids, after=first, upto=first + count)


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry(tmp_path / "registry")


@pytest.fixture
def live(registry):
    return LiveReward(registry)


@pytest.fixture
def refresher(live, tiny_policy, tmp_path):
    make_args = partial(
        RewardConfig,
        output_dir=str(tmp_path / "reward"),
        num_train_epochs=4,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
    )
    return RewardRefresher(live, base_model=tiny_policy, make_args=make_args, replay=0.0, heldout_fraction=0.3)


def test_a_first_version_learns_and_goes_into_service(refresher, live, registry):
    outcome = refresher.refresh(batch(0, 120))
    assert outcome.decision.accepted
    assert outcome.accuracy > 0.9
    assert live.version == outcome.version == registry.live(ModelRole.REWARD).name
    assert registry.get(outcome.version).feedback_interval == (0, 120)
    assert outcome.pairs + outcome.heldout_pairs == 120
    consumed = registry.consumed(outcome.version)
    trained_on, judged_on = consumed.trained_on.feedback_ids, consumed.judged_on.feedback_ids
    assert (len(trained_on), len(judged_on)) == (outcome.pairs, outcome.heldout_pairs)
    assert trained_on | judged_on == set(batch(0, 120).feedback_ids)
    registry.verify(outcome.version)


def test_a_poisoned_batch_gives_a_version_that_is_kept_but_not_served(refresher, live, registry):
    refresher.refresh(batch(0, 120))
    before = live.version
    # Most of what is new says the opposite; what is held out of it is judged by too.
    refresher.remember(batch(200, 200))
    outcome = refresher.refresh(batch(1000, 60, chosen="no", rejected="yes"))
    assert not outcome.decision.accepted
    assert live.version == before
    assert registry.get(outcome.version).status is VersionStatus.REFUSED
    assert "accuracy" in registry.get(outcome.version).reason


def test_what_is_withdrawn_is_neither_trained_nor_judged_on_again(refresher):
    refresher.remember(batch(0, 40))
    kept_back = [row for row in refresher._heldout + refresher._history if row.seq >= 20]
    withdrawn = frozenset(f"feedback-{number}" for number in range(20))
    refresher.remember(replace(batch(40, 0), withdrawn=withdrawn))
    assert refresher._heldout + refresher._history == kept_back


def test_scores_of_every_version_have_mean_0_and_spread_1_on_the_same_anchors(refresher, live):
    refresher.refresh(batch(0, 120))
    first = live.scorer
    refresher.refresh(batch(200, 120))
    second = live.scorer
    assert first is not second
    assert first.anchors["conversations"] == second.anchors["conversations"]
    for scorer in (first, second):
        scores = scorer.scores(scorer.anchors["conversations"])
        assert scores.mean().item() == pytest.approx(0.0, abs=1e-4)
        assert scores.std().item() == pytest.approx(1.0, abs=1e-4)


def test_anchors_that_were_erased_are_replaced_and_those_of_each_version_are_recorded(refresher, live, registry):
    first = refresher.refresh(batch(0, 120))
    before = live.scorer.anchors
    erased = set(before["sources"][0]["feedback_ids"] + before["sources"][9]["feedback_ids"])
    # Found when a run resumes, or in the batch itself.
    refresher.remember(replace(batch(120, 0), withdrawn=frozenset(erased)))
    second = refresher.refresh(batch(200, 120))
    after = live.scorer.anchors
    assert live.version == second.version
    assert len(after["conversations"]) == len(before["conversations"]) == 64
    kept = [source for source in before["sources"] if erased.isdisjoint(source["feedback_ids"])]
    assert after["sources"][: len(kept)] == kept
    assert len(kept) < 64
    names = {name for source in after["sources"] for name in source["feedback_ids"]}
    assert registry.consumed(second.version).anchored_on.feedback_ids == names
    assert erased.isdisjoint(names)
    assert {use.version for use in uses(registry, feedback_ids=erased) if _KEPT in use.how} == {first.version}


def test_pairs_are_kept_with_the_probability_of_their_weight(refresher):
    fresh = [pair(number, weight=0.25) for number in range(2000)]
    assert 400 < len(refresher._by_weight(fresh, 7)) < 600
    assert len(refresher._by_weight([pair(number) for number in range(50)], 7)) == 50


def test_nothing_to_train_on_is_refused(refresher):
    with pytest.raises(ValueError, match=r"feedback in \(5, 5\] gives no preference pair"):
        refresher.refresh(batch(5, 0))


def test_a_score_does_not_depend_on_the_other_answers_of_the_batch(tiny_policy):
    scorer = RewardScorer(tiny_policy)
    conversations = [conversation("why?", "because " * count) for count in (1, 9, 3, 20)]
    together = scorer.raw_scores(conversations)
    alone = torch.cat([scorer.raw_scores([messages]) for messages in conversations])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_the_live_reward_names_its_version_in_the_log(refresher, live):
    refresher.refresh(batch(0, 60))
    extra, metrics = {}, {}
    prompts = [conversation("why?", "")[:1]] * 2
    completions = [conversation("", "yes 1")[1:], conversation("", "no 1")[1:]]
    scores = live(prompts, completions, log_extra=extra.__setitem__, log_metric=metrics.__setitem__)
    assert scores[0] > scores[1]
    assert extra == {"reward_version": ["reward-0001", "reward-0001"]}
    assert metrics["live_reward/version"] == 1.0
    assert live.versions_used == ["reward-0001"]


def test_a_live_reward_without_a_version_says_so(live):
    with pytest.raises(RuntimeError, match="no version yet"):
        live([[]], [[]])


def test_damaged_files_are_not_put_into_service(refresher, live, registry):
    version = refresher.refresh(batch(0, 60)).version
    with (registry.path(version) / "config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(RegistryError, match=r"config\.json"):
        live.load(version)
