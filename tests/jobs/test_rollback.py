"""jobs.rollback on real tables and a real registry: what is shown, who is champion, kills in between, races."""

from __future__ import annotations

import sqlite3
from argparse import Namespace
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import mlflow
import pyarrow as pa
import pytest
from pyiceberg.expressions import EqualTo

from jobs import rollback
from jobs.analytics import analytics_file, write_analytics
from jobs.arms import Split
from jobs.command import Run
from jobs.errors import JobError
from jobs.experiment import Trial, experiment_rows
from jobs.gate import run_gate
from jobs.lakehouse import Lakehouse
from jobs.move_alias import move_alias
from jobs.night import Night
from jobs.publish import publish
from jobs.query import connect
from jobs.registry import CHAMPION, PREVIOUS, Registry
from jobs.rollback import roll_back
from jobs.schemas import DOMAIN_METRICS, RECOMMENDATIONS
from jobs.settings import Settings
from jobs.step_times import DONE, FAILED, NOT_ENDED, NOTHING, StepClock
from tests.conftest import SMALL

FIRST, SECOND, THIRD, FOURTH = (date(2024, 1, day) for day in (5, 6, 7, 8))


class Project:
    """Nights that go through gate's notes, publish and move_alias; versions are names without a model."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.lakehouse = Lakehouse(settings)
        self.lakehouse.create_tables()
        self.registry = Registry(settings)
        self.registry.client.create_registered_model(self.registry.name)
        with mlflow.start_run(experiment_id=self.registry.experiment_id) as run:
            self.mlflow_run = run.info.run_id

    def version(self, ds: date, run_id: str = "") -> str:
        tags = {"ds": ds.isoformat(), "syncrec.run_id": run_id or f"run-{ds}"}
        uri = mlflow.get_run(self.mlflow_run).info.artifact_uri
        made = self.registry.client.create_model_version(
            self.registry.name, f"{uri}/model", run_id=self.mlflow_run, tags=tags, description="Judged."
        )
        return str(made.version)

    def run(self, ds: date, run_id: str = "") -> Run:
        return Run(ds=ds, run_id=run_id or f"run-{ds}", settings=self.settings, arguments=Namespace())

    def decided(self, ds: date, version: str, *, promoted: bool, run_id: str = "") -> Run:
        """A night whose gate and score are done."""
        champion = self.registry.at_alias(CHAMPION)
        run = self.run(ds, run_id)
        listed = {"user_id": "u", "domain": "books", "rank": 1, "item_id": f"of-{ds}", "score": 1.0}
        listed |= {"source": "model", "model_version": version, "arm": "champion", "ds": ds}
        rows = pa.Table.from_pylist([listed], schema=RECOMMENDATIONS.arrow_schema)
        Night(run, self.lakehouse).note(
            recommendations_staged=self.lakehouse.stage_arrow(RECOMMENDATIONS.name, rows, ds, run.run_id),
            recommendations_count=1, served_version=version, reason="by the test",
            decision="promoted" if promoted else "refused",
            champion_before=champion.number if champion else None,
        )  # fmt: skip
        return run

    def night(self, ds: date, version: str, *, promoted: bool = True) -> None:
        run = self.decided(ds, version, promoted=promoted)
        publish(run)
        move_alias(run)

    def aliases(self) -> tuple[str | None, str | None]:
        found = [self.registry.at_alias(alias) for alias in (CHAMPION, PREVIOUS)]
        return found[0].number if found[0] else None, found[1].number if found[1] else None

    def nights(self) -> dict[date, dict[str, Any]]:
        rows = self.lakehouse.read_arrow("nights", self.lakehouse.current_snapshot("nights")).to_pylist()
        return {row["ds"]: row for row in rows}

    def shown(self) -> list[str]:
        with connect(self.settings) as connection:
            assert isinstance(connection, duckdb.DuckDBPyConnection)
            return [row[0] for row in connection.execute("select item_id from latest_recommendations").fetchall()]


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database without a row: making its tables takes seconds."""
    made = Settings(**{"state_dir": tmp_path_factory.mktemp("mlflow"), **SMALL})
    Registry(made).client.search_experiments()
    return Path(made.tracking_uri.removeprefix("sqlite:///"))


@pytest.fixture
def project(settings: Callable[..., Settings], empty_store: Path) -> Project:
    own = settings()
    file = Path(own.tracking_uri.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True)
    with closing(sqlite3.connect(empty_store)) as source, closing(sqlite3.connect(file)) as copy:
        source.backup(copy)
        copy.execute("delete from experiments")  # its artifacts lie elsewhere
        copy.commit()
    return Project(own)


@pytest.fixture
def three(project: Project) -> Project:
    """Version 1 served the first night; version 2 was promoted on the second and served the third, too."""
    one, two = project.version(FIRST), project.version(SECOND)
    project.night(FIRST, one)
    project.night(SECOND, two)
    project.night(THIRD, two, promoted=False)
    assert project.aliases() == ("2", "1") and project.shown() == [f"of-{THIRD}"]
    return project


def test_the_previous_champion_and_its_lists_are_back_and_nothing_is_lost(three: Project) -> None:
    before = three.nights()
    write_analytics(three.settings)
    (three.settings.state / "reports").mkdir()
    said = roll_back(three.settings, reason="readers complain")
    assert said.startswith(
        "champion: version 1; withdrawn: version 2; shown: the lists of 2024-01-05 instead of those of 2024-01-06"
    )
    assert three.aliases() == ("1", None) and three.shown() == [f"of-{FIRST}"]
    rows = three.nights()
    assert [rows[day]["decision"] for day in (FIRST, SECOND, THIRD)] == ["promoted", "rolled_back", "rolled_back"]
    said = (
        f"rolled back on {datetime.now(UTC):%Y-%m-%d} to version 1: readers complain (before: refused: by the test)"
    )
    assert said in rows[THIRD]["reason"]
    assert rows[FIRST] == before[FIRST]
    assert (three.settings.state / "reports/index.html").read_text(encoding="utf-8").count("↩ rolled back") == 2
    kept = three.lakehouse.read_arrow(RECOMMENDATIONS.name, three.lakehouse.current_snapshot(RECOMMENDATIONS.name))
    assert sorted(kept["item_id"].to_pylist()) == [f"of-{day}" for day in (FIRST, SECOND, THIRD)]
    version = three.registry.client.get_model_version(three.registry.name, "2")
    assert version.tags["rolled_back"] == "readers complain"
    assert version.description.startswith(
        f"Rolled back on {datetime.now(UTC):%Y-%m-%d} to version 1: readers complain."
    )
    assert version.tags["decision"] == "rolled_back" and version.description.endswith("\n\nJudged.")


def test_the_pages_of_withdrawn_nights_say_so_once(three: Project) -> None:
    write_analytics(three.settings)
    reports = three.settings.state / "reports"
    reports.mkdir()
    verdict = '<div class="verdict good" role="status">\n<p>✓ Published: nothing is wrong.</p>\n</div>'
    for day in (FIRST, SECOND):
        (reports / f"{day}.html").write_text(f"<body>\n<header>\n<h1>Night</h1>\n{verdict}\n</header>\n")
    roll_back(three.settings, reason="readers <b>complain</b>")
    rollback._show(three.settings)
    first, second = ((reports / f"{day}.html").read_text(encoding="utf-8") for day in (FIRST, SECOND))
    assert first == f"<body>\n<header>\n<h1>Night</h1>\n{verdict}\n</header>\n"
    assert second.count("Rolled back") == 1
    assert "verdict good" not in second and "<p>What was said then: ✓ Published: nothing is wrong.</p>" in second
    assert second.index("</h1>") < second.index("Rolled back") < second.index("</header>")
    assert "version 1: readers &lt;b&gt;complain" in second and "<b>" not in second
    assert not (reports / f"{THIRD}.html").exists()


def test_nights_that_tried_the_version_out_are_passed_over_too(project: Project) -> None:
    """Version 2 was the candidate of the second night, and is champion since the third."""
    one, two = project.version(FIRST), project.version(SECOND)
    project.night(FIRST, one)
    run = project.decided(SECOND, one, promoted=False)
    trial = Trial(split=Split(name="x", share=0.5), version=two)
    rows = experiment_rows(trial, one, {"champion": 1, "candidate": 1}, run.run_id)
    Night(run, project.lakehouse).note(experiment=rows)
    publish(run)
    project.night(THIRD, two)
    assert project.shown() == [f"of-{THIRD}"]
    said = roll_back(project.settings, reason="bad")
    assert f"the lists of {FIRST} instead of those of {SECOND} to {THIRD}" in said
    assert project.shown() == [f"of-{FIRST}"] and project.aliases() == ("1", None)
    assert [night["decision"] for night in project.nights().values()].count("rolled_back") == 1
    kept = project.lakehouse.read_arrow(
        "experiments", project.lakehouse.current_snapshot("experiments")
    ).to_pylist()
    assert {row["arm"]: row["outcome"] for row in kept} == {"champion": "served", "candidate": "rolled_back"}
    run = project.decided(FOURTH, one, promoted=False)
    Night(run, project.lakehouse).note(experiment=experiment_rows(trial, one, {}, run.run_id))
    with pytest.raises(JobError, match="version 2 was rolled back while this night worked"):
        publish(run)


def test_a_rollback_is_not_repeated_before_another_night_unless_a_version_is_named(project: Project) -> None:
    for day in (FIRST, SECOND, THIRD):
        project.night(day, project.version(day))
    roll_back(project.settings, reason="bad")
    assert project.aliases() == ("2", "1")
    rows = project.nights()
    for dry_run in (True, False):
        with pytest.raises(JobError, match=rf"complete: version 2 is champion.*{THIRD}.*bad.*too: --to 1$"):
            roll_back(project.settings, reason="again", dry_run=dry_run)
    assert project.aliases() == ("2", "1") and project.nights() == rows
    roll_back(project.settings, to="1", reason="that one, too")
    assert project.aliases() == ("1", None) and project.shown() == [f"of-{FIRST}"]


def test_a_dry_run_changes_nothing(three: Project) -> None:
    rows = three.nights()
    assert "would do: champion: version 1" in roll_back(three.settings, reason="", dry_run=True)
    assert three.aliases() == ("2", "1") and three.nights() == rows and three.shown() == [f"of-{THIRD}"]


@pytest.mark.parametrize(
    ("step", "call"),
    [("_withdraw", 1), ("_describe", 1), ("drop_alias", 1), ("drop_alias", 2), ("move_alias", 1), ("refresh", 1)],
)
def test_a_rollback_that_was_killed_can_be_run_again(
    three: Project, step: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """call 2: the step is done, the kill comes just after it."""
    write_analytics(three.settings)
    with monkeypatch.context() as patch:
        owner = Registry if step.endswith("alias") else rollback
        whole = getattr(owner, step)

        def killed(*arguments: Any, **named: Any) -> None:
            if call == 2:
                whole(*arguments, **named)
            raise KeyboardInterrupt

        patch.setattr(owner, step, killed)
        with pytest.raises(KeyboardInterrupt):
            roll_back(three.settings, reason="bad")
    if step == "refresh":  # all else is done
        with pytest.raises(JobError, match=r"no previous one \(the last rollback is complete\)"):
            roll_back(three.settings, reason="bad")
    else:
        assert roll_back(three.settings, reason="bad").startswith("champion: version 1; withdrawn: version 2")
    assert three.aliases() == ("1", None) and three.shown() == [f"of-{FIRST}"]
    assert " to version 1: bad." in three.registry.client.get_model_version("syncrec", "2").description
    with duckdb.connect(str(analytics_file(three.settings)), read_only=True) as connection:
        assert connection.sql("select item_id from latest_recommendations").fetchall() == [(f"of-{FIRST}",)]


def test_a_night_in_progress_with_the_withdrawn_version_publishes_nothing(three: Project) -> None:
    run = three.decided(FOURTH, "2", promoted=False)
    roll_back(three.settings, reason="bad")
    with pytest.raises(JobError, match=r"version 2 was rolled back while this night worked .* from the gate on"):
        publish(run)
    assert FOURTH not in three.nights() and three.shown() == [f"of-{FIRST}"]


def test_a_promotion_that_was_published_before_the_rollback_moves_no_alias_after_it(project: Project) -> None:
    one, two = project.version(FIRST), project.version(SECOND)
    project.night(FIRST, one)
    run = project.decided(SECOND, two, promoted=True)
    publish(run)
    project.registry.tag(two, rolled_back="bad")
    assert "2 was rolled back (bad)" in move_alias(run)
    assert project.aliases() == ("1", None)


def test_a_backfill_of_the_newest_night_moves_no_alias(project: Project) -> None:
    project.night(FIRST, project.version(FIRST))
    again = project.decided(FIRST, project.version(FIRST), promoted=True, run_id="backfill__2024-01-06")
    publish(again)
    assert move_alias(again) == "backfill: aliases stay"
    assert project.aliases() == ("1", None)
    assert project.nights()[FIRST]["served_version"] == "2"


def test_a_withdrawn_day_that_is_published_anew_counts_again_and_says_so(three: Project) -> None:
    roll_back(three.settings, reason="bad")
    again = three.decided(SECOND, "1", promoted=False, run_id="backfill__2024-01-05")
    assert publish(again).endswith("; a rollback had withdrawn the lists of this day: it counts again")
    assert three.nights()[SECOND]["decision"] == "refused" and three.shown() == [f"of-{SECOND}"]
    assert publish(again).endswith("scored by version 1")


def test_the_gate_of_a_past_night_names_who_was_champion_then(project: Project) -> None:
    for ds in (FIRST, SECOND):
        project.night(ds, project.version(ds))
    run = project.run(FIRST, "again")
    Night(run, project.lakehouse).pin("sequences", 1)
    assert run_gate(run) == "no_challenger; version 1 scores tonight"
    assert "a past night again: version 1 was champion then" in Night(run, project.lakehouse).get("reason")


@pytest.mark.parametrize(
    ("outcome", "message", "reason"),
    [
        (NOTHING, "training.every_days = 7", "training was not due: training.every_days = 7"),
        (FAILED, "no space left", "training failed: no space left"),
        (NOT_ENDED, "", "training did not end: it was killed, or is still at work"),
        (None, "", "training did not run"),
    ],
)
def test_the_gate_says_why_there_is_no_challenger(
    project: Project, outcome: str | None, message: str, reason: str
) -> None:
    project.night(FIRST, project.version(FIRST))
    run, other = project.run(SECOND, "untrained"), project.run(SECOND, "other")
    Night(run, project.lakehouse).pin("sequences", 1)
    for own, ended in ((run, outcome), (other, DONE)):
        if ended is not None:
            StepClock(project.lakehouse.warehouse, SECOND, own.run_id, "train").end(ended, message, None)
    assert run_gate(run) == "no_challenger; version 1 scores tonight"
    assert Night(run, project.lakehouse).get("reason") == reason


def test_the_gate_refuses_the_version_when_its_night_is_run_again(three: Project) -> None:
    roll_back(three.settings, reason="bad")
    run = three.run(SECOND)
    night = Night(run, three.lakehouse)
    night.pin("sequences", 1)
    whole = {"run_id": run.run_id, "split": "test", "metric": "ndcg@10", "low": 0.4, "high": 0.6, "cases": 500}
    rows = [
        {**whole, "ds": SECOND, "domain": domain, "role": role, "view": "served", "value": value}
        for domain in three.settings.domain_names
        for role, value in (("challenger", 0.5), ("champion", 0.1))
    ]
    table = pa.Table.from_pylist(rows, schema=DOMAIN_METRICS.arrow_schema)
    files = three.lakehouse.stage_arrow(DOMAIN_METRICS.name, table, SECOND, run.run_id)
    three.lakehouse.append(DOMAIN_METRICS.name, files, parent=None, ds=SECOND, run_id=run.run_id)
    assert run_gate(run) == "refused; version 1 scores tonight"
    checks = three.lakehouse.read_arrow("gate_checks", three.lakehouse.current_snapshot("gate_checks")).to_pylist()
    (decision,) = [row for row in checks if row["rule"] == "decision"]
    assert (decision["outcome"], decision["words"]) == ("refused", "version 2 was rolled back: bad")
    assert {row["challenger"] for row in checks} == {"2"} and {row["champion"] for row in checks} == {"1"}
    version = three.registry.client.get_model_version(three.registry.name, "2")
    assert version.tags["decision"] == "rolled_back" and version.description.startswith("Rolled back on ")


def test_the_gate_reads_what_its_own_run_measured_whoever_measured_after_it(project: Project) -> None:
    project.night(FIRST, project.version(FIRST))
    better, run = project.version(SECOND), project.run(SECOND)
    night = Night(run, project.lakehouse)
    night.pin("sequences", 1)
    for run_id, value in ((run.run_id, 0.5), ("another run", 0.1)):
        rows = [
            {"run_id": run_id, "split": "test", "metric": "ndcg@10", "cases": 500, "ds": SECOND, "domain": domain}
            | {"role": role, "view": "served", "value": number, "low": number, "high": number}
            for domain in project.settings.domain_names
            for role, number in (("challenger", value), ("champion", 0.1))
        ]
        table = pa.Table.from_pylist(rows, schema=DOMAIN_METRICS.arrow_schema)
        files = project.lakehouse.stage_arrow(DOMAIN_METRICS.name, table, SECOND, run_id)
        day = EqualTo("ds", SECOND.isoformat())
        snapshot = project.lakehouse.replace(DOMAIN_METRICS.name, day, files, ds=SECOND, run_id=run_id)
        if run_id == run.run_id:
            night.pin(DOMAIN_METRICS.name, snapshot)
    assert run_gate(run) == f"promoted; version {better} scores tonight"


def test_another_version_can_be_named_and_what_cannot_be_is_refused(three: Project) -> None:
    three.version(THIRD)
    roll_back(three.settings, to="3", reason="bad")
    assert three.aliases()[0] == "3" and three.shown() == [f"of-{FIRST}"]
    for to, words in (("2", r"version 2 was itself rolled back \(bad\)"), ("3", "is the champion already")):
        with pytest.raises(JobError, match=words):
            roll_back(three.settings, to=to, reason="again")
    with pytest.raises(JobError, match="has no version 99"):
        roll_back(three.settings, to="99", reason="again")


def test_without_an_earlier_night_the_lists_stay(project: Project) -> None:
    one = project.version(FIRST)
    project.night(FIRST, one)
    with pytest.raises(JobError, match="name the version to return to with --to"):
        roll_back(project.settings, reason="bad")
    said = roll_back(project.settings, to=project.version(SECOND), reason="bad")
    assert "no earlier night has any" in said and project.shown() == [f"of-{FIRST}"]


def test_where_no_night_has_run_nothing_is_made_by_looking(settings: Callable[..., Settings]) -> None:
    own = settings()
    with pytest.raises(JobError, match="no night has run yet"):
        roll_back(own, reason="bad", dry_run=True)
    assert not own.state.exists() or not [file for file in own.state.rglob("*") if file.is_file()]


def test_without_a_reason_nothing_is_done_and_the_plan_is_said(
    three: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollback, "load_settings", lambda file: three.settings)
    before = three.nights(), three.aliases()
    assert rollback.main(["--reason", " "]) == 1
    said = capsys.readouterr().err
    assert said.startswith('error: rollback: say why: --reason "..."') and "; would do: champion: version 1" in said
    assert (three.nights(), three.aliases()) == before
    assert rollback.main(["--reason", "bad"]) == 0
    assert three.aliases() == ("1", None)


def test_nothing_to_roll_back(project: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(JobError, match="there is no champion to roll back"):
        roll_back(project.settings, reason="bad")
    assert rollback.main(["--config", str(tmp_path / "absent.toml"), "--reason", "bad"]) == 1
    assert "absent.toml" in capsys.readouterr().err
