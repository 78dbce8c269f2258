"""The error that a person reads: what was wrong, where, and what to do."""

from __future__ import annotations


class JobError(Exception):
    """A job cannot go on; its text is the one line that the person on call sees."""


class AuditFailed(JobError):
    """Staged rows broke a rule; nothing was published."""


class PublishConflict(JobError):
    """Somebody else published this day while we were at it; nothing of ours was published."""


class NothingToDo(JobError):
    """The step is not needed tonight; the command ends with exit code 99, which Airflow shows as skipped."""
