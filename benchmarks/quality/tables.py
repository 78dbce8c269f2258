"""The tables of the quality benchmark, in Markdown: they read in a terminal and in the documentation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.markdown import table
from benchmarks.quality.ablations import ablation_tables, weight_table
from benchmarks.quality.bootstrap import Gain, Interval
from benchmarks.quality.data import NEWEST_STRATA, STRATA, TARGET_STRATA
from benchmarks.quality.figures import BEST_MULTI, BEST_SINGLE, METRICS, SAMPLED, Figures, SystemFigures
from benchmarks.quality.protocol import KINDS
from benchmarks.quality.systems import EQUIPPED, METRIC, PLAIN, Row
from benchmarks.quality.trials import DONE

FEW_CASES = 100  # a domain, on average: a stratum with fewer decides nothing
SHORT = {
    "Beauty": "Beauty",
    "Sports_and_Outdoors": "Sports",
    "Toys_and_Games": "Toys",
    "Grocery_and_Gourmet_Food": "Grocery",
    "Home_and_Kitchen": "Home",
}
RIVALS = {
    BEST_SINGLE: "the best of one domain",
    BEST_MULTI: "the best of all domains, the equipped ensemble apart",
    PLAIN: "the plain ensemble",
    EQUIPPED: "the equipped ensemble",
}


FOLDED = frozenset(
    {
        "HR@10 on test",
        "MRR on test",
        "The papers' 100-negative protocol: not a measure of quality",
        "What validation chose",
        "Every trial",
    }
)
"""Tables that a page shows on a click: a reader of the first one does not come for them."""


def report(figures: Figures, rows: Mapping[str, Row], *, fold: bool = False) -> str:
    """Return every table with its heading. fold: as a page has them, those in FOLDED closed."""
    lines = ranked(figures)
    parts = [("Rows without a result", missing_table(rows))]
    if lines:
        parts += [
            ("NDCG@10 on test, all items of the domain", quality_table(lines, figures.domains)),
            ("HR@10 on test", measure_table(lines, figures.domains, "hr@10")),
            ("MRR on test", measure_table(lines, figures.domains, "mrr")),
        ]
    for key, gained in figures.versus.items():
        against = [(short(d), gained.rivals[d], gain) for d, gain in gained.domains.items()]
        macro = [("macro", ", ".join(dict.fromkeys(gained.rivals.values())), gained.macro)]
        parts.append((f"Our default against {RIVALS[key]}, NDCG@10 on test", gain_table(against + macro)))
    parts.append(
        ("The same of targets that somebody had in training, ranked among such items", known_table(figures))
    )
    parts.append(("RQ2: gained or lost against single-domain training, NDCG@10 on test", transfer_table(figures)))
    names = [short(domain) for domain in figures.domains]
    parts += ablation_tables(figures.ablations, names)
    parts.append(
        ("RQ3: weight of each domain's cross loss in the chosen epoch", weight_table(figures.weights, names))
    )
    if lines:
        parts += [
            (
                "NDCG@10 by events of the user in the domain before the case, mean over domains",
                strata_table(figures, lines, "strata", STRATA),
            ),
            (
                "NDCG@10 by training events of the target, of everybody; mean over domains",
                strata_table(figures, lines, "target_strata", TARGET_STRATA),
            ),
            (
                "NDCG@10 among the items that somebody had in training, by the newest event before the case: none, "
                "of a new item that nobody had in training, of a known one; mean over domains",
                newest_table(figures, lines),
            ),
            ("The papers' 100-negative protocol: not a measure of quality", sampled_table(lines)),
            ("Costs", cost_table(lines)),
            ("What validation chose", chosen_table(lines)),
        ]
    parts.append(("Every trial", trial_table(rows.values())))
    return "\n\n".join(_section(title, text, fold and title in FOLDED) for title, text in parts if text)


def _section(title: str, text: str, folded: bool) -> str:
    if folded:  # HTML as every code host and Sphinx let it through
        return f"<details>\n<summary><b>{title}</b></summary>\n\n{text}\n\n</details>"
    return f"**{title}**\n\n{text}"


def short(domain: str) -> str:
    """Return a domain's name for the head of a column."""
    return SHORT.get(domain, domain)


def ranked(figures: Figures) -> list[SystemFigures]:
    """Return the systems by kind, the best on test first; no view twice that is the row itself."""

    def place(line: SystemFigures) -> tuple[int, float]:
        return KINDS.index(line.kind), -line.test[METRIC]["macro"]

    rows = {line.row: line for line in figures.systems.values() if line.name == line.row}
    shown = [
        line
        for line in figures.systems.values()
        if line.name == line.row or line.row not in rows or line.test != rows[line.row].test
    ]
    return sorted(shown, key=place)


def quality_table(lines: Sequence[SystemFigures], domains: Sequence[str]) -> str:
    """Return NDCG@10 by domain, the macro mean with its interval, the worst domain."""
    head = ["row", "kind", "seeds", "macro [95 %]", *map(short, domains), "min"]
    return table(
        head,
        [
            [line.name, line.kind, str(len(line.seeds)), level(line.macro),
             *(number(line.test[METRIC][d]) for d in domains), number(line.test[METRIC]["min"])]
            for line in lines
        ],
    )  # fmt: skip


def measure_table(lines: Sequence[SystemFigures], domains: Sequence[str], metric: str) -> str:
    """Return one measure by domain."""
    columns = [*domains, "macro", "min"]
    rows = [[line.name, *(number(line.test[metric][column]) for column in columns)] for line in lines]
    return table(["row", *map(short, columns)], rows)


def gain_table(found: Iterable[tuple[str, str, Gain]]) -> str:
    """Return paired differences, one line a domain: (domain, rival, gain)."""
    rows = [
        [domain, rival, signed(gain.difference), percent(gain.ratio), gain.difference.word]
        for domain, rival, gain in found
    ]
    return table(["domain", "rival", "difference [95 %]", "of the rival's [95 %]", "reads"], rows)


def transfer_table(figures: Figures) -> str:
    """Return the gain or loss of every row that learns from all domains; "*" where the interval leaves out 0."""
    if not figures.transfer:
        return ""
    rows = []
    for line in ranked(figures):
        if line.name in figures.transfer:
            found = figures.transfer[line.name]
            cells = [marked(gain.ratio) for gain in [*found.domains.values(), found.macro]]
            rows.append([line.name, line.kind, *cells])
    rivals = ["*against*", "", *(figures.rivals.single[domain] for domain in figures.domains), ""]
    return table(["row", "kind", *map(short, figures.domains), "macro"], [*rows, rivals])


def strata_table(figures: Figures, lines: Sequence[SystemFigures], by: str, names: Sequence[str]) -> str:
    """Return NDCG@10 by stratum, under the number of its cases. by: the field of `SystemFigures`."""
    counts = ["*cases*", *(f"{figures.cases[by][name]:,}" for name in names)]
    rows = [[line.name, *(number(getattr(line, by)["macro"][name]) for name in names)] for line in lines]
    return table(["row", *names], [counts, *rows])


def newest_table(figures: Figures, lines: Sequence[SystemFigures]) -> str:
    """Return NDCG@10 by the newest event, "" where too few have a new one to say anything."""
    few = figures.cases["newest_strata"]["new"] < FEW_CASES * len(figures.domains)
    return "" if few else strata_table(figures, lines, "newest_strata", NEWEST_STRATA)


def known_table(figures: Figures) -> str:
    """Return our default's gains where targets and candidates have training events, as a fraction of the rival's.

    One line a rival; "*" where the interval leaves out 0.
    """
    rows = [
        [RIVALS[key], *(marked(gain.ratio) for gain in found.domains.values()), percent(found.macro.ratio)]
        for key, found in figures.known.items()
    ]
    return table(["against", *map(short, figures.domains), "macro [95 %]"], rows) if rows else ""


def sampled_table(lines: Sequence[SystemFigures]) -> str:
    """Return the measures among 100 sampled negatives, means over domains, to compare with published tables."""
    names = {METRIC: "NDCG@10", "hr@10": "HR@10", "mrr": "MRR"}
    head = ["row", *(f"{names[metric]}, {words}" for words in SAMPLED.values() for metric in METRICS)]
    rows = [
        [line.name, *(number(line.sampled[ranking][metric]["macro"]) if ranking in line.sampled else "-"
                      for ranking in SAMPLED for metric in METRICS)]
        for line in lines
    ]  # fmt: skip
    return table(head, rows)


def cost_table(lines: Sequence[SystemFigures]) -> str:
    """Return what a system costs."""
    head = ["row", "train s", "core s", "all trials s", "parameters", "ms a user", "peak GiB", "device"]
    rows = [
        [line.name, f"{line.cost.train_s:.1f}", f"{line.cost.train_core_s:.1f}", f"{line.cost.search_s:.0f}",
         f"{line.cost.parameters:,}", f"{line.cost.user_ms:.2f}", f"{line.cost.peak_gib:.2f}",
         line.cost.device]
        for line in lines
    ]  # fmt: skip
    return table(head, rows)


def chosen_table(lines: Sequence[SystemFigures]) -> str:
    """Return every row's source, settings and what a reader must know."""
    rows = [
        [line.name, cell(line.source), words(line.settings), number(line.valid_macro), cell("; ".join(line.notes))]
        for line in lines
    ]
    return table(["row", "source", "settings", "validation macro", "notes"], rows)


def missing_table(rows: Mapping[str, Row]) -> str:
    """Return the rows that did not run here or crashed, and why."""
    found = [[name, "absent", cell(row.absent)] for name, row in rows.items() if row.absent]
    found += [[name, "crashed", cell(error)] for name, row in rows.items() for error in row.errors]
    return table(["row", "", "why"], found) if found else ""


def trial_table(rows: Iterable[Row]) -> str:
    """Return every attempt, the failed too."""
    found = [
        [trial.row, words(trial.settings), str(trial.seed), number(trial.valid_macro), f"{trial.seconds:.1f}",
         str(trial.epochs), cell(trial.outcome if trial.outcome == DONE else f"{trial.outcome}: {trial.message}")]
        for row in rows for trial in row.trials
    ]  # fmt: skip
    head = ["row", "settings", "seed", "validation macro", "seconds", "epochs at most", "ended"]
    return table(head, found) if found else ""


def number(value: float, digits: int = 4) -> str:
    """Return a level; "-" where it is not defined."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def level(found: Interval) -> str:
    """Return a level with its interval."""
    bounds = f" [{found.low:.4f}, {found.high:.4f}]" if math.isfinite(found.low) else ""
    return number(found.value) + bounds


def signed(found: Interval) -> str:
    """Return a difference with its interval."""
    bounds = f" [{found.low:+.4f}, {found.high:+.4f}]" if math.isfinite(found.low) else ""
    return f"{found.value:+.4f}{bounds}" if math.isfinite(found.value) else "-"


def percent(found: Interval) -> str:
    """Return a fraction as percent with its interval."""
    bounds = f" [{found.low:+.1%}, {found.high:+.1%}]" if math.isfinite(found.low) else ""
    return f"{found.value:+.1%}{bounds}" if math.isfinite(found.value) else "-"


def marked(found: Interval) -> str:
    """Return a fraction as percent, with "*" where its interval leaves out 0."""
    sure = " *" if found.word != "unclear" else ""
    return f"{found.value:+.1%}{sure}" if math.isfinite(found.value) else "-"


def words(settings: Mapping[str, object]) -> str:
    """Return settings in a cell of a table."""
    return cell(", ".join(f"{name} {value}" for name, value in settings.items()) or "-")


def cell(text: str) -> str:
    """Return text that cannot break a table."""
    return " ".join(text.split()).replace("|", "/")
