from __future__ import annotations

from pathlib import Path

import pytest

from online_trl.config import ConfigError
from online_trl.registry import ModelRegistry, RegistryError, copy_model
from online_trl.serving.policy_source import RegistryPolicies, SinglePolicy
from online_trl.types import ModelRole


@pytest.fixture
def registry(tmp_path: Path, policy_folders: list[Path]) -> ModelRegistry:
    registry = ModelRegistry(tmp_path / "registry")
    for folder in policy_folders:
        registry.publish(ModelRole.POLICY, copy_model(folder))
    registry.promote("policy-0001", "the first one")
    return registry


def test_registry_names_its_policies_and_no_reward_models(tmp_path: Path, policy_folders: list[Path]):
    registry = ModelRegistry(tmp_path)
    policies = RegistryPolicies(registry)
    assert (policies.versions(), policies.live()) == ([], None)
    for role in (ModelRole.POLICY, ModelRole.REWARD, ModelRole.POLICY):
        registry.publish(role, copy_model(policy_folders[0]))
    registry.promote("policy-0002", "better")
    assert [version.name for version in policies.versions()] == ["policy-0001", "policy-0002"]
    assert policies.live() == "policy-0002"
    assert policies.locate("policy-0001") == registry.path("policy-0001")


def test_damaged_version_is_not_located(tmp_path: Path, policy_folders: list[Path]):
    registry = ModelRegistry(tmp_path)
    registry.publish(ModelRole.POLICY, copy_model(policy_folders[0]))
    (registry.path("policy-0001") / "model.safetensors").write_bytes(b"")
    with pytest.raises(RegistryError, match=r"model\.safetensors"):
        RegistryPolicies(registry).locate("policy-0001")


def test_single_policy_is_named_after_its_folder(policy_folders: list[Path]):
    policy = SinglePolicy(f"{policy_folders[0]}/")
    assert policy.live() == "first"
    assert [version.name for version in policy.versions()] == ["first"]
    assert policy.locate("first") == str(policy_folders[0])


def test_single_policy_from_the_hub_is_named_by_its_id():
    policy = SinglePolicy("some-owner/some.model-1")
    assert policy.live() == policy.locate(policy.live()) == "some-owner/some.model-1"


@pytest.mark.parametrize("model", ["./missing", "/missing/policy", "out/of/reach", "~/missing", "spaced name", ""])
def test_what_is_neither_folder_nor_hub_id_is_refused(model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="policy"):
        SinglePolicy(model)


def test_missing_folder_beside_existing_ones_is_no_hub_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "outputs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="outputs/policy does not exist"):
        SinglePolicy("outputs/policy")


def test_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        SinglePolicy(str(tmp_path))


def test_weights_are_known_by_what_they_hold(registry: ModelRegistry, policy_folders: list[Path]):
    policies = RegistryPolicies(registry)
    hashes = [policies.weights_hash(version.name) for version in policies.versions()]
    assert len(set(hashes)) == len(hashes)
    for folder, expected in zip(policy_folders, hashes, strict=False):
        assert SinglePolicy(str(folder)).weights_hash(folder.name) == expected


def test_weights_are_known_whatever_lies_beside_them(policy_folders: list[Path], tmp_path: Path):
    copy_model(policy_folders[0])(tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("notes")
    (tmp_path / "copy" / "training_args.bin").write_bytes(b"settings")
    copy = SinglePolicy(str(tmp_path / "copy")).weights_hash("copy")
    assert copy == SinglePolicy(str(policy_folders[0])).weights_hash("first")


def test_weights_from_the_hub_are_those_in_its_cache(
    policy_folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--owner--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    copy_model(policy_folders[0])(cached / "snapshots" / ("0" * 40))
    hub = SinglePolicy("owner/model")
    assert hub.weights_hash("owner/model") == SinglePolicy(str(policy_folders[0])).weights_hash("first")


def test_candidate_is_the_newest_version_that_is_not_decided_on(registry: ModelRegistry, policy_folders: list[Path]):
    policies = RegistryPolicies(registry)
    newest = registry.publish(ModelRole.POLICY, copy_model(policy_folders[0])).name
    assert policies.candidate() == newest
    registry.refuse(newest, "worse")
    assert policies.candidate() == "policy-0002"
    registry.promote("policy-0002", "better")
    assert policies.candidate() is None
    assert SinglePolicy(str(policy_folders[0])).candidate() is None
