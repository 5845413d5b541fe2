import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from huggingface_hub import HfApi

from online_trl.registry import ModelRegistry, RegistryError
from online_trl.registry.hub import HubStorage
from online_trl.types import ModelRole
from registry.publishing import publish


@pytest.fixture
def registry(open_on_hub):
    return open_on_hub()


def test_reading_makes_no_repository_and_writing_a_private_one(registry, hub):
    assert registry.live(ModelRole.POLICY) is None
    assert registry.prune(ModelRole.POLICY, keep=0) == []
    with pytest.raises(RegistryError, match="nothing to roll back to"):
        registry.rollback(ModelRole.POLICY, "mistaken")
    assert hub.repos == {}
    publish(registry)
    assert hub.private == {"ann/registry"}
    assert sorted(hub.files("ann/registry")) == [
        ".gitattributes",
        "live.json",
        "policies/policy-0001/model.safetensors",
        "policies/policy-0001/tokenizer/vocab.json",
        "policies/policy-0001/version.json",
    ]
    assert len(hub.repos["ann/registry"]) == 2


def test_a_write_that_another_one_overtook_is_made_anew(registry, open_on_hub, hub):
    publish(registry)
    hub.overtake = 2
    assert publish(registry) == "policy-0002"
    hub.overtake = 2
    registry.promote("policy-0002", "better")
    assert hub.overtake == 0
    other = open_on_hub()
    assert other.live(ModelRole.POLICY).name == "policy-0002"
    assert len(other.history(ModelRole.POLICY)) == 1


def test_a_look_while_a_write_is_prepared_does_not_hide_another_one(registry, open_on_hub, hub_server):
    publish(registry)
    storage = HubStorage("ann/registry", HfApi(endpoint=hub_server[1], token="hf_x"))
    seen = []

    def apply(state):
        seen.append(set(state.settled))
        if len(seen) == 1:
            open_on_hub().promote("policy-0001", "meanwhile")
            assert not storage.exists("policy-0002")
        state.abandon("policy-0002", "a test")

    storage.change(apply)
    assert seen == [set(), {"policy-0001"}]
    assert open_on_hub().live(ModelRole.POLICY).name == "policy-0001"


def test_machines_that_write_at_once_lose_nothing(open_on_hub):
    with ThreadPoolExecutor(3) as threads:
        names = list(threads.map(lambda _: publish(open_on_hub()), range(6)))
    assert sorted(names) == [f"policy-000{number}" for number in range(1, 7)]
    registry = open_on_hub()
    for name in names:
        registry.verify(name)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda name: open_on_hub().promote(name, "better"), names))
    assert len(open_on_hub().history(ModelRole.POLICY)) == 6


def test_a_version_published_elsewhere_is_found_at_once(registry, open_on_hub):
    publish(registry)
    assert open_on_hub().promote(publish(open_on_hub()), "better").name == "policy-0002"
    registry.verify("policy-0002")
    assert registry.live(ModelRole.POLICY).name == "policy-0002"


def test_who_looks_all_the_time_asks_the_hub_now_and_then(registry, hub):
    registry.promote(publish(registry), "the first one")
    registry.live(ModelRole.POLICY)
    hub.requests.clear()
    for _ in range(50):
        registry.live(ModelRole.POLICY)
    assert len(hub.requests) <= 2


def test_a_hub_that_cannot_be_reached_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    registry = ModelRegistry("hf://ann/registry", hub=HfApi(endpoint=address, token="hf_x"))
    with pytest.raises(RegistryError, match="hf://ann/registry cannot be reached"):
        registry.live(ModelRole.POLICY)


def test_the_command_line_of_another_machine_promotes(registry, open_on_hub):
    publish(registry)
    command = [sys.executable, "-m", "online_trl.cli", "promote", "policy-0001", "--registry", registry.location]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout[:35]) == (0, "policy-0001 is in service: promoted"), done.stderr
    assert open_on_hub().live(ModelRole.POLICY).name == "policy-0001"
