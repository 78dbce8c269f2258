"""Guard against drift: the registered model recommends today what it recommended when the golden file was written.

A change of scoring makes this fail. If the change is meant, older versions in a registry keep their own code (it
travels with them) and the file is written anew: see golden_recommendations.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.jobs.golden_recommendations import FILE, PRESETS, recommendations


@pytest.mark.parametrize("preset", PRESETS)
def test_items_and_scores_have_not_drifted(preset: str, tmp_path: Path) -> None:
    expected = json.loads(FILE.read_text(encoding="utf-8"))[preset]
    found = recommendations(preset, tmp_path)
    without_score = [[{k: v for k, v in row.items() if k != "score"} for row in rows] for rows in (found, expected)]
    assert without_score[0] == without_score[1]
    assert [row["score"] for row in found] == pytest.approx([row["score"] for row in expected], abs=1e-5)
