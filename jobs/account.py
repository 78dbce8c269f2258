"""What became of the lines of a landing day: ingest counts it, its audit keeps it, the report reads it again."""

from __future__ import annotations

import re
from dataclasses import dataclass

ACCOUNTING = "lines read = {} + rejected lines + duplicates"
"""The rule in `audits` whose `observed` holds the numbers; {}: events or impressions."""
MIN_DUPLICATES = 10
"""Fewer duplicates than that are nobody's second delivery."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """Lines read, counted apart from the reading, and what they became."""

    lines: int
    events: int
    rejected: int
    duplicates: int

    def in_words(self) -> str:
        """The numbers as `audits` keeps them: 18 = 5 + 11 + 2."""
        return f"{self.lines:,} = {self.events:,} + {self.rejected:,} + {self.duplicates:,}"


def account_of(words: str) -> Account | None:
    """The account that `in_words` wrote; None for other words."""
    found = re.fullmatch(r"([\d,]+) = ([\d,]+) \+ ([\d,]+) \+ ([\d,]+)", words)
    if not found:
        return None
    lines, events, rejected, duplicates = (int(number.replace(",", "")) for number in found.groups())
    return Account(lines=lines, events=events, rejected=rejected, duplicates=duplicates)


def delivered_again(account: Account) -> str:
    """A sentence where so many lines are duplicates that a file, or a whole day, came twice; else ''."""
    sound = account.lines - account.rejected
    if account.duplicates < MIN_DUPLICATES or 2 * account.duplicates < sound:
        return ""
    if account.events == 0 and account.rejected == 0:
        return f"{account.lines:,} lines came, all of them duplicates of earlier days: was a day delivered again?"
    what = " of earlier days: was a day" if account.events == 0 else ": was a day or a file"
    return f"{account.lines:,} lines came, {account.duplicates:,} of them duplicates{what} delivered again?"
