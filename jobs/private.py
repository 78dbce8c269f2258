"""What stays private: passwords in what people read, and the files that jobs write.

Addresses of databases may hold passwords, and an error of a driver may quote the address. Every setting that holds
one is remembered here when the settings are read (`keep_secret`), and whatever a job prints or logs passes `hide`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote

from jobs.errors import JobError

HIDDEN = "***"
SHORTEST = 6
"""A shorter password is hidden in its address only: taken for itself it would blot out ordinary words."""
_CREDENTIALS = re.compile(r"(?<=://)([^/?#\s:@]*):(\S*?)@(?=[^@/\s]*(?:[/?#\s'\"]|$))")
_NAMED = re.compile(r"(?i)\b([\w.]*(?:password|passwd|secret|token))=([^&;\s]+)")
_SECRET_NAME = re.compile(r"(?i)password|passwd|secret|token|credential")
_secrets: set[str] = set()


def without_password(address: str) -> str:
    """An address as people may read it: `postgresql://syncrec:***@host/db`."""
    return _NAMED.sub(rf"\1={HIDDEN}", _CREDENTIALS.sub(rf"\1:{HIDDEN}@", address))


def passwords(address: str) -> set[str]:
    """The passwords in an address, as they are written there and as they are meant."""
    found = [match[2] for match in (*_CREDENTIALS.finditer(address), *_NAMED.finditer(address))]
    return {form for password in found for form in (password, unquote(password)) if form}


def secret_values(values: Mapping[str, str]) -> set[str]:
    """The values of settings or variables whose names say that they are secret."""
    return {value for name, value in values.items() if value and _SECRET_NAME.search(name)}


def keep_secret(values: Iterable[str]) -> None:
    """From now on `hide` leaves none of these texts."""
    _secrets.update(value for value in values if len(value) >= SHORTEST)


def hide(text: str) -> str:
    """The text with every known secret, and the password of every address, blotted out."""
    for secret in sorted(_secrets, key=len, reverse=True):  # the longest first: one may hold another
        text = text.replace(secret, HIDDEN)
    return _CREDENTIALS.sub(rf"\1:{HIDDEN}@", text)


class HidingFormatter(logging.Formatter):
    """Formats a record, then hides what is secret: also in tracebacks and in the words of libraries."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line as it may be read."""
        return hide(super().format(record))


def umask() -> str:
    """What others may not do with new files, octal: SYNCREC_UMASK, or nothing at all (077).

    Raises
    ------
    JobError
        SYNCREC_UMASK is no octal number of up to three digits.
    """
    text = os.environ.get("SYNCREC_UMASK") or "077"
    if not re.fullmatch(r"[0-7]{1,4}", text) or int(text, 8) > 0o777:
        raise JobError(f"SYNCREC_UMASK={text}: give an octal number such as 077 (private) or 027 (group may read)")
    return text


def private_files() -> None:
    """Let this process and its children write files that nobody else may read; SYNCREC_UMASK=027 lets a group."""
    os.umask(int(umask(), 8))
