from pathlib import Path

import pytest

from jobs.settings import Settings, load_settings
from tests.sql.planted import fill, write_config


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A small project whose tables are filled; read only."""
    folder: Path = tmp_path_factory.mktemp("planted")
    settings = load_settings(write_config(folder))
    fill(settings)
    return settings
