"""C2DSR (public repository cjx96/C2DSR) knows two domains: each domain in turn against all others merged.

Cao et al., Contrastive Cross-Domain Sequential Recommendation, CIKM 2022. Its loader, graph and model
are run unchanged with its own settings (2 blocks, 1 head, 1 graph layer, dropout 0.2, lambda 0.7, batch 256,
Adam 1e-3) at the width of the table. X is the domain to predict, Y all others: five trainings on the same events.
Scores are those of its test_batch for X: shared state at the newest step plus the state of the newest X event.

Repairs, all of them at run time:

1. Five trainings of a two-domain system, each with the epoch of its own domain's best validation NDCG@10. Its own
   code looks at validation every fifth epoch, by MRR among 999 sampled negatives, and reports test scores then.
2. Its train_batch needs a GPU for two labels, and computes logits for every step, most of which a mask then drops.
   `c2dsr_loss.loss` computes those that the mask keeps: the same number and gradient, tested against its own.
3. Its loader gets the events from memory instead of files. Its sequences are short and cut beforehand (30 events at
   most for Entertainment-Education, the longer of its settings, which is taken here) and its loss reads the newest
   10 steps of a sequence: a user's history becomes overlapping sequences of 30 that end every 10 events, so that
   each event is learnt once.
4. Its graph is made from the uncut training sequences.
5. A user without an event of X is scored by the state of padding, as its code would by the index -1.

What stays as it is: sequences with nothing to learn for X or for Y are left out by its loader, its false sequences
are drawn once, and its batches stay the same in all epochs.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.c2dsr_loss import loss
from benchmarks.peers.published import (
    checkout,
    import_alone,
    n_parameters,
    silent,
    train_best,
    train_histories,
    validation,
)
from benchmarks.quality.data import Array, QualityData
from benchmarks.quality.protocol import Budget, Fitted, Peer, View
from syncrec_model.vocabulary import stacked_offsets

REPOSITORY = "cjx96/C2DSR"
COMMIT = "89d4b926a89ce5942793a4456c6e093304c03fc4"
LONGER = "Enter"  # its loader takes 30 steps where a data set's name says so, else 15
LENGTH = 30
LEARNT = 10  # its loss reads the newest 10 steps
BATCH = 256
NOTES = (
    "a two-domain system: five trainings, each domain in turn against the other four merged",
    "its loader, graph and model, unchanged; our training loop computes its loss on the steps that count alone",
    "histories are cut into sequences of 30 that end every 10 events, because its loss reads the newest 10",
    "the epoch is chosen on validation per training; its own code reports test scores of its best validation MRR",
    "sequences with nothing to learn for one of the two sides are left out, as its loader does",
)


class C2DSR(Peer):
    """Two domains, a graph and a Transformer for each and for both, and a contrast of the two."""

    name = "C2DSR"
    kind = "multi-domain"
    source = f"{REPOSITORY} at {COMMIT[:10]} (Cao et al., CIKM 2022)"
    search: Sequence[Mapping[str, Any]] = ({"channels": 64}, {"channels": 128})
    slow = True

    def fit(
        self,
        data: QualityData,
        settings: Mapping[str, Any],
        seed: int,
        budget: Budget,
        folder: Path,
        kept: Callable[[str], View],
    ) -> Fitted:
        """Train one model a domain.

        Raises
        ------
        PeerAbsent : there is no checkout.
        """
        modules = import_code(budget)
        scorers, trainings, parameters = {}, {}, 0
        parts = data.cases.values()
        codes = [code for code in range(1, len(data.domains) + 1) if any((c.domain_M == code).any() for c in parts)]
        if budget.core_minutes is not None:  # an equal share for each training
            budget = replace(budget, core_minutes=budget.core_minutes / len(codes))
        for code in codes:
            torch.manual_seed(seed)
            random.seed(seed)  # its loader draws with it
            pair = Pair(data, code, settings["channels"], budget.device, modules)
            training = train_best(pair.model, pair.epoch, partial(one_domain, data, code, View(pair.score)), budget)
            pair.forget()
            scorers[code], trainings[data.domains[code - 1]] = pair, training
            parameters += n_parameters(pair.model)
        chosen = {name: training.chosen for name, training in trainings.items()}
        notes = [f"{name}: {note}" for name, training in trainings.items() for note in training.notes]

        def score(part: str, index: Array) -> Array:
            return scorers[int(data.cases[part].domain_M[index[0]])].score(part, index)

        seconds = sum(training.seconds for training in trainings.values())
        return Fitted({"": View(score)}, parameters, seconds, chosen, (*NOTES, *notes))


def import_code(budget: Budget) -> list[ModuleType]:
    """Return its modules trainer, loader and GraphMaker.

    Raises
    ------
    PeerAbsent : there is no checkout.
    """
    files = ("model/C2DSR.py", "model/trainer.py", "model/GNN.py", "utils/loader.py", "utils/GraphMaker.py")
    path = checkout(budget, REPOSITORY, COMMIT, *(f"C2DSR_src/{file}" for file in files))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # its graph compares numbers with `is not`
        return import_alone(path / "C2DSR_src", "model.trainer", "utils.loader", "utils.GraphMaker")


class Pair:
    """Its trainer for one domain (X) and the others (Y). Its ids: X 0.., then Y, then padding."""

    def __init__(
        self, data: QualityData, code: int, channels: int, device: str, modules: Sequence[ModuleType]
    ) -> None:
        trainer, loader, graph = modules
        self.data, self.code = data, code
        self.n_x, n_all = data.n_items[code - 1], sum(data.n_items)
        self.ids_V = pair_ids(data, code)
        self.options: dict[str, Any] = {
            "model": "C2DSR", "hidden_units": channels, "num_blocks": 2, "num_heads": 1, "GNN": 1, "dropout": 0.2,
            "optim": "adam", "lr": 1e-3, "leakey": 0.1, "lambda": 0.7, "cuda": device != "cpu", "maxlen": LENGTH,
            "source_item_num": self.n_x, "target_item_num": n_all - self.n_x, "itemnum": n_all + 1,
        }  # fmt: skip
        offsets_D = np.array(stacked_offsets(data.n_items))
        whole = [self.ids_V[offsets_D[code_T - 1] + item_T] for _, item_T, code_T in train_histories(data)]
        with silent(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.batches = list(_loader(loader, [cut for ids_T in whole for cut in cuts(ids_T)], self.options))
            maker: Any = object.__new__(graph.GraphMaker)  # its constructor reads a file
            maker.opt = self.options
            graphs = maker.preprocess([ids_T.tolist() for ids_T in whole], self.options)
        graphs = [adjacency.to(device).coalesce() for adjacency in graphs]
        self.trainer: Any = trainer.CDSRTrainer(self.options, *graphs)
        self.model: Any = self.trainer.model
        self.device = device
        self._histories: dict[str, list[Array]] = {}

    def epoch(self) -> None:
        """Take a step with its optimizer on each of its batches."""
        for batch in self.batches:
            self.trainer.optimizer.zero_grad()
            loss(self.trainer, [values.to(self.device) for values in batch]).backward()  # type: ignore[no-untyped-call]
            self.trainer.optimizer.step()

    def forget(self) -> None:
        """Let go of what only training needs."""
        self.batches, self.trainer = [], None

    @torch.no_grad()
    def score(self, part: str, index: Array) -> Array:
        """Return its scores of X's items, [m, V_d]."""
        if part not in self._histories:
            offsets_D = np.array(stacked_offsets(self.data.n_items))
            self._histories[part] = [
                self.ids_V[offsets_D[code_T - 1] + item_T][1 - LENGTH :]
                for item_T, code_T, _ in self.data.histories(part)
            ]
        known = self._histories[part]
        self.model.graph_convolution()
        ids = case_ids([known[case] for case in index], self.n_x, self.options["itemnum"] - 1)
        whole_BTC, x_BTC, _ = self.model(*(values.to(self.device) for values in ids[:6]))
        rows_B = torch.arange(len(index))
        scores_BV: Array = self.model.lin_X(whole_BTC[:, -1] + x_BTC[rows_B, ids[6]]).cpu().numpy()
        return scores_BV


def pair_ids(data: QualityData, code: int) -> Array:
    """Return its id of every stacked item 0..V (0 is unused): items of domain `code` first, then all others."""
    first = stacked_offsets(data.n_items)[code - 1]
    stacked_V = np.arange(sum(data.n_items) + 1)
    is_x_V = (stacked_V > first) & (stacked_V <= first + data.n_items[code - 1])
    before_V = stacked_V <= first
    return np.where(is_x_V, stacked_V - first - 1, stacked_V - 1 + np.where(before_V, data.n_items[code - 1], 0))


def cuts(ids_T: Array) -> Iterator[list[int]]:
    """Cut a history into sequences of 30 at most, the newest first, that end every 10 events."""
    for end in range(len(ids_T), 1, -LEARNT):
        yield ids_T[max(0, end - LENGTH) : end].tolist()


def case_ids(histories: Sequence[Array], n_x: int, padding: int) -> tuple[Tensor, ...]:
    """Return what its model reads of histories: items of both, of X, of Y, and their positions, all [B, T].

    Last: the step of the newest event of X, [B], the last step where there is none.
    """
    shape = (len(histories), LENGTH)
    ids = [np.full(shape, padding) for _ in range(3)]
    positions = [np.zeros(shape, dtype=np.int64) for _ in range(3)]
    last_x_B = np.full(len(histories), LENGTH - 1)
    for row, ids_T in enumerate(histories):
        first = LENGTH - len(ids_T)
        is_x_T = ids_T < n_x
        for side, kept_T in enumerate((np.ones(len(ids_T), dtype=bool), is_x_T, ~is_x_T)):
            steps = first + np.flatnonzero(kept_T)
            ids[side][row, steps] = ids_T[kept_T]
            positions[side][row, steps] = np.arange(1, len(steps) + 1)
            if side == 1 and len(steps):
                last_x_B[row] = steps[-1]
    return tuple(torch.from_numpy(values) for values in (*ids, *positions, last_x_B))


def one_domain(data: QualityData, code: int, view: View) -> float:
    """Return NDCG@10 of one domain's validation cases; the others are not scored."""

    def score(part: str, index: Array) -> Array:
        of_case = int(data.cases[part].domain_M[index[0]])
        if of_case == code:
            return view.score(part, index)
        return np.zeros((len(index), data.n_items[of_case - 1]), dtype=np.float32)

    return validation(data, View(score), [code])


def _loader(module: ModuleType, sequences: list[list[int]], options: dict[str, Any]) -> Any:
    """Build its loader on sequences from memory; it asks for the items of X first, then for those of Y."""
    counts = iter((options["source_item_num"], options["target_item_num"]))

    class FromMemory(module.DataLoader):  # type: ignore[misc, name-defined]
        """Its loader without files."""

        def read_item(self, _: str) -> int:
            """Return how many items a side has."""
            return int(next(counts))

        def read_train_data(self, _: str) -> list[list[int]]:
            """Return the sequences."""
            return sequences

    return FromMemory(LONGER, BATCH, options, evaluation=-1)


PEERS: tuple[Peer, ...] = (C2DSR(),)
