"""MLflow's server as we start it has no assistant: nobody on the machine runs commands through it."""

from __future__ import annotations

import asyncio
from importlib.metadata import entry_points
from typing import Any

import pytest
from mlflow.server import fastapi_app

from jobs.mlflow_server import app

ASSISTANT = "/ajax-api/3.0/mlflow/assistant"


def status(application: Any, method: str, path: str) -> int:
    """The status of a request from the machine itself, without a body."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:5000")], "client": ("127.0.0.1", 50000), "server": ("127.0.0.1", 5000),
    }  # fmt: skip
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(application(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize(("method", "path"), [("GET", "/config"), ("PUT", "/config"), ("POST", "/message")])
def test_the_assistant_is_not_there_though_mlflow_has_one(method: str, path: str) -> None:
    assert status(fastapi_app.app, method, ASSISTANT + path) in (200, 422), "else this holds nothing"
    assert status(app, method, ASSISTANT + path) == 404


def test_all_else_is_mlflows() -> None:
    assert status(app, "GET", "/health") == 200


def test_mlflow_server_finds_it_by_its_name() -> None:
    (found,) = entry_points(group="mlflow.app", name="syncrec")
    assert found.load() is app
