"""The jobs that a request may see, by pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..stores import JobRecord, JobRecords, JobStatus

__all__ = ("Page", "page_of")

_PAGE = 100
_LOOKED_AT = 1000
"""Jobs that one request asks ``authorize`` about."""


@dataclass(frozen=True, slots=True)
class Page:
    jobs: list[JobRecord]
    """Newest first."""

    older: str | None
    """The id to go on from; ``None`` if there are no more."""

    counts: Mapping[JobStatus, int] | None = None
    """Of all pages, by status; ``None``: to count them would be to ask about each."""


def page_of(
    jobs: JobRecords,
    allows: Callable[[JobRecord], bool],
    *,
    status: JobStatus | None,
    name: str | None,
    user: str | None,
    before: str | None,
) -> Page:
    """Return a page of jobs that ``allows`` lets through."""
    found: list[JobRecord] = []
    for _ in range(_LOOKED_AT // _PAGE):
        rows = jobs.list(status=status, name=name, user=user, limit=_PAGE, before=before)
        for job in rows:
            if len(found) == _PAGE:
                return Page(found, before)
            before = job.id
            if allows(job):
                found.append(job)
        if len(rows) < _PAGE:
            return Page(found, None)
    return Page(found, before)
