"""Whose rows and lines go when users are forgotten: their ids, in every form in which a log may write one."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

from jobs.errors import JobError
from jobs.schemas import ANYONE
from jobs.settings import Source

BLANKS = " \t\r\n\u00a0\ufeff"
SHORTEST_WORD = 6
"""A shorter id may be any word or number: free text (logs, pages) is not searched for it."""

LineTest = Callable[[str], bool]


@dataclass(frozen=True)
class People:
    """The users to forget.

    Raises
    ------
    JobError
        No id, or one that no user has.
    """

    ids: frozenset[str]

    def __post_init__(self) -> None:
        if not self.ids:
            raise JobError("name at least one user: --user-id ID")
        for user in self.ids:
            if not user.strip(BLANKS) or user != user.strip(BLANKS) or user == ANYONE:
                raise JobError(f"'{user}' is no user id: give it as the tables have it, without blanks around it")

    @cached_property
    def forms(self) -> tuple[str, ...]:
        """The ids as plain text, as JSON writes them, with CSV's doubled quotes."""
        found = set()
        for user in self.ids:
            found |= {user, json.dumps(user)[1:-1], json.dumps(user, ensure_ascii=False)[1:-1]}
            found.add(user.replace('"', '""'))
        return tuple(sorted(found))

    @cached_property
    def _word(self) -> re.Pattern[str]:
        return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, self.forms))})(?![\w-])")

    @cached_property
    def _long_word(self) -> re.Pattern[str] | None:
        long = [form for user in self.ids if len(user) >= SHORTEST_WORD for form in self.forms if user in form]
        return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, long))})(?![\w-])") if long else None

    def mentioned(self, text: str) -> bool:
        """Whether an id stands in the text as a word of its own."""
        return self._word.search(text) is not None

    def mentioned_freely(self, text: str) -> bool:
        """The same in text that is no log of events; only of ids that are no ordinary words."""
        return self._long_word is not None and self._long_word.search(text) is not None

    @property
    def short(self) -> bool:
        """Whether an id is too short to be looked for in free text."""
        return any(len(user) < SHORTEST_WORD for user in self.ids)

    def possible(self, text: str) -> bool:
        """Whether it is worth while to parse a line: it holds an id, or an escape that may hide one."""
        return "\\" in text or any(form in text for form in self.forms)

    def line_test(self, source: Source, columns: Collection[str] | None) -> LineTest:
        """What tells whether a line of a source is one of theirs.

        A line that cannot be read as the source says is theirs if it names one of them at all.

        Parameters
        ----------
        source
            Says where the user id stands.
        columns
            Of a CSV the columns in order; None where they are not known.
        """
        if source.format == "csv":
            return self._csv_test(source, columns)
        return lambda line: self.possible(line) and self._in_json(line, source.user)

    def _csv_test(self, source: Source, columns: Collection[str] | None) -> LineTest:
        names = list(columns or ())
        if source.user not in names:
            return self.mentioned
        place = names.index(source.user)

        def test(line: str) -> bool:
            if not self.possible(line):
                return False
            try:
                (row,) = csv.reader([line.rstrip("\r\n")], delimiter=source.delimiter)
            except (csv.Error, ValueError):
                return self.mentioned(line)
            if place < len(row) and row[place].strip(BLANKS) in self.ids:
                return True
            return len(row) != len(names) and self.mentioned(line)

        return test

    def _in_json(self, line: str, key: str) -> bool:
        try:
            record = json.loads(line.strip(BLANKS), parse_int=str, parse_float=str)
        except ValueError:
            return self.mentioned(line)
        if not isinstance(record, dict):
            return self.mentioned(line)
        return str(record.get(key, "")).strip(BLANKS) in self.ids
