"""The nightly page: what it says about a published, a failed and a first night; strangers' ids stay text."""

import re
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import mlflow
import pytest

from jobs.lakehouse import Lakehouse
from jobs.report import attach_to_mlflow, main, render
from jobs.report_figures import transfer_figures
from jobs.settings import load_settings
from tests.sql.planted import D29, D30, D31, HOSTILE, fill, put, write_config

VOID = {"meta", "link", "br", "img", "hr"}


class Page(HTMLParser):
    """The page as tags and text; balanced or it fails."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.html = file.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.feed(self.html)
        assert self.open == []
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.pieces.append(data)


@pytest.fixture
def config(reported: Path) -> Path:
    return reported


def page(config: Path, name: date | str) -> Page:
    return Page(config.parent / "state" / "reports" / f"{name}.html")


def test_the_closing_line_says_where_the_page_is(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "--ds", "2024-01-30"]) == 0
    closing = capsys.readouterr().out.splitlines()[-1]
    assert str(config.parent / "state" / "reports" / "2024-01-30.html") in closing


def test_a_published_night_shows_decision_transfer_quality_data_lists_and_audits(config: Path) -> None:
    text = page(config, D30).text
    assert "✓ Published: nothing is wrong." in text
    assert "promoted : served ndcg@10 rose in every domain" in text
    assert "books ▲ help +0.040 +0.030 to +0.050 +0.050" in text
    assert "toys ▼ hurt −0.020 −0.030 to −0.010" in text
    assert "“Served” is what users get of it" in text and "which serves" not in text
    said = (
        "As served, no domain is clearly worse than its single view alone; books gains."
        " The cross view alone would hurt toys: it serves none of these."
    )
    assert said in text and text.index(said) < text.index("toys ▼ hurt")
    assert "Served views, chosen in ndcg@10 on the validation cases" in text
    assert "books blend +0.040 +0.030 to +0.050 +0.050 +0.040 to +0.060 100" in text
    assert "toys single −0.020 −0.030 to −0.010 +0.010 0.000 to +0.020 100" in text
    assert "0.300 0.290 to 0.310 0.340 0.330 to 0.350 0.290 0.280 to 0.300 0.100" in text, "books, all columns"
    assert "books champion ✓ passed 0.100 0.200 −0.100 −0.150 to −0.050 60.0 % 30" in text
    assert "toys champion ✗ objection 0.100 0.200 −0.100 −0.150 to −0.050 5.0 % 30" in text
    assert "broken_line toys 1 100.0 % toys.csv.gz" in text
    assert "toys 3 4 25.0 % 1 100.0 % of 2 100.0 %" in text
    assert "every user has a list" in text


def test_the_sections_come_in_the_order_in_which_they_are_asked(config: Path) -> None:
    html = page(config, D30).html
    ids = re.findall(r'<h2 id="(\w+)"', html)
    assert ids == ["decision", "transfer", "quality", "data", "lists", "users", "times", "audits"]
    assert html.index('class="verdict') < html.index("<h2")


def test_time_and_memory_of_each_step_stand_beside_what_is_usual(config: Path) -> None:
    text = page(config, D30).text
    assert "7 min 04 s of work in 3 steps." in text
    assert "ingest ✓ done 24.0 s 20.0 s 1.5 GiB 1.0 GiB" in text
    assert "train ✓ done attempt 2 6 min 40 s 30.0 s 2.5 GiB 2.0 GiB" in text
    assert "wait_for_landing ✓ done 0.5 s – 0.2 GiB –" in text


def test_the_kept_epoch_is_said_and_when_it_is_the_last_one_that_more_may_change_the_answer(config: Path) -> None:
    assert "Training kept epoch 3 of at most 5." in page(config, D30).text
    last = (
        "epoch 5 of at most 5, the last one allowed (training.epochs, of a warm start training.warm_epochs): more"
    )
    assert f"Training kept {last} might be better, and say otherwise who is hurt." in page(config, D31).text


def test_a_step_that_failed_is_said_at_the_top_with_its_cause(config: Path, tmp_path: Path) -> None:
    failed = page(config, D31).text
    top = failed[: failed.index("What serves")]
    assert "✗ Step score failed: audit failed, nothing was published." in top
    assert "score ✗ failed 12.0 s" in failed
    file = write_config(tmp_path)
    lakehouse = fill(load_settings(file), nights=(D29,))
    step = {"step": "train", "attempt": 3, "run_id": "run-29", "started_at": datetime(2024, 1, 30, tzinfo=UTC)}
    put(lakehouse, "steps", D29, [{**step, "outcome": "not ended", "message": "", "ds": D29}])
    assert main(["--config", str(file), "--ds", "2024-01-29"]) == 0
    text = page(file, D29).text
    assert "✓ Published, with 1 thing to look at." in text
    assert "! Step train did not end (attempt 3): it was killed, or is still at work." in text


def test_late_events_are_counted(config: Path) -> None:
    assert "books 2 2 2 1 2024-01-27" in page(config, D29).text


def test_a_failed_night_says_at_the_top_what_stopped_it(config: Path) -> None:
    failed = page(config, D31)
    top = failed.text[: failed.text.index("What serves")]
    assert "✗ Not published: users keep the recommendations of 2024-01-30 ." in top
    assert "5 of 12 lists, against the rule “no seen item where a domain does not repeat”" in top
    assert "✗ broken recommendations" in failed.text
    assert "No recommendations are published for this night." in failed.text
    assert "books ▲ help +0.030" in failed.text, "what was measured before it failed is shown"


def test_the_arms_of_an_experiment_and_a_candidate_that_was_not_served_are_told(
    config: Path, tmp_path: Path
) -> None:
    text = page(config, D29).text
    assert "Experiment wider: who is shown whose lists" in text
    assert "champion 1 50.0 % 2 served candidate 0 50.0 % 2 served" in text
    assert "Experiment" not in page(config, D30).text
    file = write_config(tmp_path)
    lakehouse = fill(load_settings(file))
    row = {"experiment": "wider", "arm": "candidate", "share": 0.5, "users": 0, "ds": D30, "run_id": "run-30"}
    reason = "version 7 was rolled back (<bad>)"
    put(lakehouse, "experiments", D30, [{**row, "outcome": "not served", "reason": reason}])
    assert main(["--config", str(file), "--ds", "2024-01-30"]) == 0
    text = page(file, D30).text
    assert f"! Experiment wider: the candidate was not served: {reason}." in text
    assert f"candidate – 50.0 % 0 not served: {reason}" in text


def test_the_first_night_has_no_champion_and_no_night_before(config: Path) -> None:
    first = page(config, D29)
    assert "none: the first night" in first.text
    links = [attributes["href"] for tag, attributes in first.tags if tag == "a"]
    assert links == ["index.html", f"{D30}.html"], "all nights, the night after"


def test_a_night_without_training_says_so(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    lakehouse = fill(load_settings(config), nights=(D29,))
    night = lakehouse.read_arrow("nights", lakehouse.current_snapshot("nights")).to_pylist()[0]
    put(lakehouse, "nights", D29, [night | {"decision": "no_challenger", "challenger": None, "reason": "no GPU"}])
    put(lakehouse, "domain_metrics", D29, [])
    assert main(["--config", str(config), "--ds", "2024-01-29"]) == 0
    text = page(config, D29).text
    assert "✓ Published, with 2 things to look at." in text
    assert "No model was trained; version 1 served: no GPU." in text
    assert "No version was trained and measured tonight." in text
    step = {
        "step": "train",
        "attempt": 1,
        "run_id": night["run_id"],
        "started_at": datetime(2024, 1, 30, tzinfo=UTC),
    }
    due = "training.every_days = 7 and the newest version is of 2024-01-28"
    put(lakehouse, "steps", D29, [{**step, "outcome": "nothing to do", "message": due, "ds": D29}])
    assert main(["--config", str(config), "--ds", "2024-01-29"]) == 0
    text = page(config, D29).text
    assert "✓ Published: nothing is wrong." in text, "not due: nothing to look at"
    assert due in text
    put(lakehouse, "steps", D29, [{**step, "outcome": "failed", "message": "no GPU", "ds": D29}])
    assert main(["--config", str(config), "--ds", "2024-01-29"]) == 0
    text = page(config, D29).text
    assert "No model was trained; version 1 served: no GPU." in text
    assert "Step train failed" not in text, "one fact, one sentence"
    put(lakehouse, "steps", D29, [])
    again = {"decision": "no_challenger", "reason": "a past night again: version 1 was champion then"}
    put(lakehouse, "nights", D29, [night | again])
    assert main(["--config", str(config), "--ds", "2024-01-29"]) == 0
    assert "✓ Published, with 1 thing to look at." in page(config, D29).text, "as planned: nothing to look at"


def test_what_users_get_is_told_of_the_version_that_serves_not_of_the_refused_one(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    lakehouse = fill(load_settings(config))
    nights = lakehouse.read_arrow("nights", lakehouse.current_snapshot("nights")).to_pylist()
    night = next(row for row in nights if row["ds"] == D30)
    refused = {"served_version": "1", "decision": "refused", "reason": "the gate is on hold", "challenger": "2"}
    put(lakehouse, "nights", D30, [night | refused])
    assert main(["--config", str(config), "--ds", "2024-01-30"]) == 0
    text = page(config, D30).text
    assert "of the version trained tonight (version 2; users get the lists of version 1): above zero" in text
    assert "“Served” is what users get where it serves" in text
    ours = "Version 1, which serves: as served, no domain is clearly worse than its single view alone; books gains."
    theirs = (
        "Version 2, trained tonight: if it served, no domain is clearly worse than its single view alone; books"
    )
    assert ours in text and theirs in text and text.index(ours) < text.index(theirs)
    arm = {"experiment": "a", "arm": "candidate", "share": 0.5, "threshold": "8", "model_version": "2", "users": 2,
           "outcome": "served", "reason": "", "run_id": night["run_id"], "ds": D30}  # fmt: skip
    put(lakehouse, "experiments", D30, [arm])
    assert main(["--config", str(config), "--ds", "2024-01-30"]) == 0
    text = page(config, D30).text
    assert "(version 2; users get the lists of version 1, those of the candidate’s arm its): above zero" in text
    assert "Version 2, trained tonight: as served, no domain" in text and "if it served" not in text


def test_what_nobody_gets_is_not_called_what_users_get(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    lakehouse = fill(load_settings(config))
    nights = lakehouse.read_arrow("nights", lakehouse.current_snapshot("nights")).to_pylist()
    night = next(row for row in nights if row["ds"] == D30)
    put(lakehouse, "nights", D30, [night | {"decision": "rolled_back", "reason": "rolled back to version 1"}])
    for day in (D30, D31):  # the one withdrawn, the other not published
        assert main(["--config", str(config), "--ds", day.isoformat()]) == 0
        text = page(config, day).text
        assert "If it served, " in text and "As served" not in text
        assert "“Served” is what users get where it serves" in text


def test_a_night_that_another_run_published_names_the_run_that_was_stopped(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    lakehouse = fill(load_settings(config))
    night = lakehouse.read_arrow("nights", lakehouse.current_snapshot("nights")).to_pylist()[0]
    put(lakehouse, "nights", D31, [night | {"ds": D31, "run_id": "run-31-again"}])
    assert main(["--config", str(config), "--ds", "2024-01-31"]) == 0
    text = page(config, D31).text
    assert "✓ Published, with" in text
    assert "! Another run of this day, run-31, was stopped. Audit of recommendations failed" in text
    assert "✗ No recommendations for books, toys." in text


def test_a_night_of_which_nothing_is_known_gets_a_page_too(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    Lakehouse(load_settings(config)).create_tables()
    assert main(["--config", str(config), "--ds", "2024-01-29"]) == 0
    assert "✗ Not published: there are no recommendations yet." in page(config, D29).text
    assert "✗ not published" in page(config, "index").text


def test_a_day_of_the_history_is_no_failed_night(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "--ds", "2024-01-25"]) == 1
    assert "2024-01-25 is no night but history: the first night is 2024-01-" in capsys.readouterr().err
    assert not (config.parent / "state" / "reports" / "2024-01-25.html").exists()


def test_a_day_of_which_nothing_is_known_after_the_first_night_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config), "--ds", "2024-02-15"]) == 1
    assert "2024-02-15 is no night: no step of it ran, and no folder of it is in " in capsys.readouterr().err
    assert not (config.parent / "state" / "reports" / "2024-02-15.html").exists()


def test_before_any_table_it_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(write_config(tmp_path)), "--ds", "2024-01-29"]) == 1
    assert "no night has run yet: make nightly" in capsys.readouterr().err


def test_ids_of_strangers_are_text_and_the_page_loads_nothing(config: Path) -> None:
    night = page(config, D30)
    assert HOSTILE in night.text, "the id is shown as it is"
    assert "<script" not in night.html
    assert not [tag for tag, _ in night.tags if tag in ("script", "img", "link", "iframe", "object")]
    links = [value for _, attributes in night.tags for key, value in attributes.items() if key in ("href", "src")]
    assert all(re.fullmatch(r"#[\w-]+|[\d-]+\.html|index\.html", link or "") for link in links)
    assert "default-src 'none'" in night.html


def test_every_domain_has_a_figure_with_words_for_it(config: Path) -> None:
    night = page(config, D30)
    figures = [attributes for tag, attributes in night.tags if tag == "figure"]
    assert [figure["role"] for figure in figures] == ["img"] * 4
    words = [figure["aria-label"] for figure in figures]
    assert words[0] == "NTG of books by night: 29 Jan +0.020, 30 Jan +0.040; lambda below."
    assert "books: challenger 0.340, champion 0.300, single view 0.290, popularity 0.100;" in (words[2] or "")
    assert words[3] == "Minutes by step: wait_for_landing 0.0, ingest 0.4, train 6.7."
    assert night.html.count("<svg") == 4
    ids = [attributes["id"] for _, attributes in night.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_a_page_links_to_the_nights_before_and_after_it_however_often_it_is_written(config: Path) -> None:
    for again in (D30, D29, D30):
        assert main(["--config", str(config), "--ds", str(again)]) == 0
    found = [
        re.findall(r'href="([^"]+)"', page(config, day).html.split("<nav", 1)[1].split("</nav>")[0])
        for day in (D29, D30, D31)
    ]
    ends = [[f"{day}.html" for day in days] for days in ([D30], [D29, D31], [D30])]
    assert found == [["index.html", *days] for days in ends]


@pytest.mark.parametrize(
    ("last", "named"),
    [
        (date(2024, 2, 2), ["30 Jan", "31 Jan", "01 Feb", "02 Feb"]),
        (date(2024, 2, 4), ["30 Jan", "01 Feb", "04 Feb"]),
    ],
)
def test_up_to_four_nights_are_all_named_below_the_figure_and_a_withdrawn_one_is_marked(
    last: date, named: list[str]
) -> None:
    first = date(2024, 1, 30)
    gap = {"ntg_ndcg": 0.01, "ntg_ndcg_low": 0.0, "ntg_ndcg_high": 0.02, "lambda_weight": 1.0}
    days = [first + timedelta(n) for n in range((last - first).days + 1)]
    rows = [{"ds": day, "decision": "promoted", **gap} for day in days]
    [figure] = transfer_figures({"toys": rows})
    assert re.findall(r">(\d\d \w{3})<", figure["svg"]) == named
    assert "rolled back" not in figure["alt"]
    [marked] = transfer_figures({"toys": [rows[0], rows[1] | {"decision": "rolled_back"}, *rows[2:]]})
    assert "31 Jan +0.010 (rolled back)" in marked["alt"]
    assert marked["svg"].count("<use") == figure["svg"].count("<use"), "a mark a night, of either form"
    assert marked["svg"].count("stroke: var(--ink)") > figure["svg"].count("stroke: var(--ink)"), (
        "a mark of its own"
    )


def test_the_figures_follow_the_colours_of_the_page(config: Path) -> None:
    html = page(config, D30).html
    assert "var(--gap)" in html[html.index("<svg") :]
    assert "prefers-color-scheme: dark" in html


def test_the_index_lists_all_nights_newest_first(config: Path) -> None:
    index = page(config, "index")
    links = [attributes["href"] for tag, attributes in index.tags if tag == "a"]
    assert links == ["2024-01-31.html", "2024-01-30.html", "2024-01-29.html"]
    assert index.text.count("✓ published") == 2
    assert "served ndcg@10 rose in every domain 7 min 04 s" in index.text
    assert "2024-01-31 ✗ not published" in index.text


def test_the_index_calls_no_night_published_that_was_rolled_back() -> None:
    night = {"day": "2024-01-30", "page": True, "published": True, "version": "1", "decision": "rolled_back"}
    text = render("index", nights=[night | {"reason": "rolled back to version 1: bad", "seconds": 5.0}])
    assert "↩ rolled back" in text and "✓ published" not in text


def test_the_page_becomes_an_artifact_of_the_nights_training_run(tmp_path: Path) -> None:
    settings = load_settings(write_config(tmp_path))
    report = tmp_path / "2024-01-30.html"
    report.write_text("page")
    assert not attach_to_mlflow(settings, D30, "run-30", report), "no store: nothing is created"
    assert not (settings.state / "mlflow").exists()
    (settings.state / "mlflow").mkdir(parents=True)
    client = mlflow.MlflowClient(tracking_uri=settings.tracking_uri)
    experiment = client.create_experiment(settings.mlflow.experiment, artifact_location=settings.artifact_root)
    runs = {
        name: client.create_run(experiment, tags={"ds": "2024-01-30", "syncrec.run_id": name}).info.run_id
        for name in ("run-30", "another")
    }
    report.write_text(
        '<nav aria-label="x"><a href="index.html">All</a></nav>as on <a href="2024-01-29.html">29</a>'
    )
    assert attach_to_mlflow(settings, D30, "run-30", report)
    copy = client.download_artifacts(runs["run-30"], "report/2024-01-30.html")
    assert Path(copy).read_text() == "as on 29", "no link leads out of MLflow"
    tags = client.get_run(runs["run-30"]).data.tags
    assert tags["report"] == "report/2024-01-30.html" and "how the night went" in tags["mlflow.note.content"]
    assert [file.path for file in client.list_artifacts(runs["run-30"], "report")] == ["report/2024-01-30.html"]
    assert client.list_artifacts(runs["another"], "report") == []
    assert not attach_to_mlflow(settings, D31, "run-31", report), "no run of that day"


def test_a_broken_mlflow_does_not_fail_the_report(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SYNCREC_MLFLOW__TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert main(["--config", str(config), "--ds", "2024-01-30"]) == 0
    assert "not attached to MLflow" in capsys.readouterr().out
