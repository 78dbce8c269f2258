"""Settings: one file, environment overrides, refusals that name the value."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import JobError
from jobs.setting_errors import RETIRED
from jobs.settings import load_settings

HOME = Path(__file__).parents[2]


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = (HOME / "syncrec.toml").read_text()
    assert old in text
    file = tmp_path / "syncrec.toml"
    file.write_text(text.replace(old, new, 1))
    return file


def test_the_shipped_file_loads() -> None:
    settings = load_settings(HOME / "syncrec.toml")
    assert settings.domain_names == ("books", "toys", "groceries", "coupons", "navigation")
    assert settings.repeating_domains == {"groceries", "navigation"}


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCREC_SPARK__MASTER", "spark://host:7077")
    monkeypatch.setenv("SYNCREC_TRAINING__EPOCHS", "3")
    settings = load_settings(HOME / "syncrec.toml")
    assert settings.spark.master == "spark://host:7077"
    assert settings.spark.shuffle_partitions == 4
    assert settings.training.epochs == 3 and settings.training.warm_epochs == 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('time_unit = "ms"', 'time_unit = "fortnight"', r"sources\.2\.time_unit"),
        ('domain = "toys"', 'domain = "toyz"', r"domain 'toyz' has no \[domains\.toyz\]"),
        ("max_length = 50", "max_length = 1", r"sequences\.max_length"),
        ("[scoring]", "[scorign]", "scorign"),
        ("bootstrap_through = 2024-01-28", 'bootstrap_through = "soon"', r"night\.bootstrap_through"),
        ('user = "user_id"', "", r"sources\.2\.user"),
        ("header = true", "", "either header = true or a list of columns"),
        ('item = "asin"', 'item = "asin"\ncolumns = ["a"]', "belong to format = 'csv'"),
        ("[domains.coupons]", '[domains."a b"]', "letters, digits and _ only"),
        ("top_n = 20", "top_n = 0", r"scoring\.top_n"),
        (
            "[scoring]",
            '[catalog]\nwarehouse = "s3://bucket/lake"\n[scoring]',
            r"catalog\.warehouse: .*docs/cluster\.md",
        ),
        ("[scoring]", '[gate]\nmetric = "ndgc@10"\n[scoring]', r"gate\.metric"),
        ("epochs = 12", "epochs = 12\nepochs = 13", "not valid TOML"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        load_settings(changed(tmp_path, old, new))


def test_a_setting_of_the_past_is_answered_with_what_to_do_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RETIRED, "training.rounds", "give [training] epochs")
    with pytest.raises(
        JobError, match=r"training.rounds: there is no such setting any more: give \[training\] epochs"
    ):
        load_settings(changed(tmp_path, "epochs = 12", "rounds = 12"))


def test_a_missing_file_says_how_to_give_one(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="give CONFIG=PATH to make, --config PATH to a job, or set SYNCREC_CONFIG"):
        load_settings(tmp_path / "absent.toml")


def test_relative_paths_count_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = changed(tmp_path, "users = 3000", "users = 3000")
    monkeypatch.setenv("SYNCREC_HOME", str(tmp_path))
    settings = load_settings(file)
    assert settings.warehouse == (tmp_path / "var/sample/warehouse").resolve()
    assert settings.landing_path == (tmp_path / "var/sample/landing").resolve()
