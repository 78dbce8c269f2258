"""Write golden_recommendations.json anew: `python -m tests.jobs.golden_recommendations`.

For changes of scoring that are meant. The file holds what two registered models (presets default and paper, weights
by formula) recommend for fixed histories.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import mlflow

from tests.jobs.registered import formula_model, registered, table

FILE = Path(__file__).with_name("golden_recommendations.json")
PRESETS = ("default", "paper")
HISTORIES = [
    [],
    [("b3", "books", 10)],
    [("t1", "toys", 5), ("b2", "books", 1), ("f9", "food", 3), ("t4", "toys", 8)],
    [(f"f{1 + 7 * i % 30}", "food", i) for i in range(9)],  # longer than the window
    [("unknown", "food", 2), ("b12", "books", 1), ("t9", "toys", 4), ("b1", "books", 6), ("b12", "books", 7)],
]


def recommendations(preset: str, folder: Path) -> list[dict[str, Any]]:
    """What the registered model of a preset says, row by row."""
    loaded = mlflow.pyfunc.load_model(str(registered(folder, formula_model(preset))))
    rows = loaded.predict(table(HISTORIES), params={"n": 3}).to_dict("records")
    return [{**row, "score": round(row["score"], 7)} for row in rows]


def main() -> None:
    """Write the file, one recommendation a line."""
    parts = []
    for preset in PRESETS:
        with tempfile.TemporaryDirectory() as folder:
            rows = recommendations(preset, Path(folder))
        parts.append(f'"{preset}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]")
    FILE.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
