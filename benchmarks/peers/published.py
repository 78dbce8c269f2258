"""What the adapters of published code share: checkouts, their imports, sequences, negatives, the training loop.

The code of a paper is never part of this repository: it is checked out beside and imported from there unchanged.
What an adapter has to change so that it runs is done at run time and listed in the adapter's docstring.

Shapes: N rows, B rows of a batch, T steps (padded with 0 in front), C channels, V items of all domains, V_d items
of one domain, m cases of one domain, S sampled candidates.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.quality.cells import rank
from benchmarks.quality.data import Array, QualityData
from benchmarks.quality.protocol import Budget, PeerAbsent, View
from syncrec_model.measures import case_values
from syncrec_model.vocabulary import stacked_offsets

Encode = Callable[[Tensor, Tensor], Tensor]
_ENCODED_AT_ONCE = 256
PATIENCE = 10
"""Epochs without a better validation: losses of one random negative learn slowly, and not evenly, not
upwards only; three, enough for a softmax over all items, would end them at their first dip.
"""


def checkout(budget: Budget, repository: str, commit: str, *files: str) -> Path:
    """Return the folder of a public repository's checkout, which must hold `files`.

    Raises
    ------
    PeerAbsent : no folder of checkouts was given, or the files are not there.
    """
    name = repository.partition("/")[2]
    how = f"git clone https://github.com/{repository} CHECKOUTS/{name} (run with commit {commit[:10]})"
    if budget.checkouts is None:
        raise PeerAbsent(f"{repository} is not at hand: {how}, and give the folder CHECKOUTS")
    folder = budget.checkouts / name
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise PeerAbsent(f"{folder} holds no {' and no '.join(missing)}: {how}")
    return folder


def import_alone(folder: Path, *names: str) -> list[ModuleType]:
    """Import modules from a checkout's folder and forget them again: two checkouts both call theirs `utils`."""
    top = {name.partition(".")[0] for name in names} | {file.stem for file in folder.glob("*.py")}
    top |= {path.name for path in folder.iterdir() if path.is_dir()}
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in top}
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] in top]:
            del sys.modules[name]
        sys.modules.update(before)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep what the code prints to itself."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@dataclass(frozen=True)
class Rows:
    """Sequences. items_NT: stacked items 1..V over all domains, domains_NT: codes 1..D; both 0 in front."""

    items_NT: Tensor
    domains_NT: Tensor

    @classmethod
    def of(cls, histories: Iterable[tuple[Array, Array]], n_rows: int, length: int, n_items: Sequence[int]) -> Rows:
        """Take the newest `length` events of every (item, domain code) history, oldest first."""
        offsets_D = np.array(stacked_offsets(n_items))
        items_NT = np.zeros((n_rows, length), dtype=np.int64)
        domains_NT = np.zeros_like(items_NT)
        for row, (item, code) in enumerate(histories):
            kept = min(length, len(item))
            if kept:
                items_NT[row, -kept:] = offsets_D[code[-kept:] - 1] + item[-kept:]
                domains_NT[row, -kept:] = code[-kept:]
        return cls(torch.from_numpy(items_NT), torch.from_numpy(domains_NT))

    def take(self, index: Array | Tensor) -> Rows:
        """Return some of the rows."""
        return Rows(self.items_NT[index], self.domains_NT[index])


def train_histories(data: QualityData) -> list[tuple[int, Array, Array]]:
    """Return (user, item, domain code) of every user who has training events, oldest first."""
    log = data.train
    ends = np.searchsorted(log.user_E, np.arange(data.n_users + 1))
    return [
        (user, log.item_E[start:end], log.domain_E[start:end])
        for user, (start, end) in enumerate(itertools.pairwise(ends))
        if end > start
    ]


@dataclass(frozen=True)
class TrainRows:
    """A row for each user with two training events or more: every event but the last, and the one after each."""

    user_N: Array
    inputs: Rows
    targets: Rows

    @classmethod
    def of(cls, data: QualityData, length: int) -> TrainRows:
        """Cut the training events of all users."""
        known = [entry for entry in train_histories(data) if len(entry[1]) > 1]
        inputs = Rows.of(((item[:-1], code[:-1]) for _, item, code in known), len(known), length, data.n_items)
        targets = Rows.of(((item[1:], code[1:]) for _, item, code in known), len(known), length, data.n_items)
        return cls(np.array([user for user, _, _ in known], dtype=np.int64), inputs, targets)

    def batches(self, rng: np.random.Generator, size: int) -> Iterator[Array]:
        """Yield places of rows, every row once, in a new order."""
        order = rng.permutation(len(self.user_N))
        for start in range(0, len(order), size):
            yield order[start : start + size]


class Negatives:
    """Draws items that a user has no training event with, all items of all domains being as likely."""

    def __init__(self, data: QualityData) -> None:
        log, self._n_all = data.train, sum(data.n_items)
        stacked_E = np.array(stacked_offsets(data.n_items))[log.domain_E - 1] + log.item_E
        self._known = np.unique(log.user_E * (self._n_all + 1) + stacked_E)

    def draw(self, rng: np.random.Generator, user_B: Array, targets_BT: Tensor) -> Tensor:
        """Return a stacked item for every target, [B, T]; 0 where there is none."""
        found_BT = rng.integers(1, self._n_all + 1, tuple(targets_BT.shape))
        for _ in range(100):
            key_BT = user_B[:, None] * (self._n_all + 1) + found_BT
            place_BT = np.searchsorted(self._known, key_BT).clip(max=len(self._known) - 1)
            again_BT = self._known[place_BT] == key_BT
            if not again_BT.any():
                break
            found_BT[again_BT] = rng.integers(1, self._n_all + 1, int(again_BT.sum()))
        return torch.from_numpy(found_BT) * (targets_BT > 0)


class WithoutPadding(nn.Module):
    """A released Transformer encoder that is not given the padding in front of short sequences.

    Exact but for the order of dropout's draws: padding is masked as a key there, and nobody reads its outputs,
    which are 0 here. Rows are sorted by length and encoded in groups, each cut to its longest row; on a GPU, which
    padding costs little, the encoder gets its input as it is. In evaluation, where nothing is drawn, the same input
    is encoded once: the released code gives it to one encoder five times.
    """

    def __init__(self, encoder: nn.Module, group: int = 16) -> None:
        super().__init__()
        self.encoder, self.group = encoder, group
        self._last: tuple[Tensor, list[Tensor]] | None = None

    def forward(self, x_BTC: Tensor, mask_B1TT: Tensor, output_all_encoded_layers: bool = True) -> list[Tensor]:
        """Return a list with the last layer's output. mask_B1TT: 0 where a query may look, else -10000."""
        if x_BTC.device.type != "cpu":  # a GPU waits for launches; padding costs it less than sorting and cutting
            return [self.encoder(x_BTC, mask_B1TT)[-1]]
        if self.training or torch.is_grad_enabled():
            self._last = None
        elif self._last is not None and self._last[0] is x_BTC:
            return self._last[1]
        length_B = (mask_B1TT[:, 0, -1] == 0).sum(1)
        length_B = torch.where(length_B > 0, length_B, x_BTC.shape[1])  # no event at all: as it was given
        order_B = torch.argsort(length_B)
        encoded = []
        for index in torch.split(order_B, self.group):
            longest = int(length_B[index[-1]])
            last = self.encoder(x_BTC[index, -longest:], mask_B1TT[index, :, -longest:, -longest:])[-1]
            encoded.append(nn.functional.pad(last, (0, 0, x_BTC.shape[1] - longest, 0)))
        found = [torch.cat(encoded)[torch.argsort(order_B)]]
        if not self.training and not torch.is_grad_enabled():
            self._last = (x_BTC, found)
        return found


class OnlyEncoded(nn.Module):
    """A layer that treats each step alone, after `WithoutPadding`: steps that are all 0 stay 0."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return the layer's outputs, [B, T, C]."""
        real_BT = (x_BTC != 0).any(-1)
        found_NC: Tensor = self.layer(x_BTC[real_BT])
        return x_BTC.new_zeros(x_BTC.shape).masked_scatter(real_BT[..., None], found_NC)


def dot_view(data: QualityData, length: int, encode: Encode, embedding: Callable[[], Tensor]) -> View:
    """Rank by the product of a history's vector with the items' embeddings.

    encode(items_BT, domains_BT) -> [B, C]; embedding() -> [V, C] of the stacked items 1..V.
    """
    histories: dict[str, Rows] = {}
    offsets_D = stacked_offsets(data.n_items)

    def vectors(part: str, index: Array) -> Tensor:
        if part not in histories:
            pieces = ((item, code) for item, code, _ in data.histories(part))
            histories[part] = Rows.of(pieces, len(data.cases[part]), length, data.n_items)
        rows = histories[part].take(index)
        pairs = zip(
            *(torch.split(ids_NT, _ENCODED_AT_ONCE) for ids_NT in (rows.items_NT, rows.domains_NT)), strict=True
        )
        return torch.cat([encode(items_BT, domains_BT) for items_BT, domains_BT in pairs])

    @torch.no_grad()
    def score(part: str, index: Array) -> Array:
        code = int(data.cases[part].domain_M[index[0]])
        first = offsets_D[code - 1]
        scores_mV: Array = (
            (vectors(part, index) @ embedding()[first : first + data.n_items[code - 1]].T).cpu().numpy()
        )
        return scores_mV

    @torch.no_grad()
    def sampled(part: str, index: Array) -> Array:
        cases = data.cases[part]
        target_m = np.array(offsets_D)[cases.domain_M[index] - 1] + cases.target_M[index]
        candidates_mS = np.concatenate([target_m[:, None], cases.negatives_MS[index]], axis=1) - 1
        item_mSC = embedding()[torch.from_numpy(candidates_mS)]
        found_mS: Array = torch.einsum("mc,msc->ms", vectors(part, index), item_mSC).cpu().numpy()
        return found_mS

    return View(score, sampled)


def validation(data: QualityData, view: View, codes: Iterable[int] | None = None) -> float:
    """Return the mean over domains of NDCG@10 of the validation cases. codes: of these domains only."""
    values_M = case_values(rank(data, "valid", view, sampled=False)["full"])["ndcg@10"]
    domain_M = data.cases["valid"].domain_M
    wanted = range(1, len(data.domains) + 1) if codes is None else codes
    return float(np.mean([values_M[domain_M == code].mean() for code in wanted if (domain_M == code).any()]))


@dataclass
class Training:
    """What a training run came to. seconds: of the epochs alone. values: the validation measure of each epoch.
    stopped: whether the budget's processor minutes ended it, not patience.
    """

    seconds: float
    best_epoch: int
    values: list[float]
    stopped: bool = False

    @property
    def chosen(self) -> dict[str, Any]:
        """Return what a cell keeps of it, plain JSON."""
        kept: dict[str, Any] = {"epoch": self.best_epoch, "validation": self.values}
        return {**kept, "out_of_core_minutes": True} if self.stopped else kept

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a reader must know of it."""
        if not self.stopped:
            return ()
        at_the_end = self.best_epoch == len(self.values)
        return (
            f"stopped by the limit of processor minutes after {len(self.values)} epochs; the best on validation was"
            f" epoch {self.best_epoch}{', the last: longer training may do better' if at_the_end else ''}",
        )


def train_best(
    module: nn.Module, epoch: Callable[[], object], valid: Callable[[], float], budget: Budget
) -> Training:
    """Train until PATIENCE epochs in a row (the budget's, if longer) brought nothing; leave the best's weights.

    No further epoch begins once `budget.core_minutes` of this process were spent here. Prints a line an epoch.
    """
    started = time.process_time()
    found = Training(0.0, 0, [])
    best: tuple[float, Mapping[str, Any]] = (-1.0, {})
    for number in range(1, budget.epochs + 1):
        module.train()
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of old code under a new torch
            epoch()
        found.seconds += time.perf_counter() - began
        module.eval()
        found.values.append(valid())
        if found.values[-1] > best[0]:
            best, found.best_epoch = (found.values[-1], deepcopy(module.state_dict())), number
        spent = (time.process_time() - started) / 60
        print(f"epoch {number}: validation {found.values[-1]:.4f}, {spent:.1f} core minutes", flush=True)
        if number - found.best_epoch >= max(PATIENCE, budget.patience):
            break
        if budget.core_minutes is not None and spent >= budget.core_minutes:
            found.stopped = number < budget.epochs
            break
    module.load_state_dict(best[1])
    module.eval()
    return found


def n_parameters(module: nn.Module) -> int:
    """Return how many numbers are trained."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
