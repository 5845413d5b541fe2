from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from online_trl.serving.feedback_schemas import FEEDBACK_EXAMPLES
from serving.small_app import SmallApp, small_app


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, policy_folders: list[Path]) -> Iterator[SmallApp]:
    with small_app(tmp_path_factory.mktemp("openapi"), policy_folders[0]) as app:
        yield app


@pytest.fixture(scope="module")
def description(app: SmallApp) -> dict[str, Any]:
    return app.request("GET", "/openapi.json").json()


def operations(description: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    }


def test_operations_have_short_names_of_their_own_and_say_what_they_do(description: dict[str, Any]):
    found = operations(description)
    names = [operation["operationId"] for operation in found.values()]
    assert sorted(set(names)) == sorted(names)
    assert {"create_feedback", "create_chat_completion", "update_chat_completion", "create_scores"} <= set(names)
    for route, operation in found.items():
        assert operation["tags"], route
        assert operation["description"], route


def test_operations_say_which_key_they_ask_for(description: dict[str, Any]):
    public = {"GET /healthz", "GET /readyz", "POST /v1/signed-feedback"}
    assert {route for route, operation in operations(description).items() if "security" not in operation} == public
    assert description["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


def test_feedback_has_every_shape_and_its_real_statuses(description: dict[str, Any]):
    feedback = operations(description)["POST /v1/feedback"]
    shapes = feedback["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    assert [shape.get("$ref", shape.get("type")) for shape in shapes] == [
        "#/components/schemas/FeedbackRequest",
        "#/components/schemas/MetricRequest",
        "array",
    ]
    assert set(feedback["responses"]) == {
        *("201", "400", "401", "403", "404", "409", "410", "413", "422", "429", "503"),
    }
    assert [parameter["name"] for parameter in feedback["parameters"]] == ["Idempotency-Key"]


@pytest.mark.parametrize("name", FEEDBACK_EXAMPLES)
def test_example_is_accepted(app: SmallApp, description: dict[str, Any], name: str):
    content = operations(description)["POST /v1/feedback"]["requestBody"]["content"]["application/json"]
    example = content["examples"][name]["value"]
    for statement in example if isinstance(example, list) else [example]:
        ids = [statement.get("interaction_id"), statement.get("inference_id"), *statement.get("interaction_ids", [])]
        known = app.store.get_interactions(each for each in ids if each)
        for each in {each for each in ids if each} - set(known):
            app.add_answer(interaction_id=each)
        superseded = statement.get("supersedes")
        if superseded is not None and not app.store.get_feedback([superseded]):
            said = {"kind": "binary", "interaction_id": app.add_answer(), "value": True, "user_id": "ada"}
            app.request("POST", "/v1/feedback", json=said | {"feedback_id": superseded})
    reply = app.request("POST", "/v1/feedback", json=example)
    assert reply.status_code == 201, reply.text
