"""MLflow's server without its assistant: what `mlflow server --app-name syncrec` serves.

MLflow 3 answers everybody who reaches it from its own machine on /ajax-api/3.0/mlflow/assistant: they name the
address of a language model, and what that says reads files, writes them and runs commands as the user of the
server. No variable turns it off, and no night needs it: this answers 404 there and hands all else to MLflow.
"""

from __future__ import annotations

from mlflow.server.fastapi_app import app as mlflow_app
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

ASSISTANT = "/mlflow/assistant"


class WithoutAssistant:
    """An ASGI application around that of MLflow."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if ASSISTANT in scope.get("path", ""):
            await PlainTextResponse("the assistant is off", status_code=404)(scope, receive, send)
        else:
            await mlflow_app(scope, receive, send)


app = WithoutAssistant()
