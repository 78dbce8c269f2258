"""The study kit's cut: which events of a log are studied, in which order, and which are to be predicted.

Shapes: E events, U users, D domains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .study_columns import StudyError
from .study_data import PARTS, TEST, TRAIN, VALID, StudyData
from .study_log import RawLog, read_log
from .vocabulary import Vocabulary

Array = NDArray[Any]
SPLITS = ("leave-one-out", "time")
_TIME_SHARE = 0.1  # of the events: the last tenth is the test window, the tenth before it validation
_FEWEST_CASES, _FEW_CASES = 10, 50
_MANY = 0.05  # a share that is worth a note


def read_study(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    unit: str | None = None,
    split: str = "leave-one-out",
    domains: Sequence[str] | None = None,
    core: int = 0,
    users: int | None = None,
    repeats: Collection[str] = (),
) -> StudyData:
    """Read a log and cut it. columns, unit: see `read_log`.

    split: "leave-one-out": of every user with three events or more the last is a test case, the one before it a
    validation case. "time": the last tenth of all events is the test window, the tenth before it validation; every
    event of a window with a history is a case. domains: these alone, in this order; None: all, by name. core: keep
    users of two domains or more, then drop users and items with fewer events than that until none is left; 0: keep
    all. users: so many, drawn with a fixed seed among those with three events or more. repeats: domains in which
    users come back to an item, so that items of the history stay candidates.

    Raises
    ------
    StudyError : the log, or what is left of it, cannot be studied.
    """
    if split not in SPLITS:
        raise StudyError(f"split {split!r}: choose one of {', '.join(SPLITS)}")
    if users is not None and users < 1:
        raise StudyError(f"users = {users}: give a whole number, at least 1")
    raw = read_log(path, columns, unit)
    names = chosen_domains(raw, domains)
    wanted = (repeats,) if isinstance(repeats, str) else tuple(repeats)
    if strange := [domain for domain in wanted if domain not in names]:
        raise StudyError(f"repeats names the unknown domain {strange[0]!r}; domains are {', '.join(names)}")
    kept_E, notes = _kept(raw, names, core, users)
    data = _ordered(raw, names, kept_E, split, wanted, notes)
    _check(raw, data, users)
    _describe(raw, data)
    return data


def chosen_domains(raw: RawLog, wanted: Sequence[str] | None) -> list[str]:
    """Return the domains that were asked for, None: all, by name; fewer than two and unknown ones are refused."""
    names = sorted(raw.domains) if wanted is None else list(dict.fromkeys(wanted))
    if strange := [name for name in names if name not in raw.domains]:
        raise StudyError(f"{raw.path} has no domain {strange[0]!r}; it has {', '.join(sorted(raw.domains))}")
    if len(names) < 2 and len(raw.domains) > 1:
        found = f"one domain only ({names[0]})" if names else "none"
        raise StudyError(
            f"the option domains (--domains) names {found}: SyNCRec measures what other domains give to one; "
            f"name two or more of {', '.join(sorted(raw.domains))}"
        )
    if len(names) < 2:
        raise StudyError(
            f"{raw.path}: one domain only ({names[0]}). SyNCRec measures what other domains give to one: the "
            "domain column must name two or more"
        )
    return names


def _kept(raw: RawLog, names: list[str], core: int, users: int | None) -> tuple[Array, list[str]]:
    """Return the places of the events that are studied, and sentences about the others."""
    notes: list[str] = []
    pair_E = raw.item_E * len(raw.domains) + raw.domain_E  # an id in two domains is two items
    kept_E = np.isin(raw.domain_E, [raw.domains.index(name) for name in names])
    again_E = _repeated(raw.user_E, pair_E, raw.ts_E) & kept_E
    if again_E.any():
        notes.append(f"{again_E.sum():,} events say the same as another (user, item, domain, time): counted once.")
        kept_E &= ~again_E
    if core:
        kept_E = _core(kept_E, raw.user_E, pair_E, raw.domain_E, core)
        if not kept_E.any():
            raise StudyError(f"{raw.path}: nothing is left of core {core}: give a smaller number")
    able = np.flatnonzero(np.bincount(raw.user_E[kept_E], minlength=len(raw.users)) >= 3)
    if users is not None and users < len(able):
        by_name = sorted(able.tolist(), key=raw.users.__getitem__)
        drawn = np.random.default_rng(0).permutation(by_name)[:users]
        kept_E &= np.isin(raw.user_E, drawn)
        notes.append(f"A sample of {users:,} of {len(able):,} users: fewer items compete, so figures are higher.")
    return np.flatnonzero(kept_E), notes


def _repeated(user_E: Array, pair_E: Array, ts_E: Array) -> Array:
    """Return which events say what another, kept one says."""
    order = np.lexsort((ts_E, pair_E, user_E))
    same = [values[order][1:] == values[order][:-1] for values in (user_E, pair_E, ts_E)]
    again_E = np.zeros(len(user_E), dtype=bool)
    again_E[order[1:]] = same[0] & same[1] & same[2]
    return again_E


def _core(kept_E: Array, user_E: Array, pair_E: Array, domain_E: Array, core: int) -> Array:
    """Keep users of two domains or more, then drop users and items below the core until none is left."""
    n_domains = domain_E.max() + 1
    in_domain = np.unique(user_E[kept_E] * n_domains + domain_E[kept_E]) // n_domains
    kept_E = kept_E & (np.bincount(in_domain, minlength=user_E.max() + 1)[user_E] >= 2)
    _, pair_E = np.unique(pair_E, return_inverse=True)
    while True:
        of_user_E = np.bincount(user_E[kept_E], minlength=user_E.max() + 1)[user_E]
        of_item_E = np.bincount(pair_E[kept_E], minlength=pair_E.max() + 1)[pair_E]
        smaller_E = kept_E & (of_user_E >= core) & (of_item_E >= core)
        if smaller_E.sum() == kept_E.sum():
            return smaller_E
        kept_E = smaller_E


def _ordered(
    raw: RawLog, names: list[str], kept_E: Array, split: str, repeats: tuple[str, ...], notes: list[str]
) -> StudyData:
    """Number users and items by name, put events in order and cut them."""
    code_D = np.zeros(len(raw.domains), dtype=np.int64)
    code_D[[raw.domains.index(name) for name in names]] = np.arange(1, len(names) + 1)
    user_E, users = _numbered(raw.user_E[kept_E], raw.users)
    domain_E, item_E = code_D[raw.domain_E[kept_E]], np.zeros(len(kept_E), dtype=np.int64)
    vocabulary = []
    for code in range(1, len(names) + 1):
        own_E = domain_E == code
        numbers, ids = _numbered(raw.item_E[kept_E][own_E], raw.items)
        item_E[own_E] = numbers + 1
        vocabulary.append(ids)
    ts_E = raw.ts_E[kept_E]
    # Ties of a user's clock: by a hash of the event, as in the night, an order that no title or row number decides.
    tie_E = (_marks(raw.users)[raw.user_E[kept_E]] ^ _marks(raw.items)[raw.item_E[kept_E]]) + domain_E.astype(
        np.uint64
    )
    order = np.lexsort((tie_E, ts_E, user_E))
    user_E, item_E, domain_E, ts_E = (values[order] for values in (user_E, item_E, domain_E, ts_E))
    part_E = _time_parts(ts_E) if split == "time" else _last_two(user_E)
    has_history_E = np.append(False, user_E[1:] == user_E[:-1])[: len(user_E)]
    return StudyData(
        path=raw.path, vocabulary=Vocabulary(tuple(names), tuple(vocabulary)), users=users,
        user_E=user_E, item_E=item_E, domain_E=domain_E, ts_E=ts_E,
        part_E=part_E, is_case_E=(part_E != TRAIN) & has_history_E, split=split, repeats=repeats, notes=notes,
    )  # fmt: skip


def _numbered(codes: Array, names: list[str]) -> tuple[Array, list[str]]:
    """Return the codes numbered anew in the order of their names, and those names."""
    present = sorted(np.unique(codes).tolist(), key=names.__getitem__)
    place = np.zeros(len(names), dtype=np.int64)
    place[present] = np.arange(len(present))
    return place[codes], [names[code] for code in present]


def _marks(names: list[str]) -> Array:
    """Return 64 bits of a hash of every name."""
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(digests, dtype="<u8")


def _last_two(user_E: Array) -> Array:
    counts_U = np.bincount(user_E)
    to_end_E = np.cumsum(counts_U)[user_E] - np.arange(len(user_E))
    part_E = np.where(to_end_E == 1, TEST, np.where(to_end_E == 2, VALID, TRAIN))
    return np.where(counts_U[user_E] >= 3, part_E, TRAIN)


def _time_parts(ts_E: Array) -> Array:
    if not len(ts_E):
        return np.zeros(0, dtype=np.int64)
    ordered = np.sort(ts_E)
    valid_from, test_from = (ordered[int(len(ordered) * (1 - share))] for share in (2 * _TIME_SHARE, _TIME_SHARE))
    return np.where(ts_E >= test_from, TEST, np.where(ts_E >= valid_from, VALID, TRAIN))


def _check(raw: RawLog, data: StudyData, users: int | None) -> None:
    """Refuse what can teach nothing or be measured by nothing. users: as many were asked for."""
    for domain, ids in zip(data.domains, data.vocabulary.item_ids, strict=True):
        if len(ids) < 2:
            raise StudyError(
                f"{raw.path}: domain {domain} has {len(ids)} item{'s' * (len(ids) != 1)} here, so there is nothing "
                "to rank: leave it out with --domains, or give more users"
            )
    in_domain = np.unique(data.user_E * len(data.domains) + data.domain_E - 1) // len(data.domains)
    shared = int((np.bincount(in_domain) >= 2).sum())
    if not shared:
        raise StudyError(
            f"{raw.path}: no user has events in two domains, so no domain can give anything to another: do the "
            "domains write their user ids in different ways?"
        )
    cases = {part: len(data.cases(part)) for part in PARTS}
    if min(cases.values()) < _FEWEST_CASES or not (data.part_E == TRAIN).any():
        sampled = users == len(data.users) < len(raw.users)
        give = f"more --users than {users:,}, or a longer log" if sampled else "a longer log"
        why = "leave-one-out needs users with three events or more"
        if data.split == "time":
            why = "the last two tenths of the events must be of users who were there before"
        raise StudyError(
            f"{raw.path}: too few users: {cases['valid']} validation and {cases['test']} test cases from "
            f"{len(data.users):,} users, at least {_FEWEST_CASES} of each are needed ({why}): give {give}"
        )


def _describe(raw: RawLog, data: StudyData) -> None:
    """Say what was read, in figures, and what a reader of the results should know, in sentences."""
    test, n_users = data.cases("test"), len(data.users)
    in_domain = np.unique(data.user_E * len(data.domains) + data.domain_E - 1) // len(data.domains)
    seen = data.seen_again(test)
    known = data.learned(test)
    data.facts.update(
        log=raw.path.name, events=len(data.user_E), users=n_users,
        users_of_two_domains=int((np.bincount(in_domain) >= 2).sum()),
        first=raw.day(data.ts_E.min()), last=raw.day(data.ts_E.max()), split=data.split, repeats=list(data.repeats),
        learned_events=int((data.part_E == TRAIN).sum()),
        cases={part: len(data.cases(part)) for part in PARTS}, fingerprint=data.fingerprint(),
        domains={
            domain: {
                "items": n_items,
                "cases": int(own.sum()),
                "cases_of_items_never_learned": int((own & ~known).sum()),
                "cases_of_items_in_the_history": int((own & seen).sum()),
            }
            for domain, n_items, own in zip(
                data.domains, data.vocabulary.n_items,
                (data.domain_E[test] == code for code in range(1, len(data.domains) + 1)), strict=True,
            )
        },
    )  # fmt: skip
    if raw.unit is None:
        data.notes.append("The times are no dates: their order alone counts.")
    same = (data.ts_E[1:] == data.ts_E[:-1]) & (data.user_E[1:] == data.user_E[:-1])
    if same.mean() > _MANY:
        data.notes.append(
            f"{same.mean():.0%} of events share user and time with the one before: a hash orders them."
        )
    if data.repeats:
        data.notes.append(f"In {', '.join(data.repeats)} users come back to items (--repeats): none is taken out.")
    for domain, facts in data.facts["domains"].items():
        cases, again = facts["cases"], facts["cases_of_items_in_the_history"]
        if cases < _FEW_CASES:
            data.notes.append(f"{domain}: {cases} test case{'s' * (cases != 1)}, too few to tell anything.")
        elif again > _MANY * cases and domain not in data.repeats:
            data.notes.append(
                f"{domain}: {again / cases:.0%} of the targets were in the history before; if users come back to "
                f"items there, give --repeats {domain}."
            )
