"""The routes below the prefix of a blueprint."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import Any, cast

from flask import Blueprint, Response, current_app, jsonify, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestedRangeNotSatisfiable
from werkzeug.wrappers import Response as BaseResponse

from ..errors import ResultNotSharedError, StoreError
from ..futures import FutureProxy
from ..runtime.logs import log_exception
from ..stores import JobRecord, JobRecords, JobStatus, Records, ResultState, records_of
from .access import Access
from .answers import Answers, prefer, see_other
from .events import Events
from .listing import Page, page_of
from .monitor import SPANS, failed_since, failures_of, times_of
from .negotiation import read_preferences, vary, wanted_by
from .origin import comes_from_elsewhere
from .pages import duration
from .preferences import Preferences
from .results import response_of
from .schema import ErrorDocument, error_of
from .texts import TEXTS, WORDS

__all__ = ("Routes",)

_WINDOW = 1000
"""Jobs that the figures for operators are made of."""

_NEVER_STORED: Mapping[ResultState, str] = {
    "local": "it is not plain data; return that, or set EXECUTOR_STORE_RESULTS='pickle'",
    "too_large": "it is larger than EXECUTOR_STORE_MAX_RESULT_BYTES",
}


class Routes:
    """Answers what a client asks of jobs.

    Args:
        jobs: The jobs.
        access: Who may see which.
        answers: What is said of them.
        events: The streams.
        user: Returns whose jobs a list has; ``None``: :class:`Access` is asked about each.
        is_mine: Whether a job was submitted by the user of this request.
        long_polls: How many requests may wait for a job at once, in this process.
        max_wait: Seconds that one of them may wait.
        trusted_origins: Other sites that may cancel jobs for their users.
    """

    def __init__(  # noqa: PLR0913  # all that the routes are made of
        self,
        jobs: JobRecords,
        access: Access,
        answers: Answers,
        events: Events,
        *,
        user: Callable[[], str | None] | None,
        is_mine: Callable[[JobRecord], bool],
        long_polls: int,
        max_wait: float,
        trusted_origins: Collection[str],
    ) -> None:
        self._jobs = jobs
        self._access = access
        self._answers = answers
        self._events = events
        self._user = user
        self._is_mine = is_mine
        self._long_polls = threading.BoundedSemaphore(long_polls) if long_polls else None
        self._max_wait = max_wait
        self._trusted_origins = frozenset(trusted_origins)

    def add_to(self, blueprint: Blueprint) -> None:
        rule = blueprint.add_url_rule
        # Without the slash too: a redirect to it would have the host that the client has sent.
        rule("/", "list", self.list, strict_slashes=False)
        rule("/<job_id>", "job", self.job, methods=["GET", "DELETE"])
        rule("/<job_id>/result", "result", self.result)
        rule("/<job_id>/events", "events", self.events)
        rule("/<job_id>/fragment", "fragment", self.fragment)
        rule("/<job_id>/cancel", "cancel", self.cancel, methods=["POST"])
        blueprint.register_error_handler(StoreError, self._answer_unavailable)
        blueprint.before_app_request(self._refuse_method)

    @property
    def _records(self) -> Records:
        return records_of(self._jobs)

    def unavailable(self, error: StoreError) -> HTTPException:
        """Return the error for a store that cannot be used now."""
        return self._answers.problem(503, TEXTS["store_down"], cause=error)

    def _answer_unavailable(self, error: StoreError) -> Any:
        return current_app.handle_user_exception(self.unavailable(error))

    def _refuse_method(self) -> None:
        """Answer 405 as we do other errors: Flask raises it before it knows of a blueprint."""
        error = request.routing_exception
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            allowed = list(error.valid_methods)
            if self._answers.urls.matches(allowed[0]):
                detail = f"This address answers {', '.join(allowed)} only."
                raise self._answers.problem(405, detail, headers=[("Allow", ", ".join(allowed))])

    # -- one job ---------------------------------------------------------------------------------

    def job(self, job_id: str) -> Response:
        """Answer with the state of a job, as JSON or as a page."""
        if request.method == "DELETE":
            return self.cancel(job_id)
        job, preferences = self._when_done(self._find(job_id))
        wanted = wanted_by(request)
        follows = request.args.get("follow") == "1"
        if follows and "result" in self._answers.links(job):
            response = see_other(self._answers.urls.to("result", job_id=job_id))
        elif wanted == "html":
            reloads = request.args.get("refresh") != "0"
            response = self._answers.page(job, follow=follows, reloads=reloads)
        elif wanted == "fragment":
            response = self._answers.fragment(job)
        else:
            response = self._answers.json(job)
        return prefer(response, preferences, self._max_wait)

    def fragment(self, job_id: str) -> Response:
        """Answer with a part of a page, for htmx, or a script."""
        job = self._visible(job_id)
        if job is not None:
            return self._answers.fragment(job)
        if wanted_by(request) == "fragment":
            return self._answers.gone()
        raise self._answers.missing()

    def events(self, job_id: str) -> Response:
        """Answer with a stream of what happens to a job."""
        return self._events.stream(self._records, self._find(job_id))

    def result(self, job_id: str) -> Response:
        """Answer with what the job has returned, or what its view has answered."""
        job, preferences = self._when_done(self._find(job_id))
        if not job.done:
            return self._answers.pending(job, preferences, self._max_wait)
        return prefer(self.outcome_of(job), preferences, self._max_wait)

    def outcome_of(self, job: JobRecord, future: FutureProxy[Any] | None = None) -> Response:
        """Return the result of a job that is done: of its future, or as it was stored.

        Raises:
            HTTPException: there is none.
        """
        problem = self._answers.problem
        if job.status == "cancelled":
            raise problem(410, TEXTS["cancelled"], kind=_kind("cancelled"), job=job)
        if (error := error_of(job)) is not None:
            return self._failure_of(job, error, future or self._jobs.future(job.id))
        try:
            result = self._stored_result(job) if future is None else future.result()
        except LookupError:
            gone = TEXTS["result_gone"]
            raise problem(410, gone, kind=_kind("result-gone"), job=job) from None
        try:
            response = response_of(job, result)
        except (TypeError, ValueError) as error:
            log_exception(current_app.logger, "The result of %s [%s] is not JSON", job.name, job.id)
            raise problem(500, None, kind=_kind("failed"), job=job, cause=error) from error
        except RequestedRangeNotSatisfiable as error:
            headers = [each for each in error.get_headers() if each[0] != "Content-Type"]
            raise problem(416, error.description, job=job, headers=headers) from error
        return self._without_others_cookies(response, job)

    def _failure_of(
        self, job: JobRecord, error: ErrorDocument, future: FutureProxy[Any] | None
    ) -> Response:
        """Return the response of an ``HTTPException`` that has one, and raise all else."""
        # Recorded as lost, it may still run here: this process was taken for dead.
        is_over = future is not None and future.done() and not future.cancelled()
        cause = future.exception() if future is not None and is_over else None
        said = None if job.error is None else job.error.problem
        own = getattr(cause, "response", None)
        if said is not None and isinstance(own, BaseResponse):
            return self._without_others_cookies(response_of(job, own), job)
        raise self._answers.problem(
            500 if said is None else said.status,
            error["detail"],
            kind=_kind(job.status),
            title=error["title"],
            job=job,
            cause=cause,
            headers=() if said is None else said.headers,
        )

    def _without_others_cookies(self, response: Response, job: JobRecord) -> Response:
        if not self._is_mine(job):
            response.headers.remove("Set-Cookie")  # it is for who asked the view, and no operator
        return response

    def _stored_result(self, job: JobRecord) -> Any:
        now = self._records.get(job.id)
        if now is not None and now.result_state == "stored":
            return now.result
        state = "absent" if now is None else now.result_state
        if state in _NEVER_STORED:
            log = current_app.logger.error
            log("The result of %s [%s] was not stored: %s", job.name, job.id, _NEVER_STORED[state])
        raise ResultNotSharedError(job.name, state, "")

    def cancel(self, job_id: str) -> Response:
        """Cancel a job, or ask it to end."""
        if comes_from_elsewhere(request, self._trusted_origins):
            raise self._answers.problem(403, "This request was made by a page of another site.")
        job = self._find(job_id)
        answer = self._jobs.cancel(job_id)
        job = self._records.get(job_id, with_result=False) or job
        wanted = wanted_by(request)
        if wanted == "html":
            return see_other(self._answers.urls.to("job", job_id=job_id))
        if wanted == "fragment":
            return self._answers.fragment(job)
        if answer == "cannot" and job.status != "cancelled":
            raise self._answers.problem(409, "The job is over.", job=job)
        return self._answers.json(job, 202 if answer == "asked" and not job.done else 200)

    def _visible(self, job_id: str) -> JobRecord | None:
        job = self._records.get(job_id, with_result=False)
        return job if job is not None and self._access.allows(job) else None

    def _find(self, job_id: str) -> JobRecord:
        job = self._visible(job_id)
        if job is None:
            raise self._answers.missing()
        return job

    def _when_done(self, job: JobRecord) -> tuple[JobRecord, Preferences]:
        """Wait for a job as long as the client prefers, and return what it is then.

        Also returns the preferences, without those that could not be followed.
        """
        preferences = read_preferences()
        seconds = min(preferences.wait or 0, self._max_wait)
        if job.done or not seconds:
            return job, preferences
        with self._long_poll() as may_wait:
            if not may_wait:
                return job, replace(preferences, wait=None)
            future = self._jobs.future(job.id)
            if future is not None:
                wait([future], seconds)
        return self._records.get(job.id, with_result=False) or job, preferences

    @contextmanager
    def _long_poll(self) -> Generator[bool]:
        if self._long_polls is None or not self._long_polls.acquire(blocking=False):
            yield False
            return
        try:
            yield True
        finally:
            self._long_polls.release()

    # -- many jobs -------------------------------------------------------------------------------

    def list(self) -> Response:
        """Answer with the jobs that this request may see, newest first."""
        status = request.args.get("status") or None
        if status is not None and status not in WORDS:
            raise self._answers.problem(400, f"The status must be one of: {', '.join(WORDS)}.")
        is_operator = self._access.is_operator()
        query: dict[str, Any] = {
            "status": cast("JobStatus | None", status),
            "name": request.args.get("name") if is_operator else None,
            "user": request.args.get("user") if is_operator else None,
            "before": request.args.get("before") or None,
            "failed": request.args.get("failed") if is_operator else None,
        }
        page = self._page(is_operator, **query)
        if wanted_by(request) == "json":
            response = self._as_json(page, query)
        else:
            response = self._as_page(page, query, is_operator)
        response.headers["Cache-Control"] = "no-store"
        vary(response, "Accept", "HX-Request")
        return response

    def _page(self, is_operator: bool, *, failed: str | None, **query: Any) -> Page:
        if not is_operator and self._user is not None:
            query["user"] = self._user()
            if query["user"] is None:
                return Page([], None, {})
        self._check_before(query["before"], query["user"])
        if not is_operator:
            page = page_of(self._jobs, self._access.authorizes, **query)
            return page if self._user is None else self._counted(page, query["user"])
        allows: Callable[[JobRecord], bool] = lambda job: True  # noqa: E731
        if failed is not None:
            allows = partial(failed_since, since=self._start_of(failed))
        return self._counted(page_of(self._jobs, allows, **query), query["user"])

    def _counted(self, page: Page, user: str | None) -> Page:
        return replace(page, counts=self._jobs.counts(user=user))

    def _check_before(self, before: str | None, user: str | None) -> None:
        """Refuse a page of which it is not known where it begins, rather than show none of it."""
        if before is not None:
            job = self._records.get(before, with_result=False)
            if job is None or (user is not None and job.user != user):
                detail = "The job that this page begins after is not known; go to the first page."
                raise self._answers.problem(404, detail)

    def _start_of(self, span: str) -> datetime:
        if span not in SPANS:
            raise self._answers.problem(400, f"failed must be one of: {', '.join(SPANS)}.")
        return datetime.now(timezone.utc) - SPANS[span]

    def _list_url(self, query: dict[str, Any], **changes: Any) -> str:
        given = {name: value for name, value in (query | changes).items() if value is not None}
        return self._answers.urls.to("list", **given)

    def _as_json(self, page: Page, query: dict[str, Any]) -> Response:
        links = {"self": self._list_url(query)}
        if page.older is not None:
            links["older"] = self._list_url(query, before=page.older)
        return jsonify(
            jobs=[self._answers.document(job) for job in page.jobs],
            counts=page.counts,
            links=links,
        )

    def _as_page(self, page: Page, query: dict[str, Any], is_operator: bool) -> Response:
        now = datetime.now(timezone.utc)
        all_urls = dict.fromkeys(query)
        context: dict[str, Any] = {
            "jobs": [self._answers.shown(job, now) for job in page.jobs],
            "filters": list(self._filters(page.counts, query)),
            "only": list(_narrowed(query)),
            "is_operator": is_operator,
            "links": {
                "self": self._list_url(query),
                "all": self._list_url(all_urls),
                "newest": self._list_url(query, before=None) if query["before"] else None,
                "older": page.older and self._list_url(query, before=page.older),
            },
        }
        if is_operator:
            context |= self._figures(page.counts or {}, query["user"], all_urls, now)
        return self._answers.html("list", **context)

    def _filters(
        self, counts: Mapping[JobStatus, int] | None, query: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        every = None if counts is None else sum(counts.values())
        for status, word in ((None, TEXTS["all"]), *WORDS.items()):
            count = every if status is None or counts is None else counts.get(status, 0)
            is_current = status == query["status"] and query["failed"] is None
            if count or status is None or is_current or counts is None:
                yield {
                    "label": word,
                    "count": count,
                    "is_current": is_current,
                    "url": self._list_url(query, status=status, before=None, failed=None),
                }

    def _oldest_waits(self, pending: int, user: str | None, now: datetime) -> str:
        """Return for how long the oldest of the pending jobs has waited, or longer than how long.

        A store reads them newest first.
        """
        looked_at = min(pending, _WINDOW)
        jobs = self._jobs.list(status="pending", user=user, limit=looked_at) if pending else []
        oldest = min((job.submitted_at for job in jobs), default=now)
        waits = duration(round((now - oldest).total_seconds()))
        return waits if looked_at == pending else f"> {waits}"

    def _figures(
        self,
        counts: Mapping[JobStatus, int],
        user: str | None,
        no_query: dict[str, Any],
        now: datetime,
    ) -> dict[str, Any]:
        jobs = self._jobs.list(limit=_WINDOW)
        failures = failures_of(jobs, now)
        pending = counts.get("pending", 0)
        failed = sum(each.counts["1 h"] for each in failures)
        return {
            "tiles": [
                {"label": WORDS["pending"], "value": f"{pending:,}"},
                {"label": TEXTS["oldest"], "value": self._oldest_waits(pending, user, now)},
                {"label": WORDS["running"], "value": f"{counts.get('running', 0):,}"},
                {"label": TEXTS["failed_lately"], "value": f"{failed:,}", "alarms": failed > 0},
            ],
            "spans": list(SPANS),
            "failures": failures,
            "times": times_of(jobs),
            "window": len(jobs),
            "list_url": partial(self._list_url, no_query),
        }


def _narrowed(query: Mapping[str, Any]) -> Iterator[str]:
    if query["failed"]:
        yield TEXTS["failed_within"].format(span=query["failed"])
    yield from (query[name] for name in ("name", "user") if query[name])


def _kind(name: str) -> str:
    return f"urn:flask-executor:{name}"
