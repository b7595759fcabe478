"""Decide who may see a job. If anything goes wrong here, the answer is no."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

from flask import current_app
from werkzeug.exceptions import HTTPException

from ..runtime.logs import log_exception
from ..stores import JobRecord

__all__ = ("Access",)

P = ParamSpec("P")


class Access:
    """The app's two functions, asked for each job of each request.

    Only ``True`` itself is a yes: not a text, not a user object, and not an exception. An
    ``HTTPException`` is not let through either, since a 401 for some ids and a 404 for others would
    tell which exist.
    """

    def __init__(
        self, authorize: Callable[[JobRecord], bool], operator: Callable[[], bool] | None
    ) -> None:
        self._authorize = authorize
        self._operator = operator

    def is_operator(self) -> bool:
        """Return whether this request may see and cancel every job."""
        return self._operator is not None and _says_yes(self._operator)

    def allows(self, job: JobRecord) -> bool:
        """Return whether this request may see and cancel a job."""
        return self.is_operator() or self.authorizes(job)

    def authorizes(self, job: JobRecord) -> bool:
        """The same for a request that is known not to be an operator's."""
        return _says_yes(self._authorize, job)


def _says_yes(ask: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> bool:
    try:
        return ask(*args, **kwargs) is True
    except Exception as error:
        if not isinstance(error, HTTPException):
            log_exception(current_app.logger, "%r failed, so the job is not shown", ask)
        return False
