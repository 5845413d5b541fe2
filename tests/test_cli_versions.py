import json
from datetime import datetime, timezone

import pytest

from online_trl.cli import main
from online_trl.registry import ModelRegistry
from online_trl.types import ModelRole, VersionStatus
from registry.publishing import publish


@pytest.fixture
def registry(tmp_path):
    """Four policies, of which the second is live, and a reward model."""
    registry = ModelRegistry(tmp_path / "registry")
    for role in [ModelRole.POLICY] * 4 + [ModelRole.REWARD]:
        publish(registry, role)
    for name in ("policy-0001", "policy-0002"):
        registry.promote(name, "better")
    return registry


@pytest.fixture
def run(registry, capsys):
    """Runs a command on the registry; returns its exit status and what it printed."""

    def run(*arguments):
        status = main([*arguments, "--registry", registry.location])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


def live(registry):
    return registry.live(ModelRole.POLICY).name


def test_versions_go_into_service_and_out_of_it_by_hand(registry, run):
    status, printed = run("promote", "policy-0003", "--reason", "people asked for it")
    assert (status, live(registry)) == (0, "policy-0003")
    assert "policy-0003 is in service: people asked for it" in printed
    status, printed = run("rollback", "policy-0003", "--reason", "it is rude")
    assert (status, live(registry)) == (0, "policy-0002")
    assert "policy-0002 is back in service: it is rude" in printed
    assert run("rollback")[0] == 0
    assert [row.reason for row in registry.history(ModelRole.POLICY)][-3:] == [
        "people asked for it",
        "it is rude",
        "rolled back by hand",
    ]
    assert run("promote", "reward-0001")[0] == 0
    assert registry.live(ModelRole.REWARD).name == "reward-0001"


def test_two_people_who_take_back_the_same_version_take_back_one(registry, run):
    run("promote", "policy-0003")
    assert run("rollback", "policy-0003")[0] == 0
    status, printed = run("rollback", "policy-0003")
    assert (status, live(registry)) == (2, "policy-0002")
    assert "policy-0003 is not in service; policy-0002 is" in printed


@pytest.mark.parametrize("command", [("promote",), ("canary", "start"), ("registry", "verify")])
def test_a_version_that_is_not_whole_is_refused(command, registry, run):
    (registry.path("policy-0003") / "model.safetensors").write_text("damaged")
    status, printed = run(*command, "policy-0003")
    assert status == 2
    assert "are not as they were published: `model.safetensors` was changed" in printed
    assert (live(registry), registry.canary()) == ("policy-0002", None)


def test_a_canary_is_started_shown_and_taken_back(registry, run):
    status, printed = run("canary", "start", "policy-0003", "--share", "0.25")
    assert status == 0
    assert "policy-0003 answers 25% of the users beside policy-0002" in printed
    assert "running" in run("canary", "status")[1]
    status, printed = run("rollback")
    assert status == 2
    assert "say which to take back, policy-0003 or policy-0002" in printed
    assert run("rollback", "policy-0003", "--reason", "rude")[0] == 0
    assert registry.get("policy-0003").status is VersionStatus.REFUSED
    printed = run("canary", "status")[1]
    assert "rolled" in printed
    assert "rude" in printed
    run("canary", "start", "policy-0004")
    assert run("promote", "policy-0004")[0] == 0
    assert registry.canaries()[-1].outcome.value == "promoted"


def test_old_versions_are_pruned_and_the_rest_is_verified(registry, run):
    for _ in range(3):
        publish(registry)
    for name in ("policy-0003", "policy-0004"):
        registry.promote(name, "better")
    assert run("registry", "prune", "--keep", "2", "--days", "1")[1] == (
        "policy: nothing to prune\nreward: nothing to prune\n"
    )
    status, printed = run("registry", "prune", "--keep", "2", "--role", "policy")
    assert (status, printed) == (0, "policy: pruned policy-0002, policy-0005\n")
    assert run("registry", "verify")[1] == "6 versions are as they were published\n"
    status, printed = run("promote", "policy-0005")
    assert status == 2
    assert f"the weights of policy-0005 were pruned on {datetime.now(timezone.utc):%Y-%m-%d}" in printed


def test_lineage_of_what_was_pruned_can_be_told(registry, capsys):
    registry.publish(ModelRole.POLICY, lambda folder: (folder / "w").write_text("w"), parent="policy-0004")
    registry.promote("policy-0005", "better")
    registry.prune(ModelRole.POLICY, keep=1)
    assert main(["lineage", "--registry", registry.location, "--version", "policy-0005", "--json"]) == 0
    assert [row["version"] for row in json.loads(capsys.readouterr().out)["versions"]] == [
        "policy-0005",
        "policy-0004",
    ]
    assert registry.get("policy-0004").pruned_at is not None
