"""The record of one job of this process, from its submission until its end is written."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from flask import Response
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from ..errors import JobLostError
from ..futures import FutureProxy, facts_of, id_of, log_of
from ..runtime.forks import in_child
from ..signing import JobSigner
from .encoding import (
    Failure,
    clean_text,
    decode_plain,
    encode_plain,
    failure_of,
    full_name,
)
from .protocol import Owner
from .records import FINAL, LOST, JobRecord, ResultState, Row, record_of
from .responses import RecordedResponse, encode_response

__all__ = ("Codec", "Recording", "Recordings")


_LATE, _RESPONSE = "response", "flask.Response"
"""Types of results that are responses: of a late view, and of any other job."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended, as it is stored."""

    state: ResultState = "absent"
    type: str | None = None
    data: bytes | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Codec:
    """Turns results into bytes, and back."""

    max_bytes: int
    signer: JobSigner | None = None
    """Pickles what is not plain data; ``None``: that stays in its process."""

    def outcome_of(self, job_id: str, result: object, error: BaseException | None) -> Outcome:
        """Return what is stored of an end. Raises nothing."""
        if error is not None:
            if isinstance(error, JobLostError):
                return Outcome(failure=Failure(LOST, clean_text(error.reason), ""))
            return self._failed(error)
        if isinstance(result, RecordedResponse):  # whose size was limited where it was read
            return Outcome("stored", _LATE, result.encoded())
        kind = full_name(type(result))
        try:
            if type(result) is Response:
                data, how = encode_response(result, self.max_bytes), _RESPONSE
            else:
                data, how = encode_plain(result), "json"
            if data is None and self.signer is not None:
                data, how = self.signer.dumps(result, kind="result", job_id=job_id), "pickle"
        except Exception:  # what is being pickled, or changed meanwhile, may raise anything
            data, how = None, ""
        if data is None:
            return Outcome("local", kind)
        return (
            Outcome("too_large", kind)
            if len(data) > self.max_bytes
            else Outcome("stored", how, data)
        )

    def _failed(self, error: BaseException) -> Outcome:
        """Return a failure, with the response that ``abort(response)`` has put into it."""
        failure = failure_of(error)
        own = error.response if isinstance(error, HTTPException) else None
        if not isinstance(own, BaseResponse):
            return Outcome(failure=failure)
        try:
            data = encode_response(own, self.max_bytes)
        except Exception:  # a body may raise anything
            data = None
        if data is None:
            return Outcome("local", failure=failure)
        if len(data) > self.max_bytes:
            return Outcome("too_large", failure=failure)
        return Outcome("stored", _RESPONSE, data, failure)

    def result_of(self, row: Row) -> Any:
        """Return the result that a row holds.

        Raises:
            SignatureError: it was signed with another key, or changed; or this process has no key.
        """
        if row.result is None:
            return None
        if row.result_type == _LATE:
            return RecordedResponse.decoded(row.result)
        if row.result_type == _RESPONSE:
            recorded = RecordedResponse.decoded(row.result)
            with recorded.content.open() as body:
                return Response(body.read(), recorded.status, Headers(recorded.headers))
        if row.result_type == "pickle":
            signer = self.signer or JobSigner([])
            return signer.loads(row.result, kind="result", job_id=row.id)
        return decode_plain(row.result)


class Recordings(Protocol):
    """Those that write records: what a recording tells of its call."""

    codec: Codec

    def ensure(self, future: FutureProxy[Any], recording: Recording) -> None:
        """Write the record now, if the store can be used."""

    def mark(self, future: FutureProxy[Any], *, soon: bool) -> None:
        """Have the record written within 20 ms, or a few."""

    def refuse(self, future: FutureProxy[Any]) -> None:
        """Forget a call that was not accepted, unless its record is written."""

    def moves(self, future: FutureProxy[Any]) -> None:
        """Have the progress, or what the job has logged, written less often."""


_building = threading.RLock()  # reentrant: a finalizer may submit a call, and have it recorded
"""Rows are built one by one, so that the order of their steps is that of what they have seen."""


class Recording:
    """Implements :class:`Recorder` for one call, and builds its rows.

    Refers to no future: it would be a cycle.
    """

    __slots__ = (
        "_steps",
        "announces_loss",
        "executor",
        "is_elsewhere",
        "is_over",
        "is_written",
        "key",
        "kind",
        "labels",
        "on_over",
        "owner",
        "space",
        "taken",
        "user",
        "writer",
    )

    def __init__(  # noqa: PLR0913  # one for each column
        self,
        writer: Recordings,
        owner: Owner,
        *,
        space: str,
        executor: str,
        kind: str = "call",
        user: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self.writer: Recordings = writer
        self.owner: Owner = owner
        """The process under whose name the record is written; after a burial there is another."""
        self.space: str = space
        self.executor: str = executor
        self.kind: str = kind
        self.key: str | None = None
        self.user: str | None = user
        self.labels: Mapping[str, str] = labels or {}
        self.is_written: bool = False
        """Whether other processes can find the record."""
        self.is_over: bool = False
        """Whether the end was written for a reader, and so is not the thread's to write."""
        self.is_elsewhere: bool = False
        """Whether an engine has the job, so that this process writes nothing about it any more."""
        self.announces_loss: bool = True
        self.taken: Row | None = None
        """The record as it was when this process took the job from an engine."""
        self.on_over: Callable[[], object] = _nothing
        """Called when the end of the job is written."""
        self._steps = itertools.count(1)

    # -- Recorder --------------------------------------------------------------------------------

    def on_named(self, future: Any) -> None:
        if not self.is_written:
            self.writer.ensure(future, self)

    def on_change(self, future: Any) -> None:
        if (taken := self.taken) is not None:
            facts = facts_of(future)
            if facts.attempts == taken.attempts and not facts.cancel_requested:
                return  # it has begun, and the record says so since it was taken
        self.writer.mark(future, soon=False)

    def on_progress(self, future: Any) -> None:
        self.writer.moves(future)

    def on_log(self, future: Any) -> None:
        self.writer.moves(future)

    def encode_outcome(
        self, future: Any, result: object, exception: BaseException | None
    ) -> Outcome:
        if self.is_elsewhere:
            return Outcome()
        return self.writer.codec.outcome_of(id_of(future), result, exception)

    def __call__(self, future: Any) -> None:
        # The end of a job that was taken is written by the thread that has run it.
        self.writer.mark(future, soon=self.taken is None)

    def on_refused(self, future: Any) -> None:
        self.writer.refuse(future)

    def public_record(self, future: Any) -> JobRecord:
        return record_of(self.row(future))

    def _outcome_of(self, future: FutureProxy[Any]) -> Outcome:
        """Encode an end without an outcome, or one that came while the record was begun."""
        if future.cancelled():
            return Outcome()
        error = future.exception(0)
        return self.encode_outcome(future, None if error else future.result(0), error)

    # -- rows ------------------------------------------------------------------------------------

    def row(self, future: FutureProxy[Any]) -> Row:
        """Build the row of this moment."""
        with _building:
            step = next(self._steps)
            # First the status: once that is final, so is all else.
            status = future.status
            started, finished = future.started_at, future.finished_at
            progress, log, facts = future.progress, log_of(future), facts_of(future)
        row = Row(
            id=id_of(future),
            space=self.space,
            executor=self.executor,
            name=clean_text(str(future.name)),
            kind=self.kind,
            key=self.key,
            owner=self.owner.id,
            server=self.owner.server,
            status=status,
            step=step,
            attempts=facts.attempts,
            submitted=future.submitted_at.timestamp(),
            started=None if started is None else started.timestamp(),
            user=self.user,
            labels=json.dumps(dict(self.labels)) if self.labels else "{}",
            held=int(facts.is_held and status == "pending"),
            cancel=int(facts.cancel_requested),
            log_tail=None if log is None else clean_text(log),
        )
        if progress is not None:
            row.progress_done, row.progress_total = progress.done, progress.total
            row.progress_message = clean_text(progress.message)
        if status in FINAL and finished is not None:
            row.finished = finished.timestamp()
            kept = facts.recorded
            _add_outcome(row, kept if isinstance(kept, Outcome) else self._outcome_of(future))
        if (taken := self.taken) is not None:
            row.step += taken.step
            if row.status == "pending":  # it is about to begin, of which on_change() says nothing
                row.status, row.started = "running", taken.started
            row.is_async, row.listed, row.token = taken.is_async, taken.listed, taken.token
            row.route, row.expires = taken.route, taken.expires  # for an attempt after a loss
            row.retries = max(0, taken.retries + taken.attempts - row.attempts)
            if row.done:
                row.token = None  # it has the arguments, which are not needed any more
        return row


def _nothing() -> None: ...


@in_child
def _forget_parent() -> None:
    global _building  # noqa: PLW0603
    _building = threading.RLock()  # a thread of the parent may have held the other one


def _add_outcome(row: Row, outcome: Outcome) -> None:
    row.result_state, row.result_type, row.result = outcome.state, outcome.type, outcome.data
    row.result_size = 0 if outcome.data is None else len(outcome.data)
    if (failure := outcome.failure) is not None:
        row.error_type, row.error_message = failure.type, failure.message
        row.error_traceback, row.problem = failure.traceback, failure.problem
