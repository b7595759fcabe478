"""A job's progress as server-sent events, for a limited number of clients at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timezone

from flask import Response, current_app, json, request

from ..errors import StoreError
from ..stores import JobRecord, Records
from .answers import Answers
from .pages import ShownJob
from .schema import document_of

__all__ = ("Events",)

_RETRY = 2000  # milliseconds, after which a browser connects again when a connection breaks
_SHORTEST_PAUSE = 0.1  # seconds between two events, so that a client that reads slowly keeps up
_HEARTBEAT = b":\n\n"
_PAUSE = b"event: pause\ndata: {}\n\n"


class Events:
    """The streams of one blueprint in this process.

    Each takes a thread of the server, so there are few, and each ends after a while; a client goes
    on by polling.
    """

    def __init__(
        self, answers: Answers, *, streams: int, stream_time: float, heartbeat: float
    ) -> None:
        self._answers = answers
        self._stream_time = stream_time
        self._heartbeat = heartbeat
        # A place is taken and given back in one step, without a lock: the garbage collector, which
        # may give one back, can run in the middle of anything.
        self._places = [None] * streams

    def stream(self, jobs: Records, job: JobRecord) -> Response:
        """Return the response that tells of a job's changes from now on.

        Raises:
            HTTPException: 503, if no place is free, or the server answers one request at a time.
        """
        seen = request.headers.get("Last-Event-ID", "")
        if job.done and seen == str(job.version):
            return current_app.response_class(status=204)
        if not request.environ.get("wsgi.multithread"):
            raise self._answers.problem(
                503, "This server cannot send events; poll the job instead."
            )
        response: Response = current_app.response_class(mimetype="text/event-stream")
        if request.method != "HEAD":
            try:
                self._places.pop()
            except IndexError:
                raise self._answers.problem(
                    503, "No stream is free; poll the job instead."
                ) from None
            stream = _Stream(self._frames(jobs, job, seen), self._places)
            response.response = stream
            response.call_on_close(stream.close)
        response.headers["Cache-Control"] = "no-store, no-transform"
        response.headers["X-Accel-Buffering"] = "no"  # nginx
        return response

    def _frames(self, jobs: Records, job: JobRecord, seen: str) -> Iterator[bytes]:
        end = time.monotonic() + self._stream_time
        yield b"retry: %d\n\n" % _RETRY
        while True:
            if str(job.version) != seen:
                yield _frame(job)
                seen = str(job.version)
                time.sleep(_SHORTEST_PAUSE)
            if job.done:
                return
            left = end - time.monotonic()
            if left <= 0:
                yield _PAUSE
                return
            version = jobs.changed(job.id, job.version, min(left, self._heartbeat))
            if version == job.version:
                yield _HEARTBEAT
                continue
            try:
                now = jobs.get(job.id, with_result=False)
            except StoreError:
                now = None
            if now is None:  # removed, or not to be read
                yield _PAUSE
                return
            job = now


def _frame(job: JobRecord) -> bytes:
    """Return the whole state of a job as one event; it has no line break but those of the frame."""
    document = document_of(job, {})
    said = ShownJob(job, document, datetime.now(timezone.utc)).announcement
    data = {"status": document["status"], "progress": document["progress"], "said": said}
    name = "done" if job.done else "progress"
    return f"event: {name}\nid: {job.version}\ndata: {json.dumps(data, indent=None)}\n\n".encode()


class _Stream:
    """The body of a response with a place, which it gives back once, whatever becomes of it.

    Servers close a body that they have sent, and one whose client is gone. But some close none, and
    a generator that has not begun runs no ``finally``.
    """

    def __init__(self, frames: Iterator[bytes], places: list[None]) -> None:
        self._frames = frames
        self._place = [places]

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._frames)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        try:
            places = self._place.pop()
        except IndexError:
            return
        places.append(None)

    __del__ = close
