from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.settings import Settings, load_settings
from jobs.spark import spark_session
from tests.sql.planted import fill, write_config


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder: Path = tmp_path_factory.mktemp("planted")
    settings = load_settings(write_config(folder))
    fill(settings)
    return settings


@pytest.fixture(scope="session")
def spark(planted: Settings) -> Iterator[SparkSession]:
    with spark_session(planted, "tests") as session:
        yield session
