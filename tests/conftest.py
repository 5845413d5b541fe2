"""The store behind the tests: an SQLite file, or a schema of a private PostgreSQL server where one is installed."""

from __future__ import annotations

import gc
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from online_trl.store import FeedbackStore
from postgresql import NoPostgreSQLError, running_postgresql

LONGEST = (
    "test_demo.py",
    "test_sharding.py",
    "test_readme.py",
    "test_durability.py",
    "test_recipes.py",
    "test_resume.py",
)
"""Files that take two minutes and more each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the longest files, so that no worker is left with one of them when the others have nothing to do."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def _imports_are_no_garbage() -> None:
    """Whatever trains collects garbage, which goes through all that was imported: half of the time of a tiny run."""
    gc.freeze()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of the `postgres` database of a server on loopback, which runs as long as the tests do."""
    try:
        # What a commit survives is tested by killing processes, which fsync makes no difference to.
        with running_postgresql(fsync=False) as url:
            yield url
    except NoPostgreSQLError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest.fixture
def postgresql_url(request: pytest.FixtureRequest) -> str:
    """The URL of a new, empty store in PostgreSQL."""
    psycopg = pytest.importorskip("psycopg")
    server = request.getfixturevalue("postgresql_server")
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{server}?options=-csearch_path%3D{name}"


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new, empty store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'feedback.db'}"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def store(store_url: str) -> Iterator[FeedbackStore]:
    with FeedbackStore(store_url) as store:
        yield store


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a Llama of a few thousand random weights, with the demo's tokenizer and chat template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from online_trl.simulation.base_policy import build_tokenizer

    folder = tmp_path_factory.mktemp("tiny-policy")
    tokenizer = build_tokenizer(["the quick brown fox jumps over the lazy dog", "yes no question fresh seed"])
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            **ends,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def vllm_policy(tiny_policy: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A policy as tiny with heads as wide as vLLM's kernels need them, and with an opinion on what comes next."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("vllm-policy")
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tiny_policy, head_dim=32, initializer_range=0.3)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_policy).save_pretrained(folder)
    return str(folder)
