"""The real logs are split by day and domain without losing a row, and set A5 is what its definition says."""

import gzip
import importlib.util
import json
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("prepare", ROOT / "benchmarks" / "prepare_amazon2014.py")
assert spec and spec.loader
prepare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare)


def unix(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


ROWS = [
    ("u1", "i1", "Books", unix("2013-12-31")),
    ("u1", "i2", "Books", unix("2014-06-30")),
    ("u2", "i3", "Beauty", unix("2014-06-30")),
    ("u2", "i1", "Books", unix("2014-07-01")),
    ("u3", "i4", "Beauty", unix("2014-07-02")),
    ("u3", "i4", "Beauty", unix("2014-07-20")),
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    columns = zip(*ROWS, strict=True)
    table = pa.table(dict(zip(("user_id", "item_id", "domain", "ts"), map(list, columns), strict=True)))
    folder = tmp_path / "data"
    (folder / "raw").mkdir(parents=True)
    pq.write_table(table, folder / "interactions.parquet")
    lines = [{"reviewerID": "a", "asin": "b", "unixReviewTime": unix(d)} for d in ("2018-05-01", "2018-05-03")]
    with gzip.open(folder / "raw" / "AMAZON_FASHION_5.json.gz", "wt") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return folder


def test_history_lands_in_one_day_and_each_night_in_its_own(data: Path, tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    arguments = ["--data", str(data), "--landing", str(landing), "--history-until", "2014-06-30"]
    assert prepare.main([*arguments, "--set", "nine", "--nights", "2"]) == 0
    found = {str(p.relative_to(landing)): p.read_text() for p in landing.rglob("*") if p.is_file()}
    assert found == {
        "2014-06-30/Books-2013.csv": f"u1,i1,,{ROWS[0][3]}\n",
        "2014-06-30/Books-2014.csv": f"u1,i2,,{ROWS[1][3]}\n",
        "2014-06-30/Beauty-2014.csv": f"u2,i3,,{ROWS[2][3]}\n",
        "2014-06-30/_SUCCESS": "",
        "2014-07-01/Books-2014.csv": f"u2,i1,,{ROWS[3][3]}\n",
        "2014-07-01/Beauty-2014.csv": "",  # an empty day, not a missing feed
        "2014-07-01/_SUCCESS": "",
        "2014-07-02/Books-2014.csv": "",
        "2014-07-02/Beauty-2014.csv": f"u3,i4,,{ROWS[4][3]}\n",
        "2014-07-02/_SUCCESS": "",
    }


def test_fashion_lines_are_copied_as_they_are(data: Path, tmp_path: Path) -> None:
    folders = prepare.prepare(data, tmp_path / "whole", "fashion", date(2018, 7, 6), 0)
    name = "AMAZON_FASHION_5.json.gz"
    source = gzip.decompress((data / "raw" / name).read_bytes())
    assert [events for _, events in folders] == [2]
    assert gzip.decompress((folders[0][0] / name).read_bytes()) == source
    split = prepare.prepare(data, tmp_path / "split", "fashion", date(2018, 5, 1), 2)
    assert [events for _, events in split] == [1, 0, 1]
    assert b"".join(gzip.decompress((folder / name).read_bytes()) for folder, _ in split) == source


def test_the_core_needs_two_dense_domains_and_shrinks_until_it_holds() -> None:
    core = [(f"u{u}", f"i{i}", domain) for u in range(2) for i in range(2) for domain in ("Beauty", prepare.A5[1])]
    outside = [
        ("u0", "lonely", "Beauty"),  # one event of the item
        ("u7", "i0", "Books"),  # not a dense domain
        *[("u8", f"i{i}", "Beauty") for i in range(4)],  # one domain alone
        ("u9", "i0", "Beauty"),  # two domains, but "half" goes, and then u9 has one event
        ("u9", "half", prepare.A5[1]),
    ]
    columns = map(list, zip(*core, *outside, strict=True))
    log = pa.table(dict(zip(("user_id", "item_id", "domain"), columns, strict=True)))
    kept = prepare.five_core(log, core=2).to_pylist()
    assert sorted(tuple(row.values()) for row in kept) == sorted(core)


def test_it_refuses_in_one_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    landing = ["--landing", str(tmp_path / "landing"), "--set", "nine"]
    assert prepare.main([*landing, "--data", str(tmp_path / "nowhere")]) == 2
    assert "interactions.parquet is absent" in capsys.readouterr().err
    assert prepare.main([*landing, "--data", str(data), "--history-until", "2001-01-01"]) == 2
    error = capsys.readouterr().err
    assert "choose a later date" in error and error.count("\n") == 1
    assert not (tmp_path / "landing").exists()


@pytest.mark.real_logs
def test_set_a5_of_the_real_log_has_the_counts_of_its_definition() -> None:
    path = prepare.DATA / "interactions.parquet"
    if not path.is_file():
        pytest.skip(f"the research logs are not here ({path})")
    core = prepare.five_core(pq.read_table(path, columns=["user_id", "item_id", "domain"]))
    items = core.group_by(["domain", "item_id"]).aggregate([])
    assert (core.num_rows, len(core["user_id"].unique()), items.num_rows) == (311_285, 16_065, 20_680)
