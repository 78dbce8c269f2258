"""Spark's class archive: used where it is whole, passed over where it is not, and no job ever needs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest

from jobs import class_archive
from jobs.class_archive import archive_options, find_archive, key_of, main, put_in_place
from jobs.errors import JobError
from jobs.spark import find_java
from tests.conftest import SettingsFactory

SPARK = Path(pyspark.__file__).parent
JARS = f"{SPARK}/jars/*"
LOADED = "source: shared objects file (top)"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "spark-classes"
    found.mkdir()
    monkeypatch.setattr(class_archive, "FOLDER", found)
    return found


def spark_launcher(*options: str, jars: str = JARS) -> subprocess.CompletedProcess[str]:
    """The smallest program of Spark's: it prints a command line, in half a second."""
    command = [find_java()[0], "-Xmx128m", *options, "-cp", jars, "org.apache.spark.launcher.Main"]
    environment = {**os.environ, "SPARK_HOME": str(SPARK), "SPARK_SCALA_VERSION": "2.13"}
    arguments = ["org.apache.spark.deploy.SparkSubmit", "pyspark-shell"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment)


def small_archive(folder: Path, jars: str = JARS) -> Path:
    partial = folder / "partial"
    spark_launcher(f"-XX:ArchiveClassesAtExit={partial}", *class_archive.QUIET, jars=jars)
    return put_in_place(partial, key_of(*find_java()))


def test_without_an_archive_there_is_no_option() -> None:
    assert archive_options(*find_java()) == []


def test_the_jvm_takes_its_classes_from_the_archive(folder: Path) -> None:
    small_archive(folder)
    ran = spark_launcher(*archive_options(*find_java()), "-Xlog:class+load:stdout")
    assert ran.returncode == 0 and LOADED in ran.stdout


@pytest.mark.parametrize("damage", ["cut", "empty", "changed"])
def test_a_damaged_archive_is_passed_over(folder: Path, damage: str) -> None:
    archive = small_archive(folder)
    content = bytearray(archive.read_bytes())
    content[5000:9000] = bytes(4000)
    archive.chmod(0o600)
    archive.write_bytes({"cut": content[:300_000], "empty": b"", "changed": bytes(content)}[damage])
    assert archive_options(*find_java()) == []


def test_an_archive_of_other_jars_changes_nothing_that_is_printed(folder: Path) -> None:
    small_archive(
        folder, jars=f"{SPARK}/jars/{next((SPARK / 'jars').glob('spark-launcher*.jar')).name}:/nowhere.jar"
    )
    options = archive_options(*find_java())
    plain, shared = spark_launcher(), spark_launcher(*options)
    assert options and (shared.returncode, shared.stdout, shared.stderr) == (0, plain.stdout, plain.stderr)
    assert LOADED not in spark_launcher(*options, "-Xlog:class+load:stdout").stdout


def test_another_jvm_or_spark_looks_for_another_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    java, version = find_java()
    own = key_of(java, version)
    assert key_of(java, f"NOTE: Picked up JDK_JAVA_OPTIONS: -Xmx1g\n{version}") == own
    assert key_of(java, version.replace("17.", "18.").replace("21.", "22.")) != own
    monkeypatch.setattr(pyspark, "__version__", "9.9.9")
    assert key_of(java, version) != own


def test_the_newest_archive_is_the_only_one(folder: Path) -> None:
    (folder / "0123456789abcdef-00000000.jsa").write_bytes(b"of a Java that was here before")
    archive = small_archive(folder)
    assert list(folder.glob("*.jsa")) == [archive] and find_archive(key_of(*find_java())) == archive


def test_an_installation_that_cannot_be_written_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(class_archive, "FOLDER", tmp_path / "file" / "spark-classes")
    assert main([]) == 1
    assert capsys.readouterr().err.startswith(f"error: {class_archive.FOLDER} cannot be written (Not a directory)")


def test_a_rehearsal_that_fails_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(JobError, match="no archive was made"):
        class_archive.make("key")
    assert list(folder.iterdir()) == []


def run_python(folder: Path, *lines: str) -> subprocess.Popen[bytes]:
    """A process that finds archives in this folder."""
    head = f"import sys; from pathlib import Path; import jobs.class_archive as c; c.FOLDER = Path({str(folder)!r})"
    return subprocess.Popen([sys.executable, "-c", "\n".join([head, *lines])])


@pytest.mark.skipif("SYNCREC_TEST_NIGHTS" not in os.environ, reason="a minute of rehearsal: `make test-nights`")
def test_a_rehearsal_leaves_one_archive_and_a_session_takes_its_classes_from_it(
    folder: Path, settings: SettingsFactory, tmp_path: Path
) -> None:
    assert run_python(folder, "sys.exit(c.main([]))").wait() == 0
    (archive,) = folder.iterdir()
    assert find_archive(key_of(*find_java())) == archive
    log = tmp_path / "loaded"
    config = settings(spark={"java_options": f"-Xlog:class+load:file={log}", "driver_memory": "1g"})
    session = run_python(
        folder,
        "from jobs.settings import Settings; from jobs.spark import spark_session",
        f"with spark_session(Settings.model_validate_json({config.model_dump_json()!r}), 'x') as spark:",
        "    assert spark.range(10).selectExpr('id % 2 as k').groupBy('k').count().count() == 2",
    )
    assert session.wait() == 0
    lines = log.read_text().splitlines()
    mapped = sum(LOADED in line for line in lines)
    assert mapped > 5000, f"{mapped} of {len(lines)}"
