import json
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from online_trl.registry import RegistryError
from online_trl.types import ModelRole, VersionStatus
from registry.publishing import publish


@pytest.fixture
def registry(folder_registry):
    return folder_registry


@pytest.fixture
def root(registry):
    return Path(registry.location)


def run_python(registry, body, **options):
    """Runs code in another process, with `registry` and `weights` at hand."""
    script = """
import sys
from pathlib import Path
from online_trl.registry import ModelRegistry
from online_trl.types import ModelRole
registry = ModelRegistry(sys.argv[1])
def weights(folder):
    (folder / "model.safetensors").write_text("weights")
"""
    command = [sys.executable, "-c", script + textwrap.dedent(body), registry.location]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def test_the_number_of_a_deleted_version_does_not_come_back(registry):
    publish(registry)
    folder = registry.path(publish(registry))
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    assert publish(registry) == "policy-0003"


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


def test_readers_need_no_right_to_write(registry, root):
    registry.promote(publish(registry), "the first one")
    before = sorted((path, path.stat().st_mtime_ns) for path in [root, *root.rglob("*")])
    registry.live(ModelRole.POLICY)
    registry.versions(ModelRole.POLICY)
    registry.verify("policy-0001")
    assert sorted((path, path.stat().st_mtime_ns) for path in [root, *root.rglob("*")]) == before


def test_what_is_fixed_at_publication_is_not_in_the_state_file(registry, root):
    registry.promote(publish(registry, metrics={"kl": 1.0}), "the first one")
    manifest = json.loads((registry.path("policy-0001") / "version.json").read_text())
    state = json.loads((root / "live.json").read_text())
    assert "status" not in manifest
    assert manifest["metrics"] == {"kl": 1.0}
    assert state["settled"] == {"policy-0001": {"status": "live", "reason": "the first one"}}


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: None, "put no file"),
        (lambda folder: (folder / "empty").mkdir(), "put no file"),
        (lambda folder: (folder / "version.json").write_text("{}"), r"made a `version.json`"),
        (lambda folder: (folder / "vocab.json").symlink_to("/etc/hostname"), r"symbolic link, `vocab.json`"),
    ],
)
def test_a_folder_that_is_no_version_is_not_published(registry, root, write, message):
    with pytest.raises(RegistryError, match=message):
        registry.publish(ModelRole.POLICY, write)
    assert registry.versions(ModelRole.POLICY) == []
    assert list((root / ".staging").iterdir()) == []


def test_an_error_while_writing_leaves_nothing(registry, root):
    def fail(folder):
        (folder / "half").write_text("of a model")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        registry.publish(ModelRole.POLICY, fail)
    assert registry.versions(ModelRole.POLICY) == []
    assert list((root / ".staging").iterdir()) == []
    assert publish(registry) == "policy-0001"
