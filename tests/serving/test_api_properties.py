"""
Whatever the API's description lets a client send, and whatever it forbids: no reply is a 5xx, every reply is one that
the description names, and a request that was refused has left nothing in the log.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from online_trl.registry import copy_model
from online_trl.serving.feedback_url import FeedbackUrls
from online_trl.serving.settings import ServerSettings
from online_trl.store import FeedbackStore
from online_trl.types import Interaction, Scope
from serving.deployment import Deployment, deployed

CHECKS: list[schemathesis.CheckFunction] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    ignored_auth,
]
CONTEXT_LENGTH = 48


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, policy_folders: list[Path]) -> Iterator[Deployment]:
    """A server of policies with so little context that no answer takes long."""
    folder = tmp_path_factory.mktemp("properties")
    policies = [folder / "first", folder / "second"]
    for source, policy in zip(policy_folders, policies, strict=True):
        copy_model(source)(policy)
        config = json.loads((policy / "config.json").read_text())
        (policy / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT_LENGTH}))
    with deployed(folder, policies) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def key(deployment: Deployment) -> str:
    key, _ = deployment.store.keys.create([Scope.ADMIN])
    while deployment.http.get("/v1/models").status_code != 401:
        pass
    return key


@pytest.fixture(scope="module")
def answers(deployment: Deployment) -> list[str]:
    """Answers that feedback may be about."""
    rows = [
        Interaction(
            prompt=[{"role": "user", "content": f"question {number}"}],
            completion=[{"role": "assistant", "content": "answer"}],
            policy_version="policy-0001",
            session_id="session",
            user_id="ada",
        )
        for number in range(64)
    ]
    return [row.interaction_id for row in deployment.store.add_interactions(rows)]


def aim(case: schemathesis.Case, store: FeedbackStore, answers: list[str]) -> None:
    """Has about every second request name answers that there are, which no schema can know of."""
    for statement in case.body if isinstance(case.body, list) else [case.body]:
        if not isinstance(statement, dict):
            continue
        for field in ("interaction_id", "inference_id", "traceId"):
            if isinstance(name := statement.get(field), str) and len(name) % 2:
                statement[field] = answers[len(name) % len(answers)]
        if isinstance(names := statement.get("interaction_ids"), list) and len(names) % 2 == 0:
            statement["interaction_ids"] = answers[: len(names)]
    for field in {"interaction_id", "completion_id"} & set(case.path_parameters or {}):
        if len(name := case.path_parameters[field]) % 2:
            case.path_parameters[field] = answers[len(name) % len(answers)]
    if case.operation.path == "/v1/signed-feedback" and len(case.query["signature"]) % 2:
        url = FeedbackUrls(store.keys, ServerSettings()).url(answers[: 1 + len(case.query["kind"])], base_url="")
        case.query = parse_qs(urlsplit(url).query)


def check_operation(
    operation: schemathesis.APIOperation,
    mode: schemathesis.GenerationMode,
    deployment: Deployment,
    key: str,
    answers: list[str],
    examples: int,
) -> None:
    session = requests.Session()

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        if mode.is_positive:
            aim(case, deployment.store, answers)
        else:
            # No URL can say these, so that what is sent may be right.
            assume(all(value not in (None, [], {}) for value in (case.query or {}).values()))
        # Where the key was left out to make the request wrong, it stays out.
        with_key = mode.is_positive or "Authorization" in (case.headers or {})
        headers = {"Authorization": f"Bearer {key}"} if with_key else {}
        before = deployment.store.latest_seq()
        reply = case.call_and_validate(session=session, headers=headers, checks=CHECKS, timeout=60)
        if reply.status_code >= 400:
            assert deployment.store.latest_seq() == before, f"{reply.status_code}, and yet something was stored"

    check()


def modes(operation: schemathesis.APIOperation) -> list[schemathesis.GenerationMode]:
    """A request that has no parts cannot be wrong."""
    has_parts = {"security", "parameters", "requestBody"} & set(operation.definition.raw)
    return list(schemathesis.GenerationMode) if has_parts else [schemathesis.GenerationMode.POSITIVE]


def check_all(deployment: Deployment, key: str, answers: list[str], examples: int, subtests: pytest.Subtests) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    schema = schemathesis.openapi.from_url(f"{deployment.server.url}/openapi.json", headers=headers)
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in modes(operation):
            with subtests.test(operation.label, mode=mode.value):
                check_operation(operation, mode, deployment, key, answers, examples)


def test_no_request_breaks_the_server_or_its_promises(
    deployment: Deployment, key: str, answers: list[str], subtests: pytest.Subtests
):
    check_all(deployment, key, answers, 20, subtests)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_request_of_many_breaks_the_server_or_its_promises(
    deployment: Deployment, key: str, answers: list[str], subtests: pytest.Subtests
):
    check_all(deployment, key, answers, 500, subtests)
