"""Kinds of lines that a landing file may hold, and what each becomes: an event, or a refused line with its reason.

Every kind is one line of one file on a landing day of its own. In a line, @s, @ms and @us are noon of that day
since 1970, @at is noon as ISO 8601, @day the day, @next the midnight after it.
"""

from __future__ import annotations

from dataclasses import dataclass

LONG = "x" * 10_000
HUGE = "1" * 1_500


@dataclass(frozen=True, kw_only=True)
class Line:
    """One kind. form: csv or json. becomes: a reason, or the accepted user.

    item, time: what the event must hold besides, where the kind is about that; time is ISO 8601.
    """

    name: str
    form: str
    content: str | bytes
    becomes: str
    accepted: bool = False
    item: str | None = None
    time: str | None = None


def refused(name: str, form: str, content: str | bytes, reason: str) -> Line:
    return Line(name=name, form=form, content=content, becomes=reason)


def accepted(
    name: str, form: str, content: str | bytes, user: str = "u", *, item: str | None = None, time: str | None = None
) -> Line:
    return Line(name=name, form=form, content=content, becomes=user, accepted=True, item=item, time=time)


def _json(user: str = '"u"', item: str = '"i"', shop: str = '"books"', at: str = '"@at"') -> str:
    return f'{{"user": {user}, "item": {item}, "shop": {shop}, "at": {at}}}'


ENCODINGS = [
    accepted("UTF-8 ids", "csv", "Zoë-東京-😀,i,5,@s", "Zoë-東京-😀"),
    refused("Latin-1 text", "csv", "Zo\u00eb,i,5,@s".encode("latin-1"), "broken_line"),
    refused("Windows-1252 quotes", "csv", b"\x93u\x94,i,5,@s", "broken_line"),
    refused("Shift-JIS text", "csv", "東京,i,5,@s".encode("shift-jis"), "broken_line"),
    refused("an overlong UTF-8 form", "csv", b"u\xc0\xaf,i,5,@s", "broken_line"),
    refused("a surrogate half in UTF-8", "csv", b"u\xed\xa0\x80,i,5,@s", "broken_line"),
    refused("a character cut in half", "csv", "é".encode()[:1] + b",i,5,@s", "broken_line"),
    accepted("a byte order mark", "csv", "\ufeffu,i,5,@s"),
    accepted("two byte order marks", "csv", "\ufeff\ufeffu,i,5,@s"),
    refused("a NUL byte in an id", "csv", "u\0,i,5,@s", "broken_line"),
    refused("only NUL bytes", "csv", "\0\0\0\0", "broken_line"),
    refused("a NUL byte in JSON", "json", _json('"u\0"'), "broken_line"),
    accepted("a form feed and an escape sequence in an id", "csv", "u\x0c\x1b[31m,i,5,@s", "u\x0c\x1b[31m"),
    accepted("a right-to-left override in an id", "csv", "u\u202egnp,i,5,@s", "u\u202egnp"),
    accepted("a Unicode line separator in an id", "csv", "u\u2028v,i,5,@s", "u\u2028v"),
    accepted("JSON text with escapes", "json", _json('"u\\u00eb\\n\\t\\"x"'), 'uë\n\t"x'),
    refused("an escaped NUL in JSON", "json", _json('"u\\u0000x"'), "broken_line"),
    refused("half of an escaped surrogate pair in JSON", "json", _json('"u\\ud800"'), "broken_line"),
    refused("the other half alone", "json", _json('"u\\ude00"'), "broken_line"),
    accepted("an escaped surrogate pair in JSON", "json", _json('"u\\ud83d\\ude00"'), "u😀"),
]
QUOTES = [
    accepted("a quoted delimiter", "csv", '"u,v",i,5,@s', "u,v"),
    accepted("a doubled quote", "csv", '"u""v",i,5,@s', 'u"v'),
    accepted("quotes inside a bare field", "csv", 'u"v"w,i,5,@s', 'u"v"w'),
    refused("an unclosed quote", "csv", '"u,i,5,@s', "broken_line"),
    refused("a backslash before a quote", "csv", '"u\\"v",i,5,@s', "broken_line"),
    refused("a line break inside quotes, first half", "csv", '"u', "broken_line"),
    refused("a line break inside quotes, second half", "csv", 'v",i,5,@s', "broken_line"),
    refused("one quote and nothing else", "csv", '"', "broken_line"),
    refused("a quoted empty user", "csv", '"",i,5,@s', "null_user"),
    accepted("single quotes belong to the id", "csv", "'u',i,5,@s", "'u'"),
]
FORM = [
    refused("a column too many", "csv", "u,i,5,@s,more", "broken_line"),
    refused("a column too few", "csv", "u,i,@s", "broken_line"),
    refused("30,000 columns", "csv", "u" + "," * 30_000, "broken_line"),
    refused("a header where none is configured", "csv", "user,item,rating,time", "bad_time"),
    refused("another delimiter", "csv", "u;i;5;@s", "broken_line"),
    refused("tabs as delimiter", "csv", "u\ti\t5\t@s", "broken_line"),
    refused("JSON in a CSV file", "csv", _json(), "bad_time"),
    refused("an HTML error page", "csv", "<html><body>502 Bad Gateway</body></html>", "broken_line"),
    refused("a blank line", "csv", "   ", "broken_line"),
    refused("a comment", "csv", "# exported by the shop", "broken_line"),
    refused("the mark of a merge conflict", "csv", "<<<<<<< HEAD", "broken_line"),
    refused("a line of 10 MB", "csv", b"x" * 10_000_000, "broken_line"),
    refused("a JSON line of 10 MB", "json", _json('"' + "x" * 10_000_000 + '"'), "broken_line"),
    refused("CSV in a JSON file", "json", "u,i,books,@at", "broken_line"),
    refused("a JSON array", "json", f"[{_json()}]", "broken_line"),
    refused("a JSON text", "json", '"u"', "broken_line"),
    refused("a JSON number", "json", "42", "broken_line"),
    refused("JSON null", "json", "null", "broken_line"),
    refused("an object cut off", "json", '{"user": "u", "item": "i", "sh', "broken_line"),
    refused("two objects on one line", "json", _json() + _json(), "broken_line"),
    refused("two objects with a comma", "json", f"{_json()},{_json()}", "broken_line"),
    refused("text after the object", "json", _json() + " tail", "broken_line"),
    refused("one line of a pretty-printed object", "json", "{", "broken_line"),
    refused("a comma after the last key", "json", '{"user": "u", "item": "i", "shop": "books", "at": "@at",}',
            "broken_line"),
    refused("keys without quotes", "json", "{user: 'u', item: 'i', shop: 'books', at: '@at'}", "broken_line"),
    refused("2,000 nested arrays", "json", _json()[:-1] + f', "more": {"[" * 2000 + "]" * 2000}}}',
            "broken_line"),
    refused("a number of 1,500 digits", "json", _json()[:-1] + f', "more": {HUGE}}}', "broken_line"),
    accepted("a byte order mark before JSON", "json", "\ufeff" + _json()),
    accepted("single quotes in JSON", "json", _json().replace('"', "'")),
    accepted("one key twice: the last counts", "json", '{"user": "v", ' + _json()[1:]),
    accepted("further keys", "json", _json()[:-1] + ', "more": {"a": [1, 2]}, "": null}'),
    refused("an empty object", "json", "{}", "null_user"),
]  # fmt: skip
IDS = [
    refused("an empty user", "csv", ",i,5,@s", "null_user"),
    refused("a user of blanks", "csv", " \t ,i,5,@s", "null_user"),
    refused("a user of Unicode blanks", "csv", "\u3000\u2003\u200b,i,5,@s", "null_user"),
    refused("an empty item", "csv", "u,,5,@s", "null_item"),
    refused("no user key", "json", '{"item": "i", "shop": "books", "at": "@at"}', "null_user"),
    refused("a user of JSON null", "json", _json("null"), "null_user"),
    refused("keys in other letters", "json", _json().replace('"user"', '"User"'), "null_user"),
    refused("an object as user", "json", _json('{"id": 7}'), "broken_line"),
    refused("an array as item", "json", _json(item='["i", "j"]'), "broken_line"),
    accepted("a text in brackets as user", "json", _json('"[deleted]"'), "[deleted]"),
    accepted("a GUID in braces", "json", _json('"{3F2504E0-4F89}"'), "{3F2504E0-4F89}"),
    accepted("a number as user", "json", _json("7"), "7"),
    accepted("a true as user", "json", _json("true"), "true"),
    refused("a user of 10,000 characters", "csv", f"{LONG},i,5,@s", "id_too_long"),
    refused("an item of 10,000 characters", "csv", f"u,{LONG},5,@s", "id_too_long"),
    accepted("a user of 1,000 characters", "csv", f"{LONG[:1000]},i,5,@s", LONG[:1000]),
    refused("the reserved user", "csv", "__anyone__,i,5,@s", "reserved_user"),
    accepted("a path as user", "csv", "../../etc/passwd,i,5,@s", "../../etc/passwd"),
    accepted("SQL as user", "csv", "'; DROP TABLE interactions; --,i,5,@s", "'; DROP TABLE interactions; --"),
    accepted("HTML as item", "csv", "u,<script>alert(1)</script>,5,@s", item="<script>alert(1)</script>"),
    accepted("a shell command as item", "csv", "u,$(rm -rf /),5,@s", item="$(rm -rf /)"),
    accepted("a template as item", "csv", "u,{{ 7*7 }}%s${x},5,@s", item="{{ 7*7 }}%s${x}"),
    accepted("a spreadsheet formula as item", "csv", "u,=cmd|' /C calc'!A0,5,@s", item="=cmd|' /C calc'!A0"),
    accepted("leading zeros stay", "csv", "007,i,5,@s", "007"),
    accepted("the word NULL is an id", "csv", "NULL,i,5,@s", "NULL"),
    accepted("the word NaN is an id", "csv", "NaN,i,5,@s", "NaN"),
    accepted("blanks around ids", "csv", "  u\t, i ,5,@s", item="i"),
]
DOMAINS = [
    refused("an unknown domain", "json", _json(shop='"cars"'), "unknown_domain"),
    refused("a domain in other letters", "json", _json(shop='"Books"'), "unknown_domain"),
    refused("an empty domain", "json", _json(shop='""'), "unknown_domain"),
    refused("no domain", "json", '{"user": "u", "item": "i", "at": "@at"}', "unknown_domain"),
    refused("a path as domain", "json", _json(shop='"../books"'), "unknown_domain"),
    accepted("blanks around a domain", "json", _json(shop='" toys "')),
]
NUMBERS = [
    refused(name, "csv", f"u,i,5,{value}", reason)
    for name, value, reason in (
        ("no time", "", "bad_time"),
        ("a word as time", "yesterday", "bad_time"),
        ("a time of 0", "0", "bad_time"),
        ("a negative time", "-1704110400", "bad_time"),
        ("a time of 26 digits", "9" * 26, "bad_time"),
        ("a time of 400 digits", "9" * 400, "bad_time"),
        ("the smallest 64-bit number as time", "-9223372036854775808", "bad_time"),
        ("the largest 64-bit number as time", "9223372036854775807", "bad_time"),
        ("an infinite time", "Infinity", "bad_time"),
        ("NaN as time", "NaN", "bad_time"),
        ("a hexadecimal time", "0x65920080", "bad_time"),
        ("a time with thousands separators", '"1,704,110,400"', "bad_time"),
        ("milliseconds where seconds are configured", "@ms", "future_time"),
        ("microseconds where seconds are configured", "@us", "bad_time"),
        ("a time in the year 9999", "253370764800", "future_time"),
        ("midnight after the day", "@next", "future_time"),
    )
] + [
    accepted("a time with a fraction", "csv", "u,i,5,@s.25"),
    accepted("a time with a plus sign", "csv", "u,i,5,+@s"),
    accepted("a time decades before the day", "csv", "u,i,5,820454400", time="1996-01-01T00:00:00"),
]
TIMES = [
    refused(name, "json", _json(at=value), reason)
    for name, value, reason in (
        ("time of JSON null", "null", "bad_time"),
        ("a number where ISO 8601 is configured", "1704110400", "bad_time"),
        ("the 30th of February", '"2019-02-30T12:00:00Z"', "bad_time"),
        ("the 13th month", '"2019-13-01T12:00:00Z"', "bad_time"),
        ("hour 25", '"2019-01-05T25:00:00Z"', "bad_time"),
        ("a leap second", '"2016-12-31T23:59:60Z"', "bad_time"),
        ("day first", '"05/01/2019 12:00"', "bad_time"),
        ("the time of a mail header", '"Sat, 05 Jan 2019 12:00:00 GMT"', "bad_time"),
        ("a time without a day", '"12:30"', "bad_time"),
        ("the year 9999 in ISO 8601", '"9999-12-31T23:59:59Z"', "future_time"),
        ("a year of five digits", '"12019-01-05T12:00:00Z"', "bad_time"),
        ("the year 1", '"0001-01-01T00:00:00Z"', "bad_time"),
        ("the year 1969", '"1969-12-31T23:59:59Z"', "bad_time"),
        ("an offset of 25 hours", '"2019-01-05T12:00:00+25:00"', "bad_time"),
        ("an unknown time zone", '"2019-01-05 12:00:00 Mars/Olympus"', "bad_time"),
        ("a local time that is tomorrow in UTC", '"@dayT23:30:00-01:00"', "future_time"),
        ("an object as time", '{"$date": "2019-01-05T12:00:00Z"}', "broken_line"),
    )
] + [
    accepted(name, "json", _json(at=f'"{value}"'), time=time)
    for name, value, time in (
        ("an offset", "2019-01-05T12:00:00+02:00", "2019-01-05T10:00:00"),
        ("a named time zone", "2019-07-05 12:00:00 Europe/Berlin", "2019-07-05T10:00:00"),
        ("the hour that a change of clocks repeats", "2019-10-27T02:30:00+01:00", "2019-10-27T01:30:00"),
        ("no offset: UTC", "2019-01-05T12:00:00", "2019-01-05T12:00:00"),
        ("a day alone: its midnight", "2019-01-05", "2019-01-05T00:00:00"),
        ("nanoseconds are cut off", "2019-01-05T12:00:00.123456789Z", "2019-01-05T12:00:00.123456"),
        ("a leap day", "2016-02-29T12:00:00Z", "2016-02-29T12:00:00"),
    )
]
LINES = [*ENCODINGS, *QUOTES, *FORM, *IDS, *DOMAINS, *NUMBERS, *TIMES]
