"""Serves the pages of the nights on this machine: behind `make up`, for the links of Airflow's tasks.

    python -m jobs.report_server --folder var/sample/reports --port 8090

Pages hold what users did, so it listens to 127.0.0.1 alone, answers only those who ask for this machine by name (a
stranger's web page that points its own name here is refused), and gives nothing but pages: no lists of files.
"""

from __future__ import annotations

import argparse
import io
import os
import re
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
HEALTH = "/health"
_PAGE = re.compile(r"/(index|\d{4}-\d\d-\d\d)\.html")
_NONE_YET = "No night has left a page yet: make nightly runs one."


class Handler(SimpleHTTPRequestHandler):
    """The pages of one folder, read anew at each request: a removed user is gone from the next one."""

    def parse_request(self) -> bool:
        """Refuse whoever asks for another machine."""
        if not super().parse_request():
            return False
        name = (self.headers.get("Host") or "").partition(":")[0].lower()
        if name not in (HOST, "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN, "This server answers to 127.0.0.1 and localhost alone")
            return False
        return True

    def send_head(self) -> Any:
        """Begin the answer to GET and HEAD; None where there is no body to come."""
        self.path = self.path.partition("?")[0]
        if self.path == HEALTH:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", "2")
            self.end_headers()
            return io.BytesIO(b"OK")
        self.path = "/index.html" if self.path == "/" else self.path
        if not _PAGE.fullmatch(self.path):
            self.send_error(HTTPStatus.NOT_FOUND, "There are pages of nights here, such as /2024-01-30.html")
            return None
        if self.path == "/index.html" and not os.path.exists(self.translate_path(self.path)):
            self.send_error(HTTPStatus.NOT_FOUND, _NONE_YET)
            return None
        return super().send_head()

    def end_headers(self) -> None:
        """Let no page be kept anywhere."""
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()


def make_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of the pages in a folder; port 0: any free one.

    Raises
    ------
    OSError
        The port is taken.
    """
    return ThreadingHTTPServer((HOST, port), partial(Handler, directory=str(folder)))


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.report_server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the nights leave their pages")
    parser.add_argument("--port", type=int, default=8090)
    arguments = parser.parse_args(argv)
    with make_server(arguments.folder, arguments.port) as server:
        server.serve_forever()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
