"""The text of docs/scale.md around the costs of `benchmarks.scale`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict

from benchmarks.markdown import table
from benchmarks.scale import Prices, Target, Unit, Value, costs_of

ASSUMED = "2026-11"
"""When prices were assumed."""
NOT_MEASURED = "not measured"
ID_BYTES = 69
"""Of an id of 20 characters as Python text: 49 bytes and the characters."""
_HEAD = """# At a hundred million users

<!-- Made by `python -m benchmarks.scale` from benchmarks/results/*.json: run it after a benchmark. The text is in
benchmarks/scale_page.py, the formulae are in benchmarks/scale.py. -->

What a night would cost for {users} users, {items} items and {domains} domains: measured unit costs times counts.
Nobody has run this size. A unit that no benchmark has recorded is *not measured*, and so is all that needs it.

## Unit costs

On the machines that the results files name."""
_ASSUMED = """## Assumed

What no benchmark can know. Change it in `Target` and `Prices` of benchmarks/scale.py.

{targets}

Prices are round figures close to what large clouds listed on demand for one region, written down in {date} from
memory, not looked up: a virtual core with 4 GB ${core_hour:g} an hour, a GPU of the H100 kind ${gpu_hour:g} an
hour, a shared file system ${shared_gb_month:g} a GB and month, an object store ${object_gb_month:g}."""
_SUM = """## The sum

Hours are those of one virtual core or one GPU, executors what the window needs; GB are 10^9 bytes. Small builds are
mostly the start of Spark, so what a night costs by new event is an upper bound."""
_BREAKS = """## What breaks first

In the order in which it stops a night, or makes it too dear.

1. **The model in every Python worker of `score`.** Vectors of all items in float32 take {vectors}, with the copy in
   bfloat16 {model}, and each worker of a machine loads its own. *Next step*: one worker a machine that ranks with
   all of its cores (the kernel is threaded already), its weights mapped from the safetensors file.
2. **One machine trains.** Memory grows with the items, at most to {train_gib}; one training: {gpu_hours}.
   *Next step*: the ranks that `fit` already shares work between, the item table split between them, and a sample of
   the users a night: all of them are not needed to follow one day.
3. **Lists of all users are written every night**: {list_rows} rows ({list_gb}), though {changed} of the users
   changed. *Next step*: write the lists that changed and read the latest of a user, as `sequences` does.
4. **The warehouse is a shared file system** ([the cluster's page](cluster.md#object-stores)). A month of it:
   {shared_month}; of an object store: {object_month}. *Next step*: staging by object keys instead of folders.
5. **Vocabularies live in the driver and in the model's folder.** {items} ids of 20 characters are {ids} as Python
   text. *Next step*: an Arrow column, sorted, mapped from a file.
6. **The catalog is one SQL database and one commit a table.** Executors never talk to it, so it does not grow with
   users; manifests grow with files, which maintenance bounds."""


def page(units: Mapping[str, Unit], target: Target, prices: Prices) -> str:
    """Return the page."""
    costs = costs_of(units, target, prices)
    assumed = "\n".join(f"- {line}" for line in _targets(target))
    parts = [
        _HEAD.format(users=_count(target.users), items=_count(target.items), domains=target.domains),
        _units(units.values()),
        _ASSUMED.format(targets=assumed, date=ASSUMED, **asdict(prices)),
        _SUM,
        _costs(costs, target),
        _BREAKS.format(
            vectors=_amount(costs["vectors.gb"], "GB"),
            model=_amount(costs["model.gb"], "GB"),
            train_gib=_amount(costs["train.gib"], "GiB"),
            gpu_hours=_amount(costs["train.gpu_hours"], "GPU hours"),
            list_rows=_count(target.list_rows),
            list_gb=_amount(costs["list.gb"], "GB"),
            changed=f"{target.changed_share:.0%}",
            shared_month=_money(costs["money.shared_month"]),
            object_month=_money(costs["money.object_month"]),
            items=_count(target.items),
            ids=_amount(target.items * ID_BYTES / 1e9, "GB"),
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _units(units: Iterable[Unit]) -> str:
    rows = [
        (u.words, _number(u.value), u.unit, f"`{u.source}`" if u.value is not None else f"`{u.command}`")
        for u in units
    ]
    return table(("what", "cost", "unit", "from, or measured by"), rows)


def _targets(t: Target) -> list[str]:
    return [
        f"{t.events_a_user:g} events a user, {_count(t.events)} in all; {t.new_share:.0%} of them new a night, "
        f"{_count(t.new_events)}; {t.changed_share:.0%} of the users change",
        f"{t.channels} channels, {t.top_n} rows a user and domain, kept {t.keep_days} nights",
        f"{t.window_hours:g} hours for the build and as many for scoring, executors of {t.executor_cores} cores, "
        f"{t.efficiency:.0%} of the speed that as many cores have on one machine",
        f"{t.epochs} epochs of a warm-started training over all users; twice the domains, twice its work a user",
    ]


def _costs(c: Mapping[str, Value], t: Target) -> str:
    events, new, users = _count(t.events), _count(t.new_events), _count(t.users)
    window, slower = f"/ {t.window_hours:g} h / {t.executor_cores} cores", f"/ {t.efficiency:g}"
    rank = f"2 cores / (users/s) x {t.items / 1e6:g} x (1 + Spark's share)"
    gpu = f"{users} x {t.epochs} / (GPU's users/s x 1 M items' share of speed x 5 / {t.domains})"
    lists = f"bytes a row x {_count(t.list_rows)} rows x {t.keep_days} nights"
    hours, machines, volume = "core-hours", "executors", "GB shuffled"
    return table(
        ("what", "formula", "result"),
        [
            ("full build, once", f"core-s a million x {events} events {slower}", _amount(c["full.hours"], hours)),
            ("", window, _amount(c["full.executors"], machines)),
            ("", f"bytes an event x {events}", _amount(c["full.shuffle_gb"], volume)),
            ("build, a night", f"core-s a million x {new} events {slower}", _amount(c["night.hours"], hours)),
            ("", window, _amount(c["night.executors"], machines)),
            ("", f"bytes a new event x {new}", _amount(c["night.shuffle_gb"], volume)),
            ("score, a user", rank, _amount(c["rank.core_s_a_user"], "core-s")),
            ("score, a night", f"x {t.changed_share:.0%} of {users} {slower}", _amount(c["score.hours"], hours)),
            ("", window, _amount(c["score.executors"], machines)),
            ("score, new model", f"x {users} {slower}", _amount(c["score.hours_all"], hours)),
            ("train", gpu, _amount(c["train.gpu_hours"], "GPU hours")),
            ("train without a GPU", f"2 cores x {users} x {t.epochs} / (users/s x 5 / {t.domains})",
             _amount(c["train.core_hours"], hours)),
            ("interactions", f"bytes an event x {events}", _amount(c["store.interactions_gb"], "GB")),
            ("sequences", f"full + 30 nights of {new} events", _amount(c["store.sequences_gb"], "GB")),
            ("recommendations", lists, _amount(c["store.lists_gb"], "GB")),
            ("money, a night", "core-hours of build and score", _money(c["money.night"])),
            ("money, all from the start", "full build, score of a new model", _money(c["money.full"])),
            ("money, a training", "GPU hours", _money(c["money.train"])),
            ("money, storage", "shared file system, a month", _money(c["money.shared_month"])),
        ],
    )  # fmt: skip


def _number(value: Value) -> str:
    if value is None:
        return NOT_MEASURED
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _amount(value: Value, unit: str) -> str:
    return NOT_MEASURED if value is None else f"{_number(value)} {unit}"


def _money(value: Value) -> str:
    return NOT_MEASURED if value is None else f"${_number(value)}"


def _count(value: float) -> str:
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:g} {word}"
    return f"{value:,.0f}"
