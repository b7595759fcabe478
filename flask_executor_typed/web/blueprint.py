"""The blueprint: what an app registers, with ``respond_async`` and ``accepted`` for views."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import CancelledError
from typing import Any, ParamSpec

from flask import Blueprint, Response, current_app, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import InternalServerError

from ..callables import is_async_callable, name_of
from ..errors import JobAbandonedError, StoreError, UnpicklableError, UnsupportedError
from ..executor import Executor
from ..futures import FutureProxy
from ..options import user_of
from ..stores import JobRecord, records_of
from ..stores.responses import RecordedResponse
from .access import Access
from .answers import Answers, asset_versions, prefer
from .events import Events
from .negotiation import read_preferences
from .preferences import Preferences
from .respond import InTime, Visit, is_done, read_request
from .results import conditional
from .routes import Routes
from .texts import TEXTS
from .urls import Urls

__all__ = ("JobsBlueprint",)

P = ParamSpec("P")

View = Callable[P, ResponseReturnValue | Awaitable[ResponseReturnValue]]

_A_YEAR = 31536000  # seconds


class JobsBlueprint(Blueprint):
    """Routes by which users follow, cancel and get the results of their jobs.

    Register it as any blueprint: ``app.register_blueprint(JobsBlueprint(executor, ...))``. What
    each route answers is in :doc:`web`.

    Args:
        executor: The executor whose jobs these are. One for slow views should do nothing else.
        authorize: Whether this request may see and cancel a job. Only ``True`` itself allows it;
            after anything else the job does not exist, as far as the client can tell. May be left
            out if the executor has a ``user`` function: then :meth:`is_mine` decides.
        operator: Whether this request may see and cancel every job, with tracebacks and figures.
        name: The blueprint's, and so the first part of its endpoints.
        url_prefix: Where its routes are.
        retry_after: Seconds after which clients are told to ask again, at first.
        streams: How many clients may receive events at once, in each process; each takes a thread
            of the server, so a quarter of these is plenty.
        stream_time: Seconds after which a stream of events ends, and its client polls.
        heartbeat: Seconds between two signs of life in a stream.
        long_polls: How many requests to these routes may wait at once, in each process, as
            ``Prefer: wait=10`` asks for; others are answered at once.
        max_wait: Seconds that a client may make a request wait.
        trusted_origins: Origins, such as ``"https://app.example.com"``, whose pages may cancel jobs
            for their users.

    Raises:
        ValueError: there is neither ``authorize`` nor a ``user`` function.
    """

    def __init__(  # noqa: PLR0913  # one for each setting
        self,
        executor: Executor[Any],
        *,
        authorize: Callable[[JobRecord], bool] | None = None,
        operator: Callable[[], bool] | None = None,
        name: str = "jobs",
        url_prefix: str = "/jobs",
        retry_after: float = 2.0,
        streams: int = 0,
        stream_time: float = 60.0,
        heartbeat: float = 15.0,
        long_polls: int = 2,
        max_wait: float = 10.0,
        trusted_origins: Collection[str] = (),
    ) -> None:
        super().__init__(
            name,
            __name__,
            url_prefix=url_prefix,
            static_folder="static",
            template_folder="templates",
        )
        if authorize is None and executor.user is None:
            raise ValueError(
                "JobsBlueprint() does not know who may see a job: give it authorize=..., or the "
                "executor user=..."
            )
        self._executor = executor
        self._max_wait = max_wait
        self._shows_users_their_own = authorize is None
        self._lose_answers: set[str | None] = set()
        """Endpoints that have warned of it. Items are added atomically."""
        self._urls = Urls(name)
        access = Access(self.is_mine if authorize is None else authorize, operator)
        self._answers = Answers(self._urls, access, retry_after=retry_after, streams=streams)
        self._routes = Routes(
            executor.jobs,
            access,
            self._answers,
            Events(self._answers, streams=streams, stream_time=stream_time, heartbeat=heartbeat),
            user=self._user if authorize is None else None,
            is_mine=self.is_mine,
            long_polls=long_polls,
            max_wait=max_wait,
            trusted_origins=trusted_origins,
        )
        self._routes.add_to(self)
        self.record(self._urls.note)

    def get_send_file_max_age(self, filename: str | None) -> int | None:
        """Have assets kept for a year under an address that changes with them."""
        version = asset_versions().get(filename or "")
        if version is not None and request.args.get("v") == version:
            return _A_YEAR
        return super().get_send_file_max_age(filename)

    def is_mine(self, job: JobRecord) -> bool:
        """Return whether the user of this request has submitted a job; ``False`` without a user."""
        user = self._user()
        return user is not None and user == job.user

    def _user(self) -> str | None:
        return None if self._executor.user is None else user_of(self._executor.user)

    # -- for views -------------------------------------------------------------------------------

    def accepted(self, future: FutureProxy[Any], *, wait: float = 0.0) -> Response:
        """Return the answer to a request that has submitted a job.

        If the job is done in time, that is its result; what it raised is raised as for
        ``GET .../result``. Else it is 202 with the address of the job, or for a browser a redirect
        to the job's page.

        Args:
            future: What ``submit`` returned.
            wait: Seconds to wait for the job. A client may ask for more or less, up to
                ``max_wait``, by ``Prefer: wait=5`` or ``Prefer: respond-async``.

        Raises:
            NotRegisteredError: the app does not have this blueprint.
        """
        self._urls.check()
        preferences = read_preferences()
        try:
            is_done(future, preferences.seconds(wait, self._max_wait))
            job = self._recorded(future, "call")
            if job.done:
                response = self._routes.outcome_of(job, future)
                return prefer(response, preferences, self._max_wait)
        except StoreError as error:
            current_app.logger.warning(
                "%s [%s] goes on, though its client cannot be told of it: %s",
                future.name,
                future.id,
                error,
            )
            raise self._routes.unavailable(error) from error
        return self._pending(job, preferences, self._max_wait)

    def respond_async(
        self,
        wait: float | None = 2.0,
        *,
        max_wait: float | None = None,
        keep_cookies: bool = False,
    ) -> Callable[[View[P]], Callable[P, Response]]:
        """Run a view in the background, and answer 202 if it is not done in time.

        ``@jobs.respond_async(wait=2.0)`` goes directly above the view, below the route, and below
        decorators that decide whether the view may run. In time, the answer is the view's own.
        Later, ``GET .../result`` gives exactly what it would have been.

        Args:
            wait: Seconds that a request waits for the answer. ``None``: as long as it takes, unless
                the client sends ``Prefer``.
            max_wait: Seconds that a client may ask for; ``None``: the blueprint's.
            keep_cookies: Whether a late answer keeps the cookies that the view has set. They are
                sent to the user of the job only.

        Raises:
            TypeError: it is written without parentheses.
            NotRegisteredError: by the view: the app does not have this blueprint.
            UnsupportedError: by the view: the executor runs jobs in other processes.
            TypeError: by the view, when it is late: the executor's ``user`` function returned
                neither text nor ``None``.
        """
        if callable(wait):
            raise TypeError(
                f"@respond_async was given {wait!r} as wait: write @jobs.respond_async(), with "
                "parentheses"
            )
        longest = self._max_wait if max_wait is None else max_wait

        def decorate(view: View[P]) -> Callable[P, Response]:
            @functools.wraps(view)
            def respond(*args: P.args, **kwargs: P.kwargs) -> Response:
                preferences = read_preferences()
                visit = self._visit(functools.partial(view, *args, **kwargs), view, keep_cookies)
                future = self._submit(visit, is_async_callable(view))
                if not is_done(future, preferences.seconds(wait, longest)) and visit.leave():
                    return self._late(future, preferences, longest)
                response = conditional(self._in_time(future, visit).hand_over())
                return prefer(response, preferences, longest)

            for mark in (
                "_is_coroutine",
                "_is_coroutine_mark",
            ):  # of a view that is marked as async
                vars(respond).pop(mark, None)
            return respond

        return decorate

    def _visit(
        self, call: Callable[[], Any], view: Callable[..., Any], keep_cookies: bool
    ) -> Visit:
        self._urls.check()
        read_request()
        limit = records_of(self._executor.jobs).max_result_bytes
        return Visit(call, _name_of(view), limit=limit, keep_cookies=keep_cookies)

    def _submit(self, visit: Visit, is_async: bool) -> FutureProxy[InTime | RecordedResponse]:
        executor = self._executor.using(name=visit.name, record=False)
        try:
            return executor.submit(visit.run_async if is_async else visit.run)
        except UnpicklableError as error:
            raise UnsupportedError(
                visit.name, "another process", "run a view", "use EXECUTOR_TYPE='thread'"
            ) from error

    def _in_time(self, future: FutureProxy[InTime | RecordedResponse], visit: Visit) -> InTime:
        try:
            answered = future.result()
        except (CancelledError, JobAbandonedError) as error:
            raise self._answers.problem(503, TEXTS["lost"], cause=error) from error
        except Exception as error:
            if visit.has_raised:
                raise
            # By the executor, which has logged it: its time limit was over, say.
            raise InternalServerError(original_exception=error) from error
        assert isinstance(answered, InTime)
        return answered

    def _late(self, future: FutureProxy[Any], preferences: Preferences, longest: float) -> Response:
        try:
            job = self._recorded(future, "view")
        except Exception as error:
            future.cancel()  # whose answer could not be asked for
            if isinstance(error, StoreError):
                raise self._routes.unavailable(error) from error
            raise
        return self._pending(job, preferences, longest)

    def _pending(self, job: JobRecord, preferences: Preferences, longest: float) -> Response:
        endpoint = request.endpoint
        # Of two requests at once, both may warn.
        if self._shows_users_their_own and job.user is None and endpoint not in self._lose_answers:
            self._lose_answers.add(endpoint)
            current_app.logger.warning(
                "%s answers 202, but its client cannot ask for the job: the executor's user "
                "function has returned None, and a job without a user is no one's",
                endpoint,
            )
        return self._answers.pending(job, preferences, longest)

    def _recorded(self, future: FutureProxy[Any], kind: str) -> JobRecord:
        """Return the record of a job, which every process can read from now on.

        Raises:
            StoreError: the record cannot be written, or read.
        """
        records = records_of(self._executor.jobs)
        records.keep(future, kind=kind, user=self._user())
        job = records.get(future.id, with_result=False)
        if job is None:  # removed at once: the bounds of the store are too narrow
            raise self._answers.missing()
        return job


def _name_of(view: Callable[..., Any]) -> str:
    """Return what a view is called: ``View.as_view(name)`` makes functions that are all called so.

    They have a name of their own, but no qualified one.
    """
    qualified = name_of(view)
    own = getattr(view, "__name__", None)
    return qualified if own is None or qualified.endswith(own) else own
