"""A wrong value of any field is refused before the night begins, by one line that names the field."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jobs import settings as module
from jobs.errors import JobError
from jobs.model_settings import model_config, training_config
from jobs.setting_errors import OTHER_VARIABLES
from jobs.settings import Settings, load_settings
from tests.conftest import SMALL
from tests.jobs.bad_settings import Wrong, wrong_values

CLICKS = {**SMALL["sources"][0], "name": "clicks", "files": "clicks*.csv", "clicked": "rating"}
WHOLE = {**SMALL, "sources": SMALL["sources"][:1], "click_sources": (CLICKS,),
         "experiment": {"name": "a", "candidate": "challenger"}, "sample": {}}  # fmt: skip
ALL = list(wrong_values())
WRONG_ON_PURPOSE = {"SYNCREC_SECTION__KEY", "SYNCREC_TEST"}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose values a test gives: TOML knows no null and no objects of a kind, JSON's values are enough."""
    path = tmp_path / "syncrec.toml"
    path.write_text("")
    return path


def with_wrong(wrong: Wrong) -> dict[str, Any]:
    values = json.loads(json.dumps(WHOLE))
    own = values
    for part in wrong.path[:-1]:
        own = own[part] if isinstance(part, int) else own.setdefault(part, {})
    if wrong.value is None:
        own.pop(wrong.path[-1], None)
    else:
        own[wrong.path[-1]] = copy.deepcopy(wrong.value)
    return values


def test_every_wrong_value_is_refused_and_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted, unnamed = [], []
    assert Settings(**WHOLE)
    for wrong in ALL:
        monkeypatch.setattr(module.tomllib, "loads", lambda text, wrong=wrong: with_wrong(wrong))
        try:
            load_settings(file)
        except JobError as error:
            if wrong.named not in str(error) and not re.search(r"source '\w+'", str(error)):
                unnamed.append((wrong, str(error)))
            assert "\n" not in str(error)
        else:
            accepted.append(wrong)
    assert accepted == []
    assert unnamed == []


def test_every_field_was_tried() -> None:
    tried = {wrong.path[:2] for wrong in ALL}
    sections = {name: field.annotation for name, field in Settings.model_fields.items()}
    assert {path[0] for path in tried} >= set(sections)
    assert len(ALL) > 300


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("SYNCREC_TRAINING__EPOCHS", "many", "training.epochs"),
        ("SYNCREC_NIGHT__BOOTSTRAP_THROUGH", "soon", "night.bootstrap_through"),
        ("SYNCREC_DOMAINS", "{books", "SYNCREC_"),
        ("SYNCREC_SOURCES", "books.csv", "SYNCREC_"),
        ("SYNCREC_SCORING__TOPN", "5", "scoring.topn"),
        ("SYNCREC_SPARK__MASTER", "", "spark.master"),
    ],
)
def test_a_wrong_variable_is_refused_and_named(
    monkeypatch: pytest.MonkeyPatch, file: Path, variable: str, value: str, words: str
) -> None:
    monkeypatch.setattr(module.tomllib, "loads", lambda text: json.loads(json.dumps(WHOLE)))
    monkeypatch.setenv(variable, value)
    with pytest.raises(JobError, match=re.escape(words)):
        load_settings(file)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SYNCREC_TRAINING_WARM_START", ": did you mean SYNCREC_TRAINING__WARM_START?"),
        ("SYNCREC_TRAININGS__WARM_START", ": did you mean SYNCREC_TRAINING__WARM_START?"),
        ("SYNCREC_SCORNG__TOP_N", ": did you mean SYNCREC_SCORING__TOP_N?"),
        ("syncrec_statedir", ": did you mean SYNCREC_STATE_DIR?"),
        ("SYNCREC_CONFG", ": did you mean SYNCREC_CONFIG?"),
        ("Syncrec_Config", ": did you mean SYNCREC_CONFIG?"),
    ],
)
def test_a_variable_that_stands_for_nothing_is_refused(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setenv(name, "false")
    with pytest.raises(JobError, match=re.escape(f"the variable {name} of the environment is no setting{meant}")):
        load_settings(file)


def test_what_is_of_others_or_of_ours_passes(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    theirs = (
        "SYNCREC_PORT",
        "SYNCREC_SERVICE_HOST",
        "SYNCREC_MLFLOW_SERVICE_PORT_HTTP",
        "SYNCREC_PORT_80_TCP_ADDR",
    )
    for name in (*theirs, "SYNCREC_TEST_OF_MINE", "SYNCREC_REPORTS_PAGE", "SYNCREC_OF_ANOTHER_KIND"):
        monkeypatch.setenv(name, "tcp://10.0.0.1:80")
    monkeypatch.setenv("SYNCREC_TRAINING__WARM_START", "false")
    monkeypatch.setenv("syncrec_state_dir", "elsewhere")
    monkeypatch.setattr(module.tomllib, "loads", lambda text: json.loads(json.dumps(WHOLE)))
    found = load_settings(file)
    assert not found.training.warm_start and found.state.name == "elsewhere"


def test_every_variable_that_the_repository_names_is_known(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    elsewhere = ["SYNCREC_[A-Z_]*[A-Z]", "--", ":!tests/jobs/test_bad_settings.py"]
    listed = subprocess.run(["git", "grep", "-ohE", *elsewhere], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout: which variables there are is asked of git")
    names = set(listed.stdout.split()) - WRONG_ON_PURPOSE
    assert {"SYNCREC_HOME", "SYNCREC_TRAINING__WARM_START", "SYNCREC_REPORTS_PAGE"} <= names
    theirs = {
        name for name in names if name.partition("__")[0].removeprefix("SYNCREC_").lower() in Settings.model_fields
    }
    tests = {name for name in names if name.startswith("SYNCREC_TEST_")}
    assert names - theirs - tests == OTHER_VARIABLES, "jobs/setting_errors.py: OTHER_VARIABLES"
    for name in OTHER_VARIABLES | tests:
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("SYNCREC_HOME")
    monkeypatch.setattr(module.tomllib, "loads", lambda text: json.loads(json.dumps(WHOLE)))
    assert load_settings(file).domain_names


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"files": "/etc/*.csv"}, "inside the day folder"),
        ({"files": "../*.csv"}, "inside the day folder"),
        ({"delimiter": '"'}, "cannot stand between two columns"),
        ({"delimiter": "\n"}, "cannot stand between two columns"),
        ({"item": "user"}, "named more than once"),
        ({"columns": ("user", "item", "time", "time")}, "named more than once"),
        ({"user": "customer"}, "not among its columns"),
        ({"domain_column": "shop"}, "either domain or domain_column"),
        ({"domain": "cars"}, "has no [domains.cars]"),
    ],
)
def test_values_that_contradict_each_other(
    monkeypatch: pytest.MonkeyPatch, file: Path, changes: dict[str, Any], words: str
) -> None:
    values = {**WHOLE, "sources": ({**SMALL["sources"][0], **changes},)}
    monkeypatch.setattr(module.tomllib, "loads", lambda text: values)
    with pytest.raises(JobError, match=re.escape(words)):
        load_settings(file)


def test_a_wrong_value_of_a_source_names_the_source(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    wrong = {**SMALL["sources"][0], "name": "films", "time_unit": "hours"}
    monkeypatch.setattr(module.tomllib, "loads", lambda text: {**WHOLE, "sources": (*WHOLE["sources"], wrong)})
    with pytest.raises(JobError, match=r"sources\.\d\.time_unit \(source 'films'\): "):
        load_settings(file)


@pytest.mark.parametrize(
    ("section", "options", "words"),
    [
        ("model", {"nonsense": 1}, "nonsense"),
        ("model", {"channels": 3}, "give it as [model] channels instead"),
        ("model", {"architecture": "transformer9"}, "architecture"),
        ("training", {"nonsense": 1}, "nonsense"),
        ("training", {"seed": 3}, "give it as [training] seed instead"),
    ],
)
def test_options_that_the_model_does_not_know(section: str, options: dict[str, Any], words: str) -> None:
    settings = Settings(**{**WHOLE, section: {"options": options}})
    with pytest.raises(JobError, match=re.escape(words)):
        model_config(settings)
        training_config(settings, warm=False)
