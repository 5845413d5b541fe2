import json
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from online_trl.registry import ModelRegistry, RegistryError, copy_model
from online_trl.types import ModelRole, VersionStatus


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry(tmp_path / "registry")


def weights(text="weights"):
    def write(folder):
        (folder / "model.safetensors").write_text(text)
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer" / "vocab.json").write_text("{}")

    return write


def publish(registry, role=ModelRole.POLICY, **fields):
    return registry.publish(role, weights(), **fields).name


def run_python(registry, body, **options):
    """Runs code in another process, with `registry` and `weights` at hand."""
    script = """
import os, sys, time
from pathlib import Path
from online_trl.registry import ModelRegistry
from online_trl.types import ModelRole
registry = ModelRegistry(sys.argv[1])
def weights(folder):
    (folder / "model.safetensors").write_text("weights")
"""
    command = [sys.executable, "-c", script + textwrap.dedent(body), str(registry.root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def test_a_published_version_is_a_candidate_with_everything_that_was_said_of_it(registry):
    published = registry.publish(
        ModelRole.POLICY,
        weights(),
        parent="policy-0000",
        feedback_interval=(10, 25),
        reward_versions=["reward-0001", "reward-0002"],
        metrics={"kl": 1.5},
        config={"learning_rate": 1e-5, "modules": ["q", "v"]},
    )
    version = ModelRegistry(registry.root).get("policy-0001")
    assert version == published
    assert version.status is VersionStatus.CANDIDATE
    assert version.feedback_interval == (10, 25)
    assert version.reward_versions == ("reward-0001", "reward-0002")
    assert version.metrics == {"kl": 1.5}
    assert version.config == {"learning_rate": 1e-5, "modules": ["q", "v"]}
    assert sorted(version.checksums) == ["model.safetensors", "tokenizer/vocab.json"]
    assert (registry.path("policy-0001") / "model.safetensors").read_text() == "weights"


def test_an_empty_registry_has_nothing_and_makes_no_folder(registry):
    assert registry.versions(ModelRole.POLICY) == []
    assert registry.live(ModelRole.REWARD) is None
    assert registry.history(ModelRole.POLICY) == []
    assert not registry.root.exists()


def test_roles_count_on_their_own_and_in_order(registry):
    for _ in range(11):
        publish(registry)
    assert publish(registry, ModelRole.REWARD) == "reward-0001"
    assert [version.name for version in registry.versions(ModelRole.POLICY)][-2:] == ["policy-0010", "policy-0011"]


def test_the_number_of_a_deleted_version_does_not_come_back(registry):
    publish(registry)
    folder = registry.path(publish(registry))
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    assert publish(registry) == "policy-0003"


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


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: None, "put no file"),
        (lambda folder: (folder / "empty").mkdir(), "put no file"),
        (lambda folder: (folder / "version.json").write_text("{}"), r"made a `version.json`"),
        (lambda folder: (folder / "vocab.json").symlink_to("/etc/hostname"), r"symbolic link, `vocab.json`"),
    ],
)
def test_a_folder_that_is_no_version_is_not_published(registry, write, message):
    with pytest.raises(RegistryError, match=message):
        registry.publish(ModelRole.POLICY, write)
    assert registry.versions(ModelRole.POLICY) == []
    assert list((registry.root / ".staging").iterdir()) == []


def test_a_setting_that_json_cannot_hold_is_named(registry):
    with pytest.raises(RegistryError, match=r"`config` holds device=<object"):
        publish(registry, config={"seed": 1, "device": object()})


def test_an_error_while_writing_leaves_nothing(registry):
    def fail(folder):
        (folder / "half").write_text("of a model")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        registry.publish(ModelRole.POLICY, fail)
    assert registry.versions(ModelRole.POLICY) == []
    assert list((registry.root / ".staging").iterdir()) == []
    assert publish(registry) == "policy-0001"


def test_verify_accepts_what_was_published(registry):
    registry.verify(publish(registry))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model.safetensors").write_text("wEights"), r"`model.safetensors` was changed$"),
        (lambda folder: (folder / "tokenizer" / "vocab.json").unlink(), r"`tokenizer/vocab.json` is missing$"),
        (lambda folder: (folder / "code.py").write_text(""), r"`code.py` was added$"),
    ],
)
def test_verify_names_the_file_that_is_not_as_published(registry, spoil, message):
    name = publish(registry)
    spoil(registry.path(name))
    with pytest.raises(RegistryError, match=message):
        registry.verify(name)


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


def test_a_damaged_state_file_is_named(registry):
    publish(registry)
    (registry.root / "live.json").write_text('{"live": ')
    with pytest.raises(RegistryError, match=r"live\.json is damaged"):
        registry.live(ModelRole.POLICY)


def test_copy_model_leaves_out_what_a_trainer_keeps(registry, tmp_path):
    source = tmp_path / "run"
    (source / "checkpoint-10").mkdir(parents=True)
    for name in ("config.json", "training_args.bin", "checkpoint-10/optimizer.pt"):
        (source / name).write_text("x")
    version = registry.publish(ModelRole.POLICY, copy_model(source))
    assert list(version.checksums) == ["config.json"]


def test_concurrent_publishers_get_different_names(registry):
    body = """
    for _ in range(5):
        print(registry.publish(ModelRole.POLICY, weights).name)
    """
    processes = [run_python(registry, body) for _ in range(3)]
    own = []
    threads = [threading.Thread(target=lambda: own.append(publish(registry))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [name for process in processes for name in process.communicate()[0].split()] + own
    assert sorted(names) == [f"policy-{number:04d}" for number in range(1, 21)]
    for name in names:
        registry.verify(name)


def test_a_reader_sees_whole_states_only(registry):
    names = [publish(registry), publish(registry)]
    registry.promote(names[0], "first")
    body = """
    for turn in range(60):
        registry.promote(f"policy-000{turn % 2 + 1}", "turn " + "x" * 5000)
    """
    writer = run_python(registry, body)
    seen = set()
    while writer.poll() is None:
        live = registry.live(ModelRole.POLICY)
        assert live.status is VersionStatus.LIVE
        seen.add(live.name)
    writer.communicate()
    assert writer.returncode == 0
    assert seen == set(names)


def kill_at(registry, body):
    """Starts a publisher, waits for its word and kills it."""
    process = run_python(registry, body)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_publisher_killed_while_writing_leaves_no_version(registry):
    publish(registry)
    body = """
    def write(folder):
        (folder / "half").write_text("of a model")
        print("ready", flush=True)
        time.sleep(60)
    registry.publish(ModelRole.POLICY, write)
    """
    kill_at(registry, body)
    assert [version.name for version in registry.versions(ModelRole.POLICY)] == ["policy-0001"]
    assert len(list((registry.root / ".staging").iterdir())) == 1
    assert publish(registry) == "policy-0002"
    assert list((registry.root / ".staging").iterdir()) == []


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_publisher_killed_at_the_rename_leaves_a_whole_version_or_none(registry, moment):
    publish(registry)
    body = f"""
    place = ModelRegistry._place
    def stop(self, folder, target):
        if {moment == "after"}:
            place(self, folder, target)
        print("ready", flush=True)
        time.sleep(60)
    ModelRegistry._place = stop
    registry.publish(ModelRole.POLICY, weights)
    """
    kill_at(registry, body)
    survivors = [version.name for version in registry.versions(ModelRole.POLICY)]
    assert survivors == (["policy-0001", "policy-0002"] if moment == "after" else ["policy-0001"])
    for name in survivors:
        registry.verify(name)
    assert publish(registry) == "policy-0003"


def test_a_writer_killed_before_the_state_is_replaced_changes_nothing(registry):
    registry.promote(publish(registry), "the first one")
    publish(registry)
    body = """
    def stop(self, target):
        print("ready", flush=True)
        time.sleep(60)
    Path.replace = stop
    registry.promote("policy-0002", "better")
    """
    kill_at(registry, body)
    assert registry.live(ModelRole.POLICY).name == "policy-0001"
    assert registry.promote("policy-0002", "better").status is VersionStatus.LIVE


def test_publishing_does_not_disturb_a_publisher_that_is_still_writing(registry):
    body = """
    def write(folder):
        print("ready", flush=True)
        sys.stdin.readline()
        weights(folder)
    print(registry.publish(ModelRole.POLICY, write).name)
    """
    slow = run_python(registry, body, stdin=subprocess.PIPE)
    assert slow.stdout.readline() == "ready\n"
    assert publish(registry) == "policy-0001"
    output, _ = slow.communicate("go on\n")
    assert output == "policy-0002\n"
    registry.verify("policy-0002")


def test_readers_need_no_right_to_write(registry):
    registry.promote(publish(registry), "the first one")
    before = sorted((path, path.stat().st_mtime_ns) for path in [registry.root, *registry.root.rglob("*")])
    registry.live(ModelRole.POLICY)
    registry.versions(ModelRole.POLICY)
    registry.verify("policy-0001")
    assert sorted((path, path.stat().st_mtime_ns) for path in [registry.root, *registry.root.rglob("*")]) == before


def test_what_is_fixed_at_publication_is_not_in_the_state_file(registry):
    registry.promote(publish(registry, metrics={"kl": 1.0}), "the first one")
    manifest = json.loads((registry.path("policy-0001") / "version.json").read_text())
    state = json.loads((registry.root / "live.json").read_text())
    assert "status" not in manifest
    assert manifest["metrics"] == {"kl": 1.0}
    assert state["settled"] == {"policy-0001": {"status": "live", "reason": "the first one"}}


def test_the_modules_below_the_trainers_load_without_torch():
    code = (
        "import sys, online_trl.registry, online_trl.gates, online_trl.evaluation, online_trl.report\n"
        "print(sorted({'torch', 'transformers', 'trl'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
