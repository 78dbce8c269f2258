"""Under torchrun rank 0 is the job and the others train along; nobody is left waiting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, sys, numpy as np, torch
from pathlib import Path
from jobs.errors import NothingToDo
from jobs.ranks import together
from syncrec_model import ModelConfig, SequenceSet, SyNCRec, TrainingConfig

torch.set_num_threads(1)
folder = Path(sys.argv[1])

def job(fit):
    (folder / "job").open("a").write("rank 0 alone\\n")
    if sys.argv[2] == "nothing":
        raise NothingToDo("not tonight")
    rng = np.random.default_rng(0)
    train = SequenceSet.from_events(
        user_ids=rng.integers(0, 9, 60), item_indexes=rng.integers(1, 5, 60), domain_codes=rng.integers(1, 3, 60),
        domains=("books", "toys"), n_items=(4, 4), max_length=6,
    )
    torch.manual_seed(0)
    model = SyNCRec(ModelConfig(channels=8, max_length=6, dropout=0.0), train.domains, train.n_items)
    told = []
    config = TrainingConfig(epochs=8, batch_size=4, device="cpu", threads=1)
    result = fit(model=model, train=train, valid=None, config=config, checkpoint=folder / "checkpoint",
                 on_epoch=lambda report: told.append(report.totals["loss"]), progress=False)
    return "registered " + json.dumps(told)

try:
    said = together(job)
except NothingToDo:
    said = "nothing to do"
(folder / f"said-{said.split()[0]}-{said.split()[1]}").write_text(said)
"""


def last_words(folder: Path, what: str) -> dict[str, str]:
    """Run the program on two ranks and return what each said last."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    root = str(Path(__file__).parents[2])
    ended = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         str(program), str(folder), what],
        cwd=root, check=False, timeout=300, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert (folder / "job").read_text() == "rank 0 alone\n"
    return {path.name: path.read_text() for path in folder.glob("said-*")}


def test_all_ranks_train_what_rank_0_prepared(tmp_path: Path) -> None:
    said = sorted(last_words(tmp_path, "train").values())
    assert said[0] == "rank 1 of 2 trained along" and said[1].startswith("registered ")
    losses = json.loads(said[1].removeprefix("registered "))
    assert len(losses) == 8 and losses[-1] < losses[0]
    assert (tmp_path / "checkpoint").exists()


def test_a_job_with_nothing_to_do_lets_the_other_ranks_go(tmp_path: Path) -> None:
    assert sorted(last_words(tmp_path, "nothing").values()) == ["nothing to do", "rank 1: nothing to train"]
