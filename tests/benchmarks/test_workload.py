"""The users of the training benchmark have the shapes of set A5, and every row reads the same users."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from benchmarks.derive_shapes import derive, text
from benchmarks.prepare_amazon2014 import A5
from benchmarks.train_row import ReleasedRows, sequence_set
from benchmarks.workload import A5_FILE, Shape, a5, make_users
from syncrec_model.batches import SequenceReader


def test_the_committed_counts_are_those_of_set_a5() -> None:
    counts = a5()
    users = [sum(row[1:]) for row in counts["users_by_length"]]
    stored = sum(length * n for (length, *_), n in zip(counts["users_by_length"], users, strict=True))
    assert (sum(users), counts["events"], stored) == (16_065, 311_285, counts["stored_events"])
    assert sum(entry["items"] for entry in counts["domains"].values()) == 20_680
    assert sum(entry["stored_events"] for entry in counts["domains"].values()) == stored
    assert tuple(counts["domains"]) == A5
    assert text(counts) == A5_FILE.read_text()  # the script writes what is committed


def test_counts_are_derived_from_the_last_events_of_each_user() -> None:
    rows = [("u", "i1", A5[0], 1), ("u", "i1", A5[1], 2), ("u", "i2", A5[1], 3), ("v", "i1", A5[0], 1)]
    log = pa.table(
        dict(zip(("user_id", "item_id", "domain", "ts"), map(list, zip(*rows, strict=True)), strict=True))
    )
    counts = derive(log, max_length=2)
    assert counts["users_by_length"] == [[1, 1, 0, 0, 0, 0], [2, 1, 0, 0, 0, 0]]  # u's first event is out of sight
    assert counts["domains"][A5[1]] == {"items": 2, "stored_events": 2}
    assert (counts["users"], counts["events"], counts["stored_events"]) == (2, 4, 3)


def test_every_batch_stands_for_all_of_a5() -> None:
    users = make_users(Shape(lengths="a5", channels=8, batch=128), 3)
    assert users.n_items == 20_680
    lengths = (users.items_UT > 0).sum(1)
    mean = a5()["stored_events"] / a5()["users"]
    assert np.abs(lengths.reshape(3, 128).mean(1) - mean).max() < 0.5
    domains = [len(set(row[row > 0])) for row in users.domains_UT]
    real = sum(n * users for row in a5()["users_by_length"] for n, users in enumerate(row[1:], start=1))
    assert abs(np.mean(domains) - real / a5()["users"]) < 0.15
    assert (users.items_UT <= np.append(0, users.n_items_D)[users.domains_UT]).all()


def test_full_rows_give_both_codes_as_many_inputs_and_targets() -> None:
    users = make_users(Shape(lengths="full", channels=8, batch=4), 1)
    batch = SequenceReader(sequence_set(users)).training(np.arange(4))
    assert len(batch.cross_targets_N) == batch.cross.tokens_per_task[0] == 4 * 50
    items, domains, positive, negative, positive_domains = ReleasedRows(users).batch(np.arange(4))
    for ids in (items, domains, positive, negative, positive_domains):
        assert bool((ids > 0).all()) and ids.shape == (4, 50)


def test_the_released_code_reads_the_same_events_shifted_by_one() -> None:
    users = make_users(Shape(lengths="a5", channels=8, batch=4), 1)
    items, domains, positive, _, positive_domains = ReleasedRows(users).batch(np.arange(4))
    assert torch.equal(items > 0, positive > 0)
    for row in range(4):
        n = int((positive[row] > 0).sum())
        assert items[row, 50 - n + 1 :].tolist() == positive[row, 50 - n : -1].tolist()
        assert domains[row, 50 - n + 1 :].tolist() == positive_domains[row, 50 - n : -1].tolist()
    ends = np.cumsum(users.n_items_D)
    assert (
        np.searchsorted(ends, positive[positive > 0].numpy()) + 1 == positive_domains[positive > 0].numpy()
    ).all()


def test_a_shape_of_another_form_is_refused() -> None:
    assert (Shape.parse("r64.a5").batch, Shape.parse("r512.full").batch) == (128, 32)
    with pytest.raises(ValueError, match=r"'r64\.half': write rCHANNELS\.LENGTHS with lengths full or a5"):
        Shape.parse("r64.half")
    with pytest.raises(ValueError, match="at most 125 batches of 128, not 126"):
        make_users(Shape.parse("r64.a5"), 126)
