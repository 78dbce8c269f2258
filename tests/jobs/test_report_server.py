"""The server of the nights' pages: pages and nothing else, to this machine alone."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.pages import _get
from jobs.report_server import make_server

DAY = "2024-01-30.html"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "state" / "reports"
    made.mkdir(parents=True)
    (tmp_path / "state" / "secret.html").write_text("a password")
    (made / "notes.txt").write_text("of a colleague")
    return made


@pytest.fixture
def port(folder: Path) -> Iterator[int]:
    with make_server(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()


def ask(port: int, path: str, host: str = "", method: str = "GET") -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    found = answer.status, answer.read().decode(), answer.headers
    connection.close()
    return found


def test_it_gives_pages_as_they_are_now_and_keeps_them_nowhere(folder: Path, port: int) -> None:
    assert _get(f"http://127.0.0.1:{port}/health") == "OK"
    status, text, _ = ask(port, "/")
    assert status == 404 and "No night has left a page yet" in text
    (folder / "index.html").write_text("all nights")
    (folder / DAY).write_text("one night")
    assert ask(port, "/")[:2] == ask(port, "/index.html?x=1")[:2] == (200, "all nights")
    assert ask(port, f"/{DAY}", host="127.0.0.1")[0] == ask(port, f"/{DAY}", host="LocalHost:1")[0] == 200
    status, text, headers = ask(port, f"/{DAY}", host="localhost:1")
    assert (status, text) == (200, "one night")
    assert headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"
    (folder / DAY).write_text("one night, without somebody")
    assert ask(port, f"/{DAY}")[:2] == (200, "one night, without somebody")
    (folder / DAY).unlink()
    assert ask(port, f"/{DAY}")[0] == 404


@pytest.mark.parametrize(
    "path",
    ["/notes.txt", "/../secret.html", "/%2e%2e/secret.html", "//etc/passwd", "/.", "/2024-01-30.html/", "/x.html"],
)
def test_it_gives_nothing_else(port: int, path: str) -> None:
    status, text, _ = ask(port, path)
    assert status == 404 and "colleague" not in text and "password" not in text


@pytest.mark.parametrize("host", ["rebound.example", "rebound.example:80", "127.0.0.1.example:80", ":80"])
def test_a_page_elsewhere_that_points_its_name_here_gets_nothing(folder: Path, port: int, host: str) -> None:
    (folder / DAY).write_text("one night")
    status, text, _ = ask(port, f"/{DAY}", host=host)
    assert status == 403 and "one night" not in text


def test_it_takes_nothing_and_listens_to_this_machine(folder: Path, port: int) -> None:
    assert ask(port, "/index.html", method="POST")[0] == ask(port, "/index.html", method="DELETE")[0] == 501
    with make_server(folder, 0) as other:
        assert other.server_address[0] == "127.0.0.1"
