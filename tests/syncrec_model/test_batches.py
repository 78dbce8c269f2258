"""What the model reads and predicts at each token, against MODEL.md section 1 written as loops."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import N_ITEMS, random_set

from syncrec_model.batches import SequenceReader

OFFSETS = np.array([0, 0, N_ITEMS[0], N_ITEMS[0] + N_ITEMS[1]])


def rows_of(packed):
    """Return the packed rows as lists of stacked items."""
    rows = [[] for _ in range(len(packed.last_R))]
    for row, item in zip(packed.rows_N.tolist(), packed.items_N.tolist(), strict=True):
        rows[row].append(item)
    return rows


def cross_events(data, user):
    kept = data.cross_items_UT[user] > 0
    return (data.cross_items_UT[user] + OFFSETS[data.cross_domains_UT[user]])[kept].tolist()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_training_inputs_and_targets(seed):
    data = random_set(seed)
    batch = SequenceReader(data).training(np.arange(data.n_users))
    targets = (batch.cross_targets_N.numpy() + OFFSETS[batch.cross_domains_N.numpy()]).tolist()
    expected_rows, expected_targets = [], []
    for user in range(data.n_users):
        events = cross_events(data, user)
        truncated = data.cross_lengths_U[user] > 5
        expected_rows.append(events[:-1] if truncated else [0, *events[:-1]])
        expected_targets += events[1:] if truncated else events
    assert rows_of(batch.cross) == expected_rows
    assert targets == expected_targets

    single_targets = batch.single_targets_N.numpy() + OFFSETS[batch.single_domains_N.numpy()]
    order = sorted(
        range(len(data.single_users_N)), key=lambda n: (data.single_domains_N[n], data.single_users_N[n])
    )
    expected_rows, expected_targets = [], []
    for n in order:
        items = data.single_items_NT[n]
        events = (items[items > 0] + OFFSETS[data.single_domains_N[n]]).tolist()
        truncated = data.single_lengths_N[n] > 5
        expected_rows.append(events[:-1] if truncated else [0, *events[:-1]])
        expected_targets += events[1:] if truncated else events
    assert rows_of(batch.single) == expected_rows
    assert single_targets.tolist() == expected_targets


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_shared_targets_and_views_are_the_same_events(seed):
    data = random_set(seed, mean_length=8)
    batch = SequenceReader(data).training(np.arange(data.n_users))
    order = sorted(
        range(len(data.single_users_N)), key=lambda n: (data.single_domains_N[n], data.single_users_N[n])
    )
    cross_user, cross_column = batch.cross.rows_N.numpy(), batch.cross.columns_N.numpy()
    for token, (row, column) in enumerate(zip(batch.single.rows_N, batch.single.columns_N, strict=True)):
        n = order[int(row)]
        user = data.single_users_N[n]
        place = data.single_places_NT[n, int(column) + 1]
        same = np.flatnonzero((cross_user == user) & (cross_column + 1 == place)) if place >= 0 else []
        assert batch.shared_N[token] == (same[0] if len(same) else -1)
        is_sos = batch.single.items_N[token] == 0
        place = -1 if is_sos else data.single_places_NT[n, int(column)]
        same = np.flatnonzero((cross_user == user) & (cross_column == place)) if place >= 0 else []
        assert batch.views_N[token] == (same[0] if len(same) else -1)
    assert (batch.shared_N >= 0).any() and (batch.views_N >= 0).any()


def test_positions_count_from_the_newest_step():
    batch = SequenceReader(random_set(4)).training(np.arange(8))
    packed = batch.cross
    for row, last in enumerate(packed.last_R.tolist()):
        mine = packed.positions_N[packed.rows_N == row].tolist()
        assert mine == list(range(len(mine)))[::-1] and packed.positions_N[last] == 0


def test_serving_rows_hold_the_newest_events_and_sos_only_where_it_is_in_sight():
    data = random_set(5, n_users=12, mean_length=5)
    reader = SequenceReader(data)
    users = np.arange(data.n_users)
    for user, row in enumerate(rows_of(reader.serving_cross(users))):
        sos = [0] if data.cross_lengths_U[user] < 5 else []
        assert row == sos + cross_events(data, user)
    singles = rows_of(reader.serving_single(users))
    rows_UD = data.single_rows_UD()
    assert (rows_UD < 0).any()
    for code in (1, 2, 3):
        for user in users:
            if rows_UD[user, code - 1] < 0:
                assert singles[(code - 1) * len(users) + user] == [0]


def test_cases_see_only_what_lies_before_the_target():
    data = random_set(6, n_users=12, window=(20, 40))
    reader = SequenceReader(data)
    cases = reader.cases()
    assert len(cases) == data.cross_targets_UT.sum() > 5
    assert (np.diff(cases.domain_M) >= 0).all()
    crosses, singles = rows_of(reader.case_cross(cases)), rows_of(reader.case_single(cases))
    for m in range(len(cases)):
        user, column = cases.user_M[m], cases.column_M[m]
        items = data.cross_items_UT[user, :column]
        before = (items + OFFSETS[data.cross_domains_UT[user, :column]])[items > 0].tolist()
        assert [i for i in crosses[m] if i] == before
        assert (crosses[m][0] == 0) == (data.cross_lengths_U[user] <= 5 or not before)
        n = cases.single_row_M[m]
        earlier = data.single_items_NT[n, : cases.single_column_M[m]]
        assert [i for i in singles[m] if i] == (earlier[earlier > 0] + OFFSETS[cases.domain_M[m]]).tolist()
        assert data.single_items_NT[n, cases.single_column_M[m]] == cases.target_M[m]


def test_a_gpu_gets_fewer_rectangles_and_the_same_tokens():
    """The device decides how tokens lie among padding, not what they are."""
    data = random_set(3, n_users=40, mean_length=9)
    users = np.arange(data.n_users)
    cpu, gpu = (SequenceReader(data, device).training(users) for device in ("cpu", "cuda"))
    for one, other in ((cpu.cross, gpu.cross), (cpu.single, gpu.single)):
        assert len(other.rectangles) < len(one.rectangles)
        assert torch.equal(one.items_N, other.items_N) and torch.equal(one.last_R, other.last_R)
        n_slots = sum(rows * width for rows, width in other.rectangles)
        assert len(other.slots_N.unique()) == len(other.slots_N) and int(other.slots_N.max()) < n_slots
