"""Take users out of what people read: the nightly pages, their copies in MLflow, the logs; and scratch of Spark."""

from __future__ import annotations

import html
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.errors import JobError
from jobs.forget_person import People
from jobs.mlflow_store import no_store
from jobs.night_files import write_whole
from jobs.settings import Settings

_ARTICLE = re.compile(r'<article class="user">\s*<h3>(.*?)\s*<small>.*?</article>', re.DOTALL)
_GONE = '<article class="user"><h3>removed</h3><p>This user was removed on request.</p></article>'


def without_users(page: str, people: People) -> str:
    """A nightly page without the sections of the users."""
    return _ARTICLE.sub(lambda found: _GONE if html.unescape(found[1]).strip() in people.ids else found[0], page)


def _left(page: str, people: People) -> bool:
    return page != without_users(page, people) or people.mentioned_freely(html.unescape(page))


def find_pages(settings: Settings, people: People) -> list[Path]:
    """The pages below <state_dir>/reports that show one of the users."""
    pages = sorted((settings.state / "reports").glob("*.html"))
    return [page for page in pages if _left(page.read_text(encoding="utf-8"), people)]


def forget_page(page: Path, people: People) -> None:
    """Cut the users' sections out of a page."""
    write_whole(page, without_users(page.read_text(encoding="utf-8"), people))


def find_logs(settings: Settings, people: People) -> list[Path]:
    """The logs below the state folder with a line that names one of the users."""
    found = []
    for folder in (settings.state / "logs", settings.state / "airflow" / "logs"):
        for log in sorted(path for path in folder.rglob("*.log") if path.is_file()):
            with log.open(encoding="utf-8", errors="replace", newline="") as lines:
                if any(people.mentioned_freely(line) for line in lines):
                    found.append(log)
    return found


def forget_log(log: Path, people: People) -> None:
    """Drop the lines of a log that name one of the users."""
    with log.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
        kept = [line for line in lines if not people.mentioned_freely(line)]
    beside = log.with_name(f".{log.name}.forget")
    try:
        beside.write_text("".join(kept), encoding="utf-8", errors="surrogateescape", newline="")
        beside.replace(log)
    finally:
        beside.unlink(missing_ok=True)


def find_scratch(settings: Settings) -> list[Path]:
    """What Spark jobs that were killed left: shuffle files hold users, packed in ways that nobody can search."""
    folder = settings.state / "spark" / "local"
    return sorted(folder.iterdir()) if folder.is_dir() else []


# --- MLflow ---------------------------------------------------------------------------------------------


class Copies:
    """The copies of nightly pages among the artifacts of MLflow's runs, also of deleted runs.

    Raises
    ------
    JobError
        MLflow cannot be reached.
    """

    def __init__(self, settings: Settings, people: People) -> None:
        self.settings, self.people = settings, people

    def find(self) -> list[tuple[str, str]]:
        """Run ids and artifact paths of the pages that show one of the users."""
        with _readable():
            return [(run, path) for run, path in self._pages() if _left(self._read(run, path), self.people)]

    def forget(self, run: str, path: str) -> None:
        """Replace a page by one without the users."""
        page = without_users(self._read(run, path), self.people)
        with tempfile.TemporaryDirectory() as folder, _readable():
            file = Path(folder) / Path(path).name
            file.write_text(page, encoding="utf-8")
            self._client().log_artifact(run, str(file), str(Path(path).parent))

    def _client(self) -> Any:
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=self.settings.tracking_uri)

    def _pages(self) -> Iterator[tuple[str, str]]:
        if no_store(self.settings.tracking_uri):
            return
        from mlflow.entities import ViewType

        client, token = self._client(), None
        experiment = client.get_experiment_by_name(self.settings.mlflow.experiment)
        while experiment is not None:
            runs = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL, page_token=token)
            for run in runs:
                for artifact in client.list_artifacts(run.info.run_id, "report"):
                    if artifact.path.endswith(".html"):
                        yield run.info.run_id, artifact.path
            if not (token := runs.token):
                return

    def _read(self, run: str, path: str) -> str:
        with tempfile.TemporaryDirectory() as folder, _readable():
            return Path(self._client().download_artifacts(run, path, folder)).read_text(encoding="utf-8")


@contextmanager
def _readable() -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise JobError(f"MLflow's copies of the reports cannot be searched: {error}") from error
