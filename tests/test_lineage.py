from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from feedback import add_comparisons
from online_trl.cli import main
from online_trl.lineage import Use, feedback_behind, ingredients, learning_delays, uses
from online_trl.preferences import read_preferences
from online_trl.registry import Consumed, ModelRegistry, RegistryError, Sources
from online_trl.store import FeedbackStore
from online_trl.types import ModelRole, ModelVersion, PreferencePair, VersionStatus


def sources(*feedback_ids: str, interactions: Sequence[str] = ()) -> Sources:
    return Sources(frozenset(feedback_ids), frozenset(interactions))


def publish_reward(
    registry: ModelRegistry, trained_on: Sources, judged_on: Sources | None = None, *, parent: str | None = None
) -> ModelVersion:
    def write(folder: Path) -> None:
        (folder / "weights").write_text("w")
        Consumed(trained_on, judged_on or Sources()).write(folder)

    return registry.publish(ModelRole.REWARD, write, parent=parent)


def publish_policy(registry: ModelRegistry, **fields: object) -> ModelVersion:
    return registry.publish(ModelRole.POLICY, lambda folder: (folder / "weights").write_text("w"), **fields)


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    """
    Three reward models, the second on the first, the third by itself, and three policies: an untrained one, one that
    the first two paid, and one that started from that.
    """
    registry = ModelRegistry(tmp_path / "registry")
    publish_reward(registry, sources("a", "b", interactions=["i", "j"]), sources("x"))
    publish_reward(registry, sources("c"), sources("x", "y"), parent="reward-0001")
    publish_reward(registry, sources("d"))
    publish_policy(registry)
    publish_policy(
        registry, parent="policy-0001", reward_versions=("reward-0001", "reward-0002"), prompt_interval=(0, 10)
    )
    publish_policy(registry, parent="policy-0002", reward_versions=("reward-0003",), prompt_interval=(0, 20))
    return registry


def told(found: list[Use]) -> dict[str, tuple[str, ...]]:
    return {use.version: use.how for use in found}


def test_feedback_is_followed_to_whatever_learned_from_it(registry):
    assert told(uses(registry, feedback_ids=["a"])) == {
        "reward-0001": ("trained on it",),
        "reward-0002": ("started from reward-0001",),
        "policy-0002": ("paid by reward-0001", "paid by reward-0002"),
        "policy-0003": ("started from policy-0002",),
    }
    assert told(uses(registry, feedback_ids=["d"])) == {
        "reward-0003": ("trained on it",),
        "policy-0003": ("paid by reward-0003",),
    }


def test_what_only_judged_left_nothing_in_later_versions(registry):
    assert told(uses(registry, feedback_ids=["x"])) == {
        "reward-0001": ("judged on it",),
        "reward-0002": ("judged on it",),
    }


def test_an_answer_is_followed_by_its_pairs_and_by_its_prompt(registry):
    assert told(uses(registry, interactions={"j": 30}))["reward-0001"] == ("trained on it",)
    assert told(uses(registry, interactions={"k": 15})) == {
        "policy-0003": ("its prompt may be among those trained on",)
    }
    assert uses(registry, interactions={"k": 21}) == []


def test_what_nothing_consumed_has_no_uses(registry):
    assert uses(registry, feedback_ids=["nowhere"]) == []


def test_a_use_tells_what_became_of_the_version(registry):
    registry.promote("reward-0003", "the best")
    (use, *_) = uses(registry, feedback_ids=["d"])
    assert use == Use("reward-0003", VersionStatus.LIVE, ("trained on it",))


def test_a_version_is_made_of_what_it_started_from_and_was_paid_by(registry):
    parts = ingredients(registry, "policy-0002")
    assert [part.version.name for part in parts] == ["policy-0002", "policy-0001", "reward-0001", "reward-0002"]
    assert feedback_behind(parts) == sources("a", "b", "c", interactions=["i", "j"])
    assert feedback_behind(ingredients(registry, "policy-0003")).feedback_ids == {"a", "b", "c", "d"}
    assert feedback_behind(ingredients(registry, "reward-0002")).feedback_ids == {"a", "b", "c"}
    assert feedback_behind(ingredients(registry, "policy-0001")) == sources()


def test_a_version_that_is_not_there_is_named(registry):
    with pytest.raises(RegistryError, match="no version `policy-0009`"):
        ingredients(registry, "policy-0009")


def test_what_a_version_consumed_is_under_its_checksums(registry):
    registry.verify("reward-0001")
    path = registry.path("reward-0001") / "consumed.json"
    path.write_text(path.read_text().replace('"a"', '"z"'))
    with pytest.raises(RegistryError, match=r"`consumed\.json` was changed"):
        registry.verify("reward-0001")


def test_a_damaged_record_is_named_and_none_is_nothing(registry):
    (registry.path("reward-0001") / "consumed.json").write_text("{}")
    with pytest.raises(RegistryError, match=r"consumed.json of reward-0001 is damaged"):
        registry.consumed("reward-0001")
    assert registry.consumed("policy-0001") == Consumed()


def test_an_interval_of_prompts_is_kept(registry):
    assert registry.get("policy-0003").prompt_interval == (0, 20)
    assert registry.get("policy-0001").prompt_interval is None


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'log.db'}"


@pytest.fixture
def trained(url: str, tmp_path: Path) -> tuple[str, tuple[PreferencePair, ...]]:
    """A registry whose reward model learned from two users' comparisons in the log, and the pairs."""
    registry = ModelRegistry(tmp_path / "trained")
    with FeedbackStore(url) as store:
        add_comparisons(store, 2)
        pairs = read_preferences(store, after=0, upto=store.latest_seq()).pairs
    publish_reward(registry, Sources.of(pairs))
    publish_policy(registry, reward_versions=("reward-0001",), prompt_interval=(0, 4))
    return str(registry.location), pairs


def lineage(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    capsys.readouterr()
    assert main(["lineage", *arguments, "--json"]) == 0
    report: dict[str, object] = json.loads(capsys.readouterr().out)
    return report


@pytest.mark.parametrize("erase", [False, True])
def test_the_command_finds_what_consumed_a_user_an_answer_and_a_row_erased_or_not(url, trained, capsys, erase):
    registry, pairs = trained
    if erase:
        assert main(["erase", "--store", url, "--user", "user-0"]) == 0
        assert "2 answers and 1 rows of feedback are erased" in capsys.readouterr().out
    gone = sorted([*pairs[0].feedback_ids, *pairs[0].interaction_ids]) if erase else []
    prompted = "its prompt may be among those trained on"
    versions = [
        {"version": "reward-0001", "status": "candidate", "how": ["trained on it"]},
        {"version": "policy-0001", "status": "candidate", "how": [prompted, "paid by reward-0001"]},
    ]
    common = ("--registry", registry, "--store", url)
    assert lineage(capsys, *common, "--user", "user-0") == {
        "interaction_ids": sorted(pairs[0].interaction_ids),
        "feedback_ids": list(pairs[0].feedback_ids),
        "erased": gone,
        "versions": versions,
    }
    answer = lineage(capsys, *common, "--interaction", pairs[0].interaction_ids[0])
    assert (answer["versions"], answer["erased"]) == (versions, [pairs[0].interaction_ids[0]] if erase else [])
    row = lineage(capsys, *common, "--feedback", pairs[0].feedback_ids[0])
    assert row["versions"] == [versions[0], versions[1] | {"how": ["paid by reward-0001"]}]
    assert row["erased"] == (list(pairs[0].feedback_ids) if erase else [])


def test_the_command_names_the_feedback_behind_a_version_and_what_of_it_was_erased(url, trained, capsys):
    registry, pairs = trained
    main(["erase", "--store", url, "--interaction", pairs[1].interaction_ids[0]])
    report = lineage(capsys, "--registry", registry, "--store", url, "--version", "policy-0001")
    assert report["feedback_ids"] == sorted(name for pair in pairs for name in pair.feedback_ids)
    assert report["erased"] == list(pairs[1].feedback_ids)
    assert main(["lineage", "--registry", registry, "--version", "policy-0001"]) == 0
    said = capsys.readouterr().out
    assert "2 rows of feedback" in said
    assert "reward-0001" in said


def test_the_command_shows_a_table_without_a_store(trained, capsys):
    registry, pairs = trained
    assert main(["lineage", "--registry", registry, "--feedback", pairs[0].feedback_ids[0]]) == 0
    said = capsys.readouterr().out
    assert "trained on it" in said
    assert "paid by reward-0001" in said


def test_users_and_answers_need_the_log(trained, capsys):
    assert main(["lineage", "--registry", trained[0], "--user", "user-0"]) == 2
    assert "name the log with `--store`" in capsys.readouterr().err


def test_the_delay_of_feedback_ends_with_the_first_policy_in_service_that_learned_from_it(registry, tmp_path):
    with FeedbackStore(f"sqlite:///{tmp_path / 'log.db'}") as store:
        add_comparisons(store, 3)
        first, second, unheard = store.feedback()
        publish_reward(registry, sources(first.feedback_id))
        publish_reward(registry, sources(first.feedback_id, second.feedback_id))
        publish_policy(registry, reward_versions=("reward-0004",))
        publish_policy(registry, reward_versions=("reward-0005",))
        publish_policy(registry, reward_versions=("reward-0005",))
        assert learning_delays(registry, store.feedback()) == []
        registry.promote("policy-0004", "first")
        registry.promote("policy-0005", "second")
        registry.promote("policy-0006", "third")
        ends = [promotion.at for promotion in registry.history(ModelRole.POLICY)]
        assert learning_delays(registry, store.feedback()) == sorted(
            [(ends[0] - first.created_at).total_seconds(), (ends[1] - second.created_at).total_seconds()]
        )
        assert unheard.feedback_id not in feedback_behind(ingredients(registry, "policy-0006")).feedback_ids
