"""Events of items that training never had: `encode` passes over them, alone and among other users."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import DOMAINS, N_ITEMS, random_events, random_set, small_model

from syncrec_model import SequenceSet
from syncrec_model.batches import SequenceReader

NEVER = {1: (2, 5), 2: (), 3: (1, 4, 9)}  # by domain code, from 1


def learnt_model(**changes):
    """A model whose neighbours say that training had all items but NEVER."""
    model = small_model(**changes).eval()
    popularity_V = torch.ones(1 + sum(N_ITEMS), dtype=torch.float64)
    for code, items in NEVER.items():
        for item in items:
            popularity_V[sum(N_ITEMS[: code - 1]) + item] = 0
    popularity_V[0] = 0
    model.blend.neighbours.popularity = popularity_V
    return model


def without_never(events: dict) -> dict:
    """The same log, never having had these events; users who had nothing else are left."""
    kept = np.array(
        [item not in NEVER[code] for item, code in zip(events["item_indexes"], events["domain_codes"], strict=True)]
    )
    part = ("user_ids", "item_indexes", "domain_codes", "timestamps")
    return {**events, **{name: events[name][kept] for name in part}}


@pytest.mark.parametrize("gate", ["step", "sequence"])
def test_a_history_is_read_as_if_these_events_had_never_been(gate):
    model = learnt_model(gate=gate, max_length=40)
    events = random_events(4, n_users=60, mean_length=4)
    users = np.unique(events["user_ids"])
    both = [SequenceSet.from_events(**log, users=users, max_length=40) for log in (events, without_never(events))]
    assert both[0].cross_lengths_U.sum() > both[1].cross_lengths_U.sum() + 20
    assert (both[1].cross_lengths_U == 0).any(), "somebody of whom nothing is left"
    every = np.arange(len(users))
    for rows in ("serving_cross", "serving_single"):
        whole, left = (model.encode(getattr(SequenceReader(data), rows)(every)) for data in both)
        assert torch.allclose(whole, left, atol=1e-12)


def test_nothing_is_passed_over_where_nothing_is_known_of_popularity():
    events = random_events(4, n_users=20)
    packed = SequenceReader(SequenceSet.from_events(**events, max_length=5)).serving_cross(np.arange(20))
    for model in (small_model().eval(), small_model(neighbours=0).eval()):
        assert not model.blend.never_learnt(packed.items_N).any()
        assert torch.allclose(model.encode(packed), model.views(packed)[packed.last_R], atol=1e-12)
    learnt = learnt_model()
    assert learnt.blend.never_learnt(torch.arange(8)).tolist() == [item in NEVER[1] for item in range(8)], (
        "[SOS] stays"
    )
    assert not torch.allclose(learnt.encode(packed), learnt.views(packed)[packed.last_R], atol=1e-3)


def test_the_same_bits_in_every_batch():
    """What score takes over from the night before is what it would work out again, among other users."""
    data = random_set(8, n_users=90, mean_length=18, max_length=30)
    model = learnt_model(max_length=30, channels=64).float()
    reader, every = SequenceReader(data), np.arange(data.n_users)
    draw = np.random.default_rng(0)
    with torch.inference_mode():
        cross, single = model.encode(reader.serving_cross(every)), model.encode(reader.serving_single(every))
        single = single.reshape(len(DOMAINS), data.n_users, -1)
        for size in (16, 17, 40):
            users = draw.choice(data.n_users, size, replace=False)
            assert torch.equal(model.encode(reader.serving_cross(users)), cross[users])
            again = model.encode(reader.serving_single(users)).reshape(len(DOMAINS), size, -1)
            assert torch.equal(again, single[:, users])


def test_what_is_left_is_packed_as_if_it_had_been_packed_so():
    """Slots and rectangles, too: each kept token has a slot of its own, in the order of its row."""
    packed = SequenceReader(random_set(2, n_users=30)).training(np.arange(30)).cross
    dropped_N = torch.from_numpy(np.random.default_rng(1).random(len(packed.items_N)) < 0.4)
    left = packed.without(dropped_N)
    assert len(torch.unique(left.slots_N)) == len(left.slots_N) == sum(left.tokens_per_task)
    assert left.slots_N.max() < sum(rows * width for rows, width in left.rectangles)
    assert left.rows_per_task == packed.rows_per_task and torch.equal(left.tasks_R, packed.tasks_R)
    for row in range(len(packed.last_R)):
        own, kept = left.rows_N == row, (packed.rows_N == row) & ~dropped_N
        expected = packed.items_N[kept].tolist() or [0]
        assert left.items_N[own].tolist() == expected
        assert left.positions_N[own].tolist() == list(range(len(expected)))[::-1]
        assert int(left.last_R[row]) == int(own.nonzero().max())
        columns = packed.columns_N[kept].tolist() or packed.columns_N[packed.last_R[row]][None].tolist()
        assert left.columns_N[own].tolist() == columns
        assert left.slots_N[own].diff().tolist() == [1] * (len(expected) - 1)
    nothing = packed.without(torch.zeros(len(packed.items_N), dtype=torch.bool))
    for name in ("items_N", "rows_N", "positions_N", "last_R", "slots_N"):
        assert torch.equal(getattr(nothing, name), getattr(packed, name)), name
    assert (nothing.rectangles, nothing.packed_is_slots) == (packed.rectangles, packed.packed_is_slots)
