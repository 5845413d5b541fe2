"""What a registry does, wherever it is stored."""

import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from online_trl.registry import Consumed, ModelRegistry, RegistryError, Sources, copy_model
from online_trl.types import CanaryOutcome, EvaluationRecord, ModelRole, VersionStatus
from registry.publishing import publish, weights


@pytest.fixture(params=["folder", "hub"])
def reopen(request, tmp_path):
    """Opens the same registry anew."""
    if request.param == "hub":
        return request.getfixturevalue("open_on_hub")
    return lambda: ModelRegistry(tmp_path / "registry")


@pytest.fixture
def registry(reopen):
    return reopen()


@pytest.fixture
def overwrite(registry, request):
    """Changes a file where it is stored, or removes it, behind the registry's back."""

    def overwrite(path, content):
        if registry.location.startswith("hf://"):
            hub = request.getfixturevalue("hub")
            files = {name: each for name, each in hub.files("ann/registry").items() if name != path}
            hub.commit("ann/registry", files | ({} if content is None else {path: content.encode()}), None)
        elif content is None:
            (Path(registry.location) / path).unlink()
        else:
            (Path(registry.location) / path).write_text(content)

    return overwrite


def test_a_published_version_is_a_candidate_with_everything_that_was_said_of_it(registry, reopen):
    published = registry.publish(
        ModelRole.POLICY,
        weights(),
        parent="policy-0000",
        feedback_interval=(10, 25),
        reward_versions=["reward-0001", "reward-0002"],
        metrics={"kl": 1.5},
        config={"learning_rate": 1e-5, "modules": ["q", "v"]},
    )
    version = reopen().get("policy-0001")
    assert version == published
    assert version.status is VersionStatus.CANDIDATE
    assert version.feedback_interval == (10, 25)
    assert version.reward_versions == ("reward-0001", "reward-0002")
    assert version.metrics == {"kl": 1.5}
    assert version.config == {"learning_rate": 1e-5, "modules": ["q", "v"]}
    assert sorted(version.checksums) == ["model.safetensors", "tokenizer/vocab.json"]
    assert (registry.path("policy-0001") / "model.safetensors").read_text() == "weights"


def test_an_empty_registry_has_nothing(registry):
    assert registry.versions(ModelRole.POLICY) == []
    assert registry.live(ModelRole.REWARD) is None
    assert registry.history(ModelRole.POLICY) == []
    assert registry.canaries() == []


def test_roles_count_on_their_own_and_in_order(registry):
    for _ in range(3):
        publish(registry)
    assert publish(registry, ModelRole.REWARD) == "reward-0001"
    assert [version.name for version in registry.versions(ModelRole.POLICY)][-2:] == ["policy-0002", "policy-0003"]


def test_a_metric_that_was_not_measured_is_left_out(registry):
    publish(registry, metrics={"reward_accuracy": float("nan"), "pairs": 3.0})
    assert registry.get("policy-0001").metrics == {"pairs": 3.0}


def test_an_unknown_name_is_answered_with_the_nearest_ones(registry):
    with pytest.raises(RegistryError, match=r"no version `policy-0001`; it is empty"):
        registry.get("policy-0001")
    publish(registry)
    with pytest.raises(RegistryError, match=r"no version `policy-001`; there is policy-0001"):
        registry.path("policy-001")


@pytest.mark.parametrize("name", ["../policies/policy-0001", "policy-0001/", "", "live.json"])
def test_a_name_cannot_lead_out_of_the_registry(registry, name):
    publish(registry)
    with pytest.raises(RegistryError, match="has no version"):
        registry.path(name)


def test_a_setting_that_json_cannot_hold_is_named(registry):
    with pytest.raises(RegistryError, match=r"`config` holds device=<object"):
        publish(registry, config={"seed": 1, "device": object()})


def test_verify_accepts_what_was_published(registry):
    registry.verify(publish(registry))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", "wEights", r"`model.safetensors` was changed; restore"),
        ("tokenizer/vocab.json", None, r"`tokenizer/vocab.json` is missing; restore"),
        ("code.py", "", r"`code.py` was added; restore"),
    ],
)
def test_a_version_that_is_not_as_published_is_not_handed_out(registry, reopen, overwrite, file, content, message):
    name = publish(registry)
    overwrite(f"policies/{name}/{file}", content)
    for refuse in (reopen().path, reopen().verify):
        with pytest.raises(RegistryError, match=message):
            refuse(name)


def test_promotion_retires_the_former_version_and_is_remembered(registry):
    first, second = publish(registry), publish(registry)
    assert registry.promote(first, "the first one").status is VersionStatus.LIVE
    assert registry.promote(second, "it is better").status is VersionStatus.LIVE
    assert registry.live(ModelRole.POLICY).name == second
    assert registry.get(first).status is VersionStatus.RETIRED
    assert registry.get(first).reason == "replaced by policy-0002"
    assert registry.get(second).reason == "it is better"
    assert [(row.version, row.replaced, row.reason) for row in registry.history(ModelRole.POLICY)] == [
        (first, None, "the first one"),
        (second, first, "it is better"),
    ]
    assert registry.live(ModelRole.REWARD) is None


def test_promoting_the_live_version_again_changes_nothing(registry):
    name = publish(registry)
    registry.promote(name, "the first one")
    assert registry.promote(name, "again").reason == "the first one"
    assert len(registry.history(ModelRole.POLICY)) == 1


def test_rollback_goes_back_one_version_at_a_time(registry):
    first, second, third = (publish(registry) for _ in range(3))
    for name in (first, second, third):
        registry.promote(name, "better")
    assert registry.rollback(ModelRole.POLICY, "users complain").name == second
    assert registry.line(ModelRole.POLICY) == [first, second]
    assert registry.rollback(ModelRole.POLICY, "still").name == first
    assert [version.status for version in registry.versions(ModelRole.POLICY)] == [
        VersionStatus.LIVE,
        VersionStatus.RETIRED,
        VersionStatus.RETIRED,
    ]
    with pytest.raises(RegistryError, match="nothing to roll back to: no version was live before policy-0001"):
        registry.rollback(ModelRole.POLICY, "once more")


def test_rollback_before_any_promotion_is_refused(registry):
    publish(registry)
    with pytest.raises(RegistryError, match="nothing to roll back to: no policy version is live"):
        registry.rollback(ModelRole.POLICY, "why not")


def test_rollback_after_going_back_to_an_earlier_version_goes_to_the_one_before_it(registry):
    first, second, third = (publish(registry) for _ in range(3))
    for name in (first, second, third, second):
        registry.promote(name, "better")
    assert registry.rollback(ModelRole.POLICY, "not good either").name == first


def test_a_refused_version_cannot_go_into_service(registry):
    name = publish(registry)
    registry.refuse(name, "KL too high")
    registry.refuse(name, "a second time")
    assert registry.get(name).reason == "KL too high"
    with pytest.raises(RegistryError, match="policy-0001 was refused and cannot go into service: KL too high"):
        registry.promote(name, "all the same")


def test_only_a_candidate_can_be_refused(registry):
    first, second = publish(registry), publish(registry)
    registry.promote(first, "the first one")
    with pytest.raises(RegistryError, match="policy-0001 is live"):
        registry.refuse(first, "too late")
    registry.promote(second, "better")
    with pytest.raises(RegistryError, match="policy-0001 is retired"):
        registry.refuse(first, "too late")


def test_an_abandoned_version_is_not_rolled_back_to(registry):
    first, second, third = (publish(registry) for _ in range(3))
    for name in (first, second, third):
        registry.promote(name, "better")
    assert registry.abandon(second, "left behind").reason == "left behind"
    assert registry.live(ModelRole.POLICY).name == third
    assert registry.rollback(ModelRole.POLICY, "bad").name == first


def test_the_live_version_cannot_be_abandoned(registry):
    name = publish(registry)
    registry.promote(name, "the first one")
    with pytest.raises(RegistryError, match="policy-0001 is live; promote another version or roll back"):
        registry.abandon(name, "tired")


def test_a_damaged_state_file_is_named(registry, reopen, overwrite):
    publish(registry)
    for damage in ('{"live": ', "[]", "{}"):
        overwrite("live.json", damage)
        with pytest.raises(RegistryError, match=r"live\.json is damaged"):
            reopen().live(ModelRole.POLICY)


def test_a_damaged_manifest_is_named(registry, reopen, overwrite):
    overwrite(f"policies/{publish(registry)}/version.json", '{"name": ')
    with pytest.raises(RegistryError, match=r"policies/policy-0001/version\.json cannot be read"):
        reopen().versions(ModelRole.POLICY)


def test_rollback_of_a_version_that_is_not_in_service_is_refused(registry):
    first, second = publish(registry), publish(registry)
    for name in (first, second):
        registry.promote(name, "better")
    with pytest.raises(RegistryError, match="policy-0001 is not in service; policy-0002 is"):
        registry.rollback(ModelRole.POLICY, "bad", version=first)
    assert registry.rollback(ModelRole.POLICY, "bad", version=second).name == first


def test_evaluations_are_added_and_never_changed(registry, reopen):
    name = publish(registry)
    assert registry.evaluations(name) == []
    at = datetime(2026, 3, 1, tzinfo=timezone.utc)
    records = [EvaluationRecord("win_rate", at, {"mean": 0.5 + turn / 10, "judges": ["live"]}) for turn in range(3)]
    for record in records:
        registry.record_evaluation(name, record)
    assert reopen().evaluations(name) == records
    assert reopen().evaluations(publish(registry)) == []
    registry.verify(name)
    with pytest.raises(RegistryError, match="`figures` holds kl=nan"):
        registry.record_evaluation(name, EvaluationRecord("kl", at, {"kl": float("nan")}))
    with pytest.raises(RegistryError, match="no version `policy-0009`"):
        registry.record_evaluation("policy-0009", records[0])


@pytest.fixture
def live_and_candidates(registry):
    """The first of four policies is live."""
    names = [publish(registry) for _ in range(4)]
    registry.promote(names[0], "the first one")
    return names


def test_a_canary_runs_until_its_candidate_is_promoted(registry, reopen, live_and_candidates):
    live, candidate, other, _ = live_and_candidates
    canary = registry.start_canary(candidate, 0.1)
    assert (canary.version, canary.incumbent, canary.share, canary.outcome) == (candidate, live, 0.1, None)
    assert reopen().canary() == canary
    assert registry.live(ModelRole.POLICY).name == live
    with pytest.raises(RegistryError, match=f"a canary of {candidate} is running"):
        registry.start_canary(other, 0.1)
    with pytest.raises(RegistryError, match=f"no canary of {other} is running"):
        registry.end_canary(other, "better", promote=True)
    ended = registry.end_canary(candidate, "better", promote=True)
    assert (ended.outcome, ended.reason, ended.canary_id) == (CanaryOutcome.PROMOTED, "better", canary.canary_id)
    assert reopen().canary() is None
    assert reopen().canaries() == [ended]
    assert registry.live(ModelRole.POLICY).name == candidate


def test_a_canary_that_is_rolled_back_leaves_its_candidate_refused(registry, live_and_candidates):
    live, candidate, *_ = live_and_candidates
    registry.start_canary(candidate, 0.1)
    assert registry.end_canary(candidate, "worse", promote=False).outcome is CanaryOutcome.ROLLED_BACK
    assert registry.get(candidate).status is VersionStatus.REFUSED
    assert registry.live(ModelRole.POLICY).name == live
    with pytest.raises(RegistryError, match=f"{candidate} is refused \\(worse\\); only a candidate"):
        registry.start_canary(candidate, 0.1)


def test_whatever_settles_a_version_ends_its_canary(registry, live_and_candidates):
    _, *candidates = live_and_candidates
    ends = []
    for candidate, end in zip(candidates, (registry.promote, registry.refuse, registry.abandon), strict=True):
        registry.start_canary(candidate, 0.5)
        end(candidate, "somebody said so")
        assert registry.canary() is None
        ends.append(registry.canaries()[-1].outcome)
    assert ends == [CanaryOutcome.PROMOTED, CanaryOutcome.ROLLED_BACK, CanaryOutcome.STOPPED]


def test_a_canary_is_stopped_when_what_it_is_compared_with_leaves_service(registry, live_and_candidates):
    _, second, third, fourth = live_and_candidates
    registry.start_canary(third, 0.5)
    registry.promote(second, "cannot wait")
    ended = registry.canaries()[-1]
    assert (ended.outcome, ended.reason) == (
        CanaryOutcome.STOPPED,
        "policy-0002 went into service meanwhile: cannot wait",
    )
    assert registry.get(third).status is VersionStatus.CANDIDATE
    registry.start_canary(fourth, 0.5)
    registry.rollback(ModelRole.POLICY, "bad")
    assert registry.canaries()[-1].version == fourth
    assert registry.canary() is None


def test_only_a_candidate_beside_a_live_policy_can_be_tried_on_some_users(registry):
    policy, reward = publish(registry), publish(registry, ModelRole.REWARD)
    with pytest.raises(RegistryError, match="no policy is live for policy-0001 to be compared with"):
        registry.start_canary(policy, 0.1)
    registry.promote(policy, "the first one")
    with pytest.raises(RegistryError, match="reward-0001 is a reward model; only a candidate for the policy"):
        registry.start_canary(reward, 0.1)
    with pytest.raises(RegistryError, match=r"policy-0001 is live \(the first one\); only a candidate"):
        registry.start_canary(policy, 0.1)
    for share in (0.0, 1.0):
        with pytest.raises(RegistryError, match=f"must lie between 0 and 1, not at {share}"):
            registry.start_canary(publish(registry), share)


def test_pruning_keeps_what_is_needed_and_what_is_known(registry, reopen):
    def write(folder):
        weights()(folder)
        Consumed(trained_on=Sources(frozenset(["a"]))).write(folder)

    names = [registry.publish(ModelRole.POLICY, write).name for _ in range(7)]
    base, old, target, live, tried, oldest_kept, _ = names
    for name in (base, old, target, live):
        registry.promote(name, "better")
    registry.start_canary(tried, 0.1)
    registry.record_evaluation(old, EvaluationRecord("kl", datetime.now(timezone.utc), {"kl": 1.0}))
    assert registry.prune(ModelRole.POLICY, keep=1, older_than=timedelta(hours=1)) == []
    assert registry.prune(ModelRole.POLICY, keep=1) == [old, oldest_kept]
    assert registry.prune(ModelRole.POLICY, keep=1) == []
    assert registry.prune(ModelRole.REWARD, keep=0) == []

    registry = reopen()
    pruned = registry.get(old)
    assert pruned.pruned_at is not None
    assert (pruned.status, pruned.reason) == (VersionStatus.RETIRED, "replaced by policy-0003")
    assert registry.consumed(old).trained_on.feedback_ids == {"a"}
    assert len(registry.evaluations(old)) == 1
    for name in (base, target, live, tried, names[-1]):
        registry.verify(name)
    for refused in (registry.path, lambda name: registry.promote(name, "again")):
        with pytest.raises(RegistryError, match=f"the weights of {old} were pruned on 20"):
            refused(old)
    assert registry.rollback(ModelRole.POLICY, "bad").name == target
    assert registry.rollback(ModelRole.POLICY, "bad").name == base


@pytest.mark.parametrize("location", ["s3://bucket/registry", "hf://registry", "hf://ann/a/registry"])
def test_a_location_that_is_none_is_refused(location):
    with pytest.raises(RegistryError, match="owner/name"):
        ModelRegistry(location)


def test_copy_model_leaves_out_what_a_trainer_keeps(registry, tmp_path):
    source = tmp_path / "run"
    (source / "checkpoint-10").mkdir(parents=True)
    for name in ("config.json", "training_args.bin", "checkpoint-10/optimizer.pt"):
        (source / name).write_text("x")
    version = registry.publish(ModelRole.POLICY, copy_model(source))
    assert list(version.checksums) == ["config.json"]


def test_the_modules_below_the_trainers_load_without_torch():
    code = (
        "import sys, online_trl.registry, online_trl.gates, online_trl.evaluation, online_trl.report\n"
        "print(sorted({'torch', 'transformers', 'trl'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
