"""The commonest mistakes of a newcomer: each is answered in one or two lines that say what to do, without a trace.

More of them where they belong: a wrong column, time unit or packing in test_ingest.py and test_readers.py; an
incomplete day in test_wait_for_landing.py; steps out of order in test_night.py; two launchers in test_nightly.py;
the study kit's in tests/syncrec_model/test_study_log.py.
"""

from __future__ import annotations

import errno
import gzip
import re
import socket
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from py4j.java_gateway import GatewayParameters, JavaGateway
from py4j.protocol import Py4JError

from jobs import analytics, forget, nightly, pages, query, rollback
from jobs.command import Run, run_job
from jobs.errors import JobError
from jobs.lakehouse import Lakehouse
from jobs.landing import LandingFile, csv_header, find_files
from jobs.machine_errors import machine_trouble
from jobs.model_settings import check_options, training_config
from jobs.readers import _parquet_types
from jobs.settings import load_settings
from jobs.spark import find_java
from jobs.train import _check_device

CONFIG = """
state_dir = "state"
[night]
bootstrap_through = 2024-01-28
[domains.books]
[domains.toys]
[[sources]]
name = "books"
domain = "books"
files = "*.csv"
format = "csv"
header = true
user = "u"
item = "i"
time = "t"
time_unit = "s"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "shop.toml").write_text(CONFIG)
    monkeypatch.setenv("SYNCREC_HOME", str(tmp_path))
    monkeypatch.setenv("SYNCREC_CONFIG", "shop.toml")
    monkeypatch.setenv("SYNCREC_AIRFLOW", sys.executable)  # never started here
    return tmp_path


def edited(old: str, new: str) -> Callable[[Path], None]:
    def edit(home: Path) -> None:
        assert old in CONFIG
        (home / "shop.toml").write_text(CONFIG.replace(old, new, 1))

    return edit


def landed(*days: str) -> Callable[[Path], None]:
    def land(home: Path) -> None:
        for day in days:
            (home / "state/landing" / day).mkdir(parents=True)

    return land


def nothing(home: Path) -> None:
    """The project as it is."""


def damaged_table(home: Path) -> None:
    """A table without a column, whatever took it away: the state says that it is of today (else: tests/upgrade)."""
    lakehouse = Lakehouse(load_settings())
    lakehouse.create_tables()
    with lakehouse.table("recommendations").update_schema(allow_incompatible_changes=True) as update:
        update.delete_column("arm")


Mistake = tuple[Callable[[Path], None], Callable[[list[str]], int], list[str], str]
MISTAKES: dict[str, Mistake] = {
    "no configuration file": (nothing, nightly.main, ["--config", "shp.toml"], "no configuration file .*--config"),
    "not TOML": (edited("[night]", "[night"), nightly.main, [], "is not valid TOML: .*line 3"),
    "a setting that is misspelt": (
        edited("[night]", "[training]\nepoch = 3\n[night]"), nightly.main, [],
        r"training.epoch: there is no setting 'epoch': did you mean epochs\?",
    ),
    "an option where settings are": (
        edited("[night]", "[training]\npatience = 4\n[night]"), nightly.main, [],
        r"there is no setting 'patience' here: options of the training go into \[training.options\]",
    ),
    "a setting that is given twice": (
        edited("[night]", "[night]\na = 1\na = 2\n[other]"), nightly.main, [], r"is not valid TOML: [^;]*$",
    ),
    "a size without its unit": (
        edited("[night]", "[spark]\ndriver_memory = '4 GB'\n[night]"), nightly.main, [],
        "'4 GB' is not written as a number and k, m, g or t, such as 4g",
    ),
    "a section that is misspelt": (
        edited("[night]", "[trainig]\nepochs = 3\n[night]"), nightly.main, [], "did you mean training",
    ),
    "a section of another level": (
        edited("[domains.books]", "[domain.books]"), nightly.main, [],
        r"domain: there is no setting 'domain': did you mean domains\?",
    ),
    "a day that TOML does not read": (
        edited("[night]", "[night]\nbootstrap_through = 2025-4-9\n[other]"), nightly.main, [],
        "is not valid TOML: .*a day is written 2024-03-01",
    ),
    "a value of the wrong kind": (
        edited("[night]", "[training]\nepochs = 'ten'\n[night]"), nightly.main, [], "training.epochs: .*integer",
    ),
    "an unknown time unit": (edited('"s"', '"seconds"'), nightly.main, [], "time_unit .*'s', 'ms', 'us' or"),
    "a domain that is not configured": (
        edited('domain = "books"', 'domain = "bikes"'), nightly.main, [], r"has no \[domains.bikes\]",
    ),
    "header and columns": (
        edited("header = true", 'header = true\ncolumns = ["u"]'), nightly.main, [],
        "either header = true or a list of columns",
    ),
    "an empty landing folder": (nothing, nightly.main, [], "no landing day in .*: put each day's files"),
    "all days are history": (
        landed("2024-01-02", "2024-01-20"), nightly.main, [],
        r"2024-01-02 to 2024-01-20\) are history, be an earlier day",
    ),
    "a query before the first night": (nothing, query.main, ["promotions"], "no night has run yet: make nightly"),
    "a statement where a query's name belongs": (
        nothing, query.main, ["select 1"], "no query 'select 1'; .*for a statement of your own: the prompt",
    ),
    "a query of an unknown name": (nothing, query.main, ["ntg"], "no query 'ntg'; ready are: .*ntg_by_day"),
    "analytics before the first night": (nothing, analytics.main, [], "no night has run yet: make nightly"),
    "forgetting before the first night": (nothing, forget.main, ["--user-id", "ann"], "no night has run yet"),
    "a rollback before the first night": (nothing, rollback.main, [], "no night has run yet: make nightly"),
    "a table that somebody changed": (
        damaged_table, nightly.main, [], "recommendations .* lacks arm, .*: restore it, or .* new state_dir",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_in_a_line_that_says_what_to_do(
    name: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrange, command, arguments, said = MISTAKES[name]
    arrange(home)
    code = command(arguments)
    printed = capsys.readouterr()
    text = printed.err if code else printed.out
    lines = [line for line in text.splitlines() if "INFO" not in line]
    assert code == (0 if name == "all days are history" else 1)
    assert "Traceback" not in text and "Value error" not in text
    assert len(lines) <= 2, lines
    assert re.search(said, text), text


def test_a_number_of_nights_that_is_none_is_said_in_plain_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        nightly.main(["--nights", "abc"])
    assert "argument --nights: 'abc' is no whole number from 1 on" in capsys.readouterr().err


def test_a_project_of_one_domain_is_warned_before_its_night(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="syncrec"):
        check_options(load_settings())
        assert not caplog.messages
        edited("[domains.toys]\n", "")(home)
        check_options(load_settings())
    assert caplog.messages == ["warning: only [domains.books]: one domain has no other to learn from"]


# --- files ----------------------------------------------------------------------------------------------


@pytest.fixture
def landing(home: Path) -> Path:
    folder = home / "state/landing/2024-01-28"
    folder.mkdir(parents=True)
    return folder


def file_of(landing: Path, name: str) -> LandingFile:
    (source,) = load_settings().sources
    return LandingFile(landing / name, date(2024, 1, 28), source)


def test_a_day_without_its_marker_says_how_to_do_without(landing: Path) -> None:
    (landing / "books.csv").touch()
    with pytest.raises(JobError, match=r'no marker file _SUCCESS .*without such a sender: \[landing\] marker = ""'):
        find_files(landing.parent, [date(2024, 1, 28)], load_settings().sources, "_SUCCESS")


def test_a_header_without_the_column_lists_those_that_are_there(landing: Path) -> None:
    (landing / "books.csv").write_text("user,item,t\n")
    with pytest.raises(JobError, match=r"no column 'u', 'i'; its header names user, item, t. Correct the file or"):
        csv_header(file_of(landing, "books.csv"))


def test_numbers_where_the_settings_say_timestamp(landing: Path) -> None:
    pq.write_table(pa.table({"u": ["a"], "i": ["b"], "t": [1706400000]}), landing / "books.csv")
    file = file_of(landing, "books.csv")
    source = file.source.model_copy(update={"format": "parquet", "time_unit": "timestamp", "header": False})
    with pytest.raises(JobError, match=r"holds numbers .* set s, ms or us"):
        _parquet_types(LandingFile(file.path, file.day, source))


def test_gzip_by_another_name_and_a_day_without_its_marker(landing: Path) -> None:
    (landing / "books.csv").write_bytes(gzip.compress(b"u,i,t\n"))
    with pytest.raises(JobError) as caught:
        find_files(landing.parent, [file_of(landing, "books.csv").day], load_settings().sources, "_SUCCESS")
    assert "gzip, but not named .gz; rename it" in str(caught.value)
    assert "has no marker file _SUCCESS" in str(caught.value)


# --- the machine ----------------------------------------------------------------------------------------


def test_no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JobError, match="needs Java and none was found: install Java 17"):
        find_java()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(JobError, match=f"JAVA_HOME={tmp_path} holds none"):
        find_java()


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(JobError, match=rf"port {port} is in use.* make up MLFLOW_PORT=\d+ ") as refused:
            pages._need_free({"MLFLOW_PORT": port}, "make up")
        assert f"MLFLOW_PORT={port} " not in str(refused.value)


def test_a_gpu_that_is_not_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("SYNCREC_TRAINING__DEVICE", "cuda")
    with pytest.raises(JobError, match='sees no CUDA GPU: give "auto" or "cpu"'):
        _check_device(training_config(load_settings(), warm=False).device)


def fill_the_disk(run: Run) -> None:
    """A job on a full disk; /dev/full answers every write as one does."""
    with open("/dev/full", "w") as full:
        full.write("x" * 100_000)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_disk_is_no_stack_trace(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job(fill_the_disk, ["--ds", "2024-01-29"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "the disk is full: make room" in line and "runbook" in line


def test_a_state_folder_that_may_not_be_written(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "state").write_text("a file where the folder should be")
    assert nightly.main([]) == 1
    trouble = machine_trouble(PermissionError(errno.EACCES, "Permission denied", "/usr/lib/state"))
    assert (
        trouble == "no permission at /usr/lib/state: run this as the user who owns it, or change its owner (chown)"
    )


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("java.io.IOException: No space left on device at java.base/java.io.X", "the disk is full: make"),
        (
            "Py4JJavaError: java.io.IOException: Mkdirs failed to create file:/w/data/_temporary/0 (exists=false)",
            "cannot write to /w/data/_temporary/0: look at its owner and permissions",
        ),
        ("(sqlite3.OperationalError) database or disk is full", "the disk is full: "),
        ("(sqlite3.OperationalError) attempt to write a readonly database", "mounted read only"),
        ("java.lang.OutOfMemoryError: Java heap space", "memory ran out"),
        (
            "of file:///nowhere/x [Errno 28] No space left on device: '/etc/hosts'",
            "the disk is full at /etc/hosts:",
        ),
        (f'File "{__file__}", line 3, in f\nOSError: [Errno 28] No space left on device', "the disk is full: make"),
        ("(sqlite3.OperationalError) database is locked", "keeps the SQLite database locked"),
        (
            "API request to http://127.0.0.1:5000/api/2.0/mlflow/runs/log-batch failed with exception "
            "HTTPConnectionPool(host='127.0.0.1', port=5000): Max retries exceeded with url: /api",
            "a service does not answer at http://127.0.0.1:5000: start it",
        ),
        ('connection to server at "db", port 5432 failed: Connection refused', "does not answer at db:5432:"),
        (
            'connection to server at "db" (10.0.0.2), port 5432 failed: FATAL:  the database system is starting up',
            "does not answer at db:5432:",
        ),
        ("server closed the connection unexpectedly", "a service does not answer: start it"),
        ("Py4JNetworkError: Answer from Java side is empty", "Spark's Java process ended"),
    ],
)
def test_what_spark_and_databases_say_of_the_machine_is_the_same_answer(said: str, answer: str) -> None:
    trouble = machine_trouble(RuntimeError(said))
    assert trouble and answer in trouble
    assert machine_trouble(RuntimeError("something else")) is None


def test_a_java_process_that_is_gone_is_told_from_a_service_that_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody, pytest.raises(Py4JError) as asked:
        port = nobody.getsockname()[1]
        nobody.close()
        gateway = JavaGateway(gateway_parameters=GatewayParameters(port=port))
        gateway.jvm.java.lang.System.nanoTime()
    assert "Spark's Java process ended" in (machine_trouble(asked.value) or "")


def test_a_wrong_day_is_refused_by_every_job(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_job(fill_the_disk, ["--ds", "29.01.2024"])
    assert ended.value.code == 2
    assert "'29.01.2024' is not a day like 2024-03-01" in capsys.readouterr().err
