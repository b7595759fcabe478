"""The records of one executor in one app: written behind, in a thread, and read when asked for.

One thread writes what has changed, shows that this process is alive, buries those that are dead, so
that their jobs are lost, and settles the futures that wait for jobs of other processes. It starts
with the first record, or the first future that is waited for.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from math import inf, nextafter
from queue import Empty, SimpleQueue
from typing import Any, cast
from weakref import WeakSet, WeakValueDictionary

from ..errors import (
    DuplicateKeyError,
    JobExpiredError,
    JobFailedError,
    JobLostError,
    ResultNotSharedError,
    StoreError,
    UnstorableError,
    UnsupportedError,
    job_failed,
)
from ..futures import (
    FutureProxy,
    OnDuplicate,
    facts_of,
    id_of,
    is_waited_for,
    record_late,
    record_with,
    recorder_of,
)
from ..runtime.exit import ClosableThreads, exit_has_begun
from ..runtime.forks import in_child
from ..runtime.logs import log_exception
from ..runtime.threads import SpareThreads, start_thread
from .encoding import encode_key
from .owners import Leases, is_dead, this_process
from .protocol import Hears, Listener, Owner, Query, Store
from .recording import Codec, Recording
from .records import EXPIRED, CancelAnswer, JobRecord, JobStatus, Row, record_of
from .remote import RemoteFuture

__all__ = ("Settings", "StoreClient")

_RESULTS_AT_ONCE = 8  # results that are read in one answer: each may have megabytes
_LINGER = 0.005  # seconds between two flushes, so that ends share a transaction
_DELAY = 0.02  # seconds until starts and progress are written
_PROGRESS_EVERY = 0.2  # seconds between two writes of progress, of all jobs together
_BATCH = 200  # rows in one transaction
_PURGE_EVERY = 60.0
_RETRY_FIRST, _RETRY_LAST = 0.1, 2.0  # seconds, while the store cannot be used
_MAX_BACKLOG = 10_000  # finished records that wait for a store that cannot be used
_MAX_MOVED_ON = 1000  # jobs; of older ones, a process that looks may publish a message too many
_POLLS = ((1.0, 0.005), (10.0, 0.02), (60.0, 0.1), (inf, 0.25))
"""How often a store that does not tell of changes is asked, by the seconds since the first wait."""
_POLL_FOR_CANCEL = 0.1  # while jobs run here


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How an executor uses its store, in one app."""

    space: str
    executor: str
    ttl: float = 86400.0
    max_jobs: int = 10_000
    max_bytes: int = 256 * 2**20
    lease: float = 15.0
    strict: bool = False
    records_all: bool = True
    keeps: int | None = 50
    """Futures whose results no other process can have, and are kept here, at most."""


class _Watch:
    """A thread that waits for another version of one record."""

    def __init__(self, job_id: str, version: int) -> None:
        self.job_id = job_id
        self.version = version
        self.changes: SimpleQueue[None] = SimpleQueue()

    def sees(self, version: int) -> None:
        if version != self.version:
            self.version = version
            self.changes.put(None)


class StoreClient(ClosableThreads):
    """Writes and reads the records of one executor in one app.

    Every method may be called from any thread. Those that read raise ``StoreError`` while the store
    cannot be used; jobs, and what writes their records, go on.

    Args:
        store: The store, which nothing else uses.
        settings: How it is used.
        codec: How results are stored.
        label: The executor's name, for the thread and in logs.
        logger: Where to log.
        tell: Called once for each job that another process has lost.
        publish_again: Gives a job to the engine once more, whose process has died; it may raise.
    """

    def __init__(  # noqa: PLR0913  # what it is given, once, by app_state
        self,
        store: Store,
        settings: Settings,
        codec: Codec,
        *,
        label: str,
        logger: Callable[[], logging.Logger],
        tell: Callable[[FutureProxy[Any], JobRecord], object],
        publish_again: Callable[[Row], object] | None = None,
    ) -> None:
        self.store: Store = store
        self.settings: Settings = settings
        self.codec: Codec = codec
        self._label = label
        self._logger = logger
        self._tell = tell
        self._publish_again = publish_again
        self._interval = settings.lease / 3
        self._reset()
        _clients.add(self)

    def _reset(self) -> None:
        self.owner: Owner = this_process()
        self._lock = threading.RLock()  # reentrant: a finalizer may come back
        self._writing = threading.RLock()
        """Held by the thread, and by those of jobs that were taken, from the look at what is open
        until it is written. Not by requests: it may be held while a disk is slow."""
        self._ending = threading.Lock()  # held by a thread that ends
        self._is_registered = False  # set under _lock
        self._thread: threading.Thread | None = None  # this and the next: set under _lock
        self._runs = False
        self._listens = False
        self._listener: Listener | None = None
        self._hears = Hears.ASKS  # raised under _lock
        self._closing = False
        self._wake = threading.Event()
        self._urgent = self._scheduled = False
        # Items of dicts are set and removed atomically, with the GIL and without it.
        self._open: dict[FutureProxy[Any], Recording] = {}
        """Jobs of this process whose end is not written."""
        self._dirty: dict[FutureProxy[Any], None] = {}
        """Those of them whose record is out of date."""
        self._moved: dict[FutureProxy[Any], None] = {}
        """Those that have reported progress, or logged something, since it was written."""
        self._waiting: dict[str, RemoteFuture[Any]] = {}
        self._known: WeakValueDictionary[str, FutureProxy[Any]] = WeakValueDictionary()
        """Futures by id, of this process and of others: one for each id. Guarded by _lock."""
        self._kept: OrderedDict[str, FutureProxy[Any]] = OrderedDict()  # guarded by _lock
        self._settlers = SpareThreads(f"{self._label}-settle")
        self._watches: tuple[_Watch, ...] = ()  # replaced, under _lock
        # Of an engine: jobs to be published again, and unlisted records to be removed.
        self._again: dict[str, Row] = {}
        self._is_publishing = False
        """Set by the client's thread, and cleared by the one that publishes them."""
        self._moved_on: OrderedDict[str, int] = OrderedDict()
        """Attempts that were published again, by id, oldest first. Guarded by _lock."""
        self._read: dict[str, None] = {}  # and those of jobs to be withdrawn
        self._unreleased: dict[str, str] = {}
        """Keys of calls that were refused while the store could not be used, by id."""
        self._heard: dict[str, Row | None] = {}
        """Ids of jobs that have changed, with their records if they came along."""
        self._asked: dict[str, bool] = {}  # those that were told to cancel, or kill; the thread's
        self._look_is_due = False
        """Set by any thread; the client's own clears it, and then looks at what is waited for."""
        self._down_since = 0.0  # time.monotonic(); 0.0: the store works
        self._has_warned = False  # of a key that cannot be shared
        self._dropped = 0  # records, while it does not
        self._last_take = 0.0  # set under _lock
        self._owners: Mapping[str, Owner] = {}  # as they were read last
        # Times of time.monotonic().
        self._flushed = self._polled = self._waited_since = self._progress_written = 0.0
        self._next_beat = self._next_tell = self._next_try = self._next_publish = 0.0
        self._next_purge = time.monotonic() + _PURGE_EVERY
        self._retry = _RETRY_FIRST
        self._mark: Hashable = None

    # -- records of this process's jobs ----------------------------------------------------------

    def record(
        self,
        future: FutureProxy[Any],
        *,
        user: str | None = None,
        labels: Mapping[str, str] | None = None,
        is_written_next: bool = False,
    ) -> None:
        """Record a call from now on, which no worker knows of yet.

        Args:
            future: The call's.
            user: Whose job it is.
            labels: Texts to find it by.
            is_written_next: :meth:`claim` or :meth:`enqueue` comes next, and writes the first row.
                The thread must not write one as well: what comes late would be a record of a job
                that was withdrawn meanwhile.
        """
        recording = self._recording(user=user, labels=labels)
        record_with(future, recording)
        self._open[future] = recording
        if not is_written_next:
            self.mark(future, soon=False)

    def _recording(
        self,
        *,
        kind: str = "call",
        user: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Recording:
        return Recording(
            self,
            self.owner,
            space=self.settings.space,
            executor=self.settings.executor,
            kind=kind,
            user=user,
            labels=labels,
        )

    def keep(self, future: FutureProxy[Any], *, kind: str, user: str | None) -> None:
        if isinstance(future, RemoteFuture):
            return
        if recorder_of(future) is None:
            recording = self._recording(kind=kind, user=user)
            self._open[future] = recording  # first: the recording marks what is open
            record_late(future, recording)
        _ = future.id  # writes the record
        recorder = recorder_of(future)
        if not (isinstance(recorder, Recording) and recorder.is_written):
            raise StoreError(self.store.url, f"there is no record of {future.name}")

    def refuse(self, future: FutureProxy[Any]) -> None:
        """Forget a call that was not accepted, unless other processes may have seen it."""
        recording = self._open.get(future)
        if recording is None:
            return
        if recording.key is not None:
            try:
                self.store.release(self.settings.space, recording.key, id_of(future))
            except StoreError:
                self._unreleased[id_of(future)] = recording.key
            recording.key = None
        if not recording.is_written:
            self._open.pop(future, None)
            self._dirty.pop(future, None)

    def mark(self, future: FutureProxy[Any], *, soon: bool) -> None:
        if future not in self._open:
            return
        self._dirty[future] = None
        # The thread clears a flag before it looks at what is dirty, and we look at the flag after
        # we have added to that. So the second of the two sees what the first did.
        if soon:
            if not self._urgent:
                self._urgent = True
                self._awake()
        elif not self._scheduled:
            self._scheduled = True
            self._awake()

    def moves(self, future: FutureProxy[Any]) -> None:
        if future in self._open:
            self._moved[future] = None
            if not self._scheduled:
                self._scheduled = True
                self._awake()

    def ensure(
        self, future: FutureProxy[Any], recording: Recording, *, patient: bool = False
    ) -> None:
        with self._lock:
            self._known[id_of(future)] = future
        if self._down_since or future not in self._open:
            return
        try:
            self._register()
            row = recording.row(future)
            refused = self.store.write([row], patient=patient)  # if it is, a later one is there
        except UnstorableError:  # which is no fault of the store; the thread leaves texts out
            self.mark(future, soon=True)
            return
        except StoreError as error:
            self._goes_down(error)
            return
        recording.is_written = True
        if row.done and not refused:  # not to be written again, perhaps after a purge
            recording.is_over = True
            self._is_over(future, row)

    def _catch_up(self, job_id: str) -> None:
        """Write the end of a job of this process, if that is seen before it is written."""
        with self._lock:
            future = self._known.get(job_id)
        recording = None if future is None else self._open.get(future)
        if future is not None and recording is not None and future.done():
            self.ensure(future, recording)

    def _register(self) -> None:
        if not self._is_registered:
            with self._lock:
                if not self._is_registered:
                    self.store.register(self.owner)
                    self._is_registered = True

    # -- jobs of an engine -----------------------------------------------------------------------

    def enqueue(
        self,
        future: FutureProxy[Any],
        *,
        token: bytes,
        retries: int,
        is_async: bool,
        route: str | None,
        expires: float | None,
    ) -> Row:
        """Record that an engine has a job: whichever process takes it first owns it.

        Args:
            future: The job's future.
            token: Its signed message.
            retries: How often it may be published again.
            is_async: Whether it is a coroutine.
            route: With which route.
            expires: Seconds after its submission, in which it must have been taken.

        Raises:
            StoreError: it is not recorded; do not publish it.
        """
        recording = self._open.get(future)
        listed = recording is not None
        if recording is None:
            recording = self._recording()
            record_with(future, recording)
        row = recording.row(future)
        row.owner, row.server, row.held = None, "", 0
        row.token, row.retries = token, retries
        row.is_async, row.listed, row.route = int(is_async), int(listed), route
        row.expires = None if expires is None else row.submitted + expires
        try:
            with self._asking():
                is_queued = self.store.enqueue(row, recording.owner.id)
        except StoreError:
            self._read[row.id] = None  # it may have been done: then it is withdrawn
            raise
        if not is_queued:
            raise StoreError(
                self.store.url, f"the record of {row.name} was ended by another process"
            )
        # First: the thread may be about to note that it has written an earlier row.
        recording.is_elsewhere = recording.is_written = True
        for futures in (self._open, self._dirty, self._moved):
            futures.pop(future, None)
        with self._lock:
            self._known[row.id] = future
        return row

    def withdraw(self, answer: RemoteFuture[Any]) -> bool:
        """Forget a job that could not be published; ``False`` if a worker has it all the same.

        Raises:
            StoreError: it is unknown whether a worker has it. If none has taken it once the store
                can be used, it is withdrawn then.
        """
        job_id = id_of(answer)
        self._waiting.pop(job_id, None)
        try:
            is_withdrawn = self.store.withdraw(job_id)
        except StoreError:
            self._read[job_id] = None
            self._awake()
            raise
        if not is_withdrawn:
            self.wait_for(answer)
            self._look_again()  # its end may have come meanwhile
        return is_withdrawn

    def is_over(self, answer: RemoteFuture[Any], *, listed: bool) -> None:
        """Stop watching a record. An unlisted one that was read to its end is removed."""
        job_id = id_of(answer)
        self._waiting.pop(job_id, None)
        if answer.has_ended and not listed:
            self._read[job_id] = None
            self._awake()

    def tell_of_losses(self) -> None:
        """Announce the jobs that are lost soon, unless another process does."""
        self._next_tell = 0.0
        self._awake()

    def again(self, row: Row) -> None:
        """Have a job published again, whose process has died; once for each attempt."""
        if self._publish_again is None or row.executor != self.settings.executor:
            return
        with self._lock:
            if self._moved_on.get(row.id) == row.attempts:
                return
            self._moved_on[row.id] = row.attempts
            self._moved_on.move_to_end(row.id)
            if len(self._moved_on) > _MAX_MOVED_ON:
                self._moved_on.popitem(last=False)
        self._again[row.id] = row
        self._awake()

    def take(self, job_id: str, attempt: int, seconds: float = 0.0) -> Row | None:
        """Make this process the owner of a job; see :meth:`Store.take`.

        Args:
            job_id: The job's id.
            attempt: Which attempt it is, according to its message.
            seconds: How long to try while the store cannot be used.

        Returns:
            The job's record, to exactly one of the calls for this attempt, in any process.

        Raises:
            StoreError: it is unknown whether this process is the owner; do not run the job.
        """
        end, at, is_repeated = time.monotonic() + seconds, self._time_of_take(), False
        while True:
            try:
                self._register()
                row = self.store.take(job_id, attempt, self.owner, at)
                if row is None and is_repeated:  # an answer was lost: perhaps that we have it
                    row = self.store.get([job_id], results=True).get(job_id)
                    # Another thread may have taken it for this process, at another time.
                    ours = (self.owner.id, at, attempt, "running")
                    if row and (row.owner, row.started, row.attempts, row.status) != ours:
                        row = None
            except StoreError:
                if time.monotonic() > end:
                    raise
                is_repeated = True
                time.sleep(_RETRY_LAST / 4)
            else:
                return row

    def _time_of_take(self) -> float:
        """Return the time now, which no other take of this process has."""
        with self._lock:
            self._last_take = max(time.time(), nextafter(self._last_take, inf))
            return self._last_take

    def adopt(self, future: FutureProxy[Any], row: Row) -> None:
        """Record a job that this process has taken, and have it cancelled when that is asked."""
        recording = self._recording(kind=row.kind, user=row.user, labels=json.loads(row.labels))
        recording.key, recording.taken, recording.is_written = row.key, row, True
        record_with(future, recording)
        with self._lock:
            self._known[row.id] = future
        self._open[future] = recording
        # It may have been asked for before. The thread that hears of it first notes it, and then
        # looks for the future, so one of the two finds what the other has left, or both do.
        if (kill := self._asked.get(row.id)) is not None:
            self._cancel_here(row.id, kill=kill)
        self._attend()

    def note_attempt(self, future: FutureProxy[Any], seconds: float) -> bool:
        """Write that a job that this process has taken is about to be tried again.

        Args:
            future: The job's future, which knows the number of the attempt.
            seconds: How long to try while the store cannot be used.

        Returns:
            Whether the record says so. If not, the job must not be tried again.
        """
        end = time.monotonic() + seconds
        while (recording := self._open.get(future)) is not None and not future.done():
            row = recording.row(future)
            try:
                if not self.store.write([row], patient=True):
                    return True
                # The thread may have written a later row; or another process has the job now.
                found = self.store.get([row.id]).get(row.id)
            except UnstorableError:
                return False
            except StoreError:
                if time.monotonic() > end:
                    return False
                time.sleep(_RETRY_LAST / 4)
            else:
                return (
                    found is not None
                    and (found.owner, found.attempts) == (row.owner, row.attempts)
                    and not found.done
                )
        return False

    def write_end(self, future: FutureProxy[Any], seconds: float) -> None:
        """Write the end of a job that this process has taken, or have the thread try it."""
        if (recording := self._open.get(future)) is not None:
            with self._writing:  # what the thread writes later could come after a withdrawal
                self.ensure(future, recording, patient=True)
            self.wait_until_written(future, seconds)

    def wait_until_written(self, future: FutureProxy[Any], seconds: float) -> bool:
        """Wait until the end of a job that this process has taken is written."""
        end, over = time.monotonic() + seconds, threading.Event()
        if (recording := self._open.get(future)) is not None:
            recording.on_over = over.set
        while future in self._open and time.monotonic() < end:
            over.wait(0.1)  # the record may also be given up, of which no event tells
        return future not in self._open

    def lose(self, job_id: str, attempt: int, reason: str, *, has_ended: bool) -> None:
        """End a job whose process has died, or have it repeated. Starts no thread.

        Nothing happens if another process has the job: the loss was noted before, and the job was
        published again, or another worker had taken it first.

        Args:
            job_id: The job's id.
            attempt: That with which the process has begun.
            reason: What has happened to it.
            has_ended: Whether the process has ended already; else it is about to be killed.
        """
        row = self.store.get([job_id]).get(job_id)
        if row is None or row.owner is None or row.done:
            return
        owner = self._owner_of(row)
        is_known_dead = None if owner is None else is_dead(owner, self.owner)
        if has_ended and is_known_dead is False:
            return
        # A retry in the process that has died counts too. A later attempt of another one doesn't.
        if not is_known_dead and row.attempts != attempt:
            return
        for again in self.store.lose(job_id, row.owner, reason, time.time()).again:
            if self._publish_again is not None:
                self._publish_again(again)

    # -- keys ------------------------------------------------------------------------------------

    def claim(
        self, future: FutureProxy[Any], key: Hashable, on_duplicate: OnDuplicate
    ) -> tuple[bool, FutureProxy[Any] | None]:
        recording, text = self._open[future], self._text_of(key)
        if text is not None:
            try:
                return True, self._claim(future, recording, key, text, on_duplicate)
            except StoreError:
                if self.settings.strict:
                    raise
            recording.key = text  # which it gets, if it is free, when the record is written
        return False, None  # nothing is written before it is known that no other call is joined

    def _claim(
        self,
        future: FutureProxy[Any],
        recording: Recording,
        key: Hashable,
        text: str,
        on_duplicate: OnDuplicate,
    ) -> FutureProxy[Any] | None:
        recording.key = text
        while True:
            try:
                with self._asking():
                    self._register()
                    recording.is_written = True  # if no answer comes, it may be
                    kept = self.store.claim(recording.row(future), on_duplicate)
                    if kept is None:
                        with self._lock:
                            self._known[id_of(future)] = future
                        return None
                    recording.is_written = False
                    kept = self._up_to_date(kept)
            except BaseException:
                recording.key = None
                raise
            if kept is None or (kept.done and on_duplicate == "join"):
                continue  # purged, or lost with its process: now the key is free
            recording.key = None
            self.refuse(future)
            if on_duplicate == "error":
                raise DuplicateKeyError(key)
            return self._future_of(kept)

    def add(self, future: Future[Any], key: Hashable) -> bool:
        if not isinstance(future, FutureProxy) or (text := self._text_of(key)) is None:
            return False
        job_id = future.id  # which writes its record, if it has one
        try:
            with self._asking():
                row = self.store.get([job_id]).get(job_id)
                if row is None or row.space != self.settings.space:
                    return False
                row.key = text
                kept = self.store.claim(row, "error")
        except StoreError:
            if self.settings.strict:
                raise
            return False
        if kept is not None:
            raise DuplicateKeyError(key)
        future.key = key
        return True

    def _text_of(self, key: Hashable) -> str | None:
        text = encode_key(key)
        if text is None and not self._has_warned:
            self._has_warned = True
            self._log(
                logging.WARNING,
                "keys of %s stay in the process that submits them if they are not texts, numbers, "
                "bytes, UUIDs, dates, or tuples of these, as %r is not",
                self._label,
                type(key).__name__,
            )
        return text

    def find(self, key: Hashable) -> FutureProxy[Any] | None:
        if (text := encode_key(key)) is None:
            return None
        with self._asking():
            row = self.store.find(self.settings.space, text)
            row = None if row is None else self._up_to_date(row)
        if row is None:
            return None
        self._publish_if_lost(row)
        return self._future_of(row)

    def pop(self, key: Hashable) -> FutureProxy[Any] | None:
        if (text := encode_key(key)) is None:
            return None
        with self._asking():
            row = self.store.pop(self.settings.space, text)
        return None if row is None else self._future_of(row)

    def count_keys(self) -> int:
        with self._asking():
            return self.store.count_keys(self.settings.space)

    # -- records of all processes ----------------------------------------------------------------

    @property
    def max_result_bytes(self) -> int:
        return self.codec.max_bytes

    def get(self, job_id: str, *, with_result: bool = True) -> JobRecord | None:
        row = self.read(job_id, with_result=with_result)
        if row is None:
            return None
        return record_of(row, self._result_of(row) if with_result else None)

    def _result_of(self, row: Row) -> Any:
        return self.codec.result_of(row) if row.result_state == "stored" else None

    def changed(self, job_id: str, version: int, timeout: float) -> int:
        watch = _Watch(job_id, version)
        with self._lock:
            self._watches += (watch,)
        try:
            self._look_again(Hears.STARTS)
            with contextlib.suppress(Empty):
                watch.changes.get(timeout=timeout)
        finally:
            with self._lock:
                self._watches = tuple(each for each in self._watches if each is not watch)
        return watch.version

    def page(self, query: Query) -> list[JobRecord]:
        with self._asking():
            rows = self.store.page(self.settings.space, query)
            # One job of each process is enough, and one of those that no worker took in time.
            now, owned = time.time(), [row for row in rows if not row.done and row.owner]
            looks = [*{row.owner: row for row in owned}.values()]
            looks += [row for row in rows if _is_late(row, now)][:1]
            # A list, so that each dead owner is buried: its jobs are lost, which changes the page.
            if [row for row in looks if self._up_to_date(row) is not row]:
                rows = self.store.page(self.settings.space, query)
        for row in rows:
            self._publish_if_lost(row)
        return [record_of(row) for row in rows]

    def counts(self, user: str | None) -> Mapping[JobStatus, int]:
        with self._asking():
            counts = self.store.counts(self.settings.space, user)
        return cast("Mapping[JobStatus, int]", counts)

    def purge(self, older_than: float) -> int:
        before, removed = time.time() - older_than, 0
        with self._asking():
            while step := self.store.purge(self.settings.space, finished_before=before):
                removed += step
        return removed

    def future(self, job_id: str) -> FutureProxy[Any] | None:
        with self._lock:
            future = self._known.get(job_id)
        if future is not None:
            return future
        row = self.read(job_id)
        return None if row is None else self._future_of(row)

    def _future_of(self, row: Row) -> FutureProxy[Any]:
        """Return the one future of a job in this process: the live one, if the job is its own."""
        with self._lock:
            future = self._known.get(row.id)
            if future is None:
                future = self._known[row.id] = RemoteFuture(self, row)
        return future

    def cancel(self, job_id: str, timeout: float, *, kill: bool = False) -> CancelAnswer | None:
        """Ask the process that runs a job to cancel it, and wait for its answer."""
        with self._lock:
            future = self._known.get(job_id)
        if future is not None and not isinstance(future, RemoteFuture):
            if future.done():
                return "cannot"
            is_cancelled = future.cancel(kill=kill)
            if (recording := self._open.get(future)) is not None:
                self.ensure(future, recording)  # the canceller may look at once
            return "cancelled" if is_cancelled else "asked"
        return self._ask_to_cancel(job_id, timeout, kill=kill)

    def _ask_to_cancel(self, job_id: str, timeout: float, *, kill: bool) -> CancelAnswer | None:
        before = self.read(job_id)
        if before is None:
            return None
        if before.done:
            return "cannot"
        end = time.monotonic() + timeout
        with self._asking():
            asked = self.store.ask_to_cancel(job_id, time.time(), kill=kill)
            while asked is not None and not asked.done and time.monotonic() < end:
                time.sleep(_POLLS[0][1])
                asked = self.store.get([job_id]).get(job_id)
        if asked is None or not asked.done:
            return "asked"
        return "cancelled" if asked.status == "cancelled" else "cannot"

    # -- what remote futures need ----------------------------------------------------------------

    def read(self, job_id: str, *, with_result: bool = True) -> Row | None:
        self._catch_up(job_id)
        with self._asking():
            row = self.store.get([job_id], results=with_result).get(job_id)
            if row is None or row.space != self.settings.space:
                return None
            row = self._up_to_date(row)
        if row is not None:
            self._publish_if_lost(row)
        return row

    def _publish_if_lost(self, row: Row) -> None:
        """Have a job published again that waits because its process has died.

        Perhaps the process that has found the loss could not publish it, and that which has
        submitted it is gone.
        """
        if row.owner is None and row.status == "pending" and row.attempts > 1:
            self.again(row)

    def outcome_of(self, row: Row) -> tuple[Any, BaseException | None]:
        if row.status == "lost":
            begun = True if row.started is not None else False if row.held else None
            return None, JobLostError(row.name, row.error_message or "", begun)
        if row.error_type == EXPIRED:
            return None, JobExpiredError(row.name)
        if row.error_type is not None:
            error = job_failed(
                row.name, row.error_type, row.error_message or "", row.error_traceback or ""
            )
            if row.problem is not None:
                self._complete(error, row, row.problem)
            return None, error
        if row.status == "succeeded" and (row.result_state != "stored" or row.result is None):
            return None, ResultNotSharedError(row.name, row.result_state, row.result_type or "")
        try:
            return self._result_of(row), None
        except Exception as error:
            return None, error

    def _complete(self, error: JobFailedError, row: Row, problem: str) -> None:
        """Give an ``HTTPException`` what Flask needs to answer with it."""
        found = json.loads(problem)
        attributes = vars(error)
        attributes["description"] = found["detail"]
        attributes["response"] = self._result_of(row)
        # Its class's own method would need attributes that it has not been made with.
        attributes["get_headers"] = partial(_headers, found.get("headers", ()))

    def wait_for(self, future: RemoteFuture[Any]) -> None:
        self._waiting[id_of(future)] = future
        if future.is_answer:  # waited for before any process can take the job
            self._hear(Hears.CHANGES)
            self._attend()
        else:
            self._look_again()

    def _look_again(self, hears: Hears = Hears.CHANGES) -> None:
        self._waited_since = time.monotonic()
        self._look_is_due = True  # an end may have come before it was waited for
        self._hear(hears)
        self._awake()

    def _hear(self, hears: Hears) -> None:
        """Listen for at least that from now on. Once the listener does, all is looked at."""
        with self._lock:
            if self._hears >= hears:
                return
            self._hears = hears
        if (listener := self._listener) is not None and not self._down_since:
            with contextlib.suppress(StoreError):  # then it comes to that within a second
                listener.wake()

    def cancel_remote(self, job_id: str, *, kill: bool) -> bool:
        return self._ask_to_cancel(job_id, 1.0, kill=kill) == "cancelled"

    # -- owners ----------------------------------------------------------------------------------

    def _up_to_date(self, row: Row) -> Row | None:
        """Return the record as it is once its owner is buried, if dead, and its time is over."""
        if row.done or row.owner == self.owner.id:
            return row
        if row.owner is None:
            now = time.time()
            if not _is_late(row, now):
                return row
            self.store.expire(row.space, now)
        else:
            owner = self._owner_of(row)
            if owner is None or not is_dead(owner, self.owner):
                return row
            self._bury(owner)
        return self.store.get([row.id], results=True).get(row.id)

    def _owner_of(self, row: Row) -> Owner | None:
        owner = self._owners.get(row.owner or "")
        if owner is None:
            self._owners = {each.id: each for each in self.store.owners()}
            owner = self._owners.get(row.owner or "")
        return owner

    def _bury(self, owner: Owner, *, patient: bool = False) -> None:
        reason = f"the process that was to run it has ended: {owner.server or owner.id}"
        burial = self.store.bury(owner.id, reason, time.time(), patient=patient)
        for row in burial.again:
            if (row.space, row.executor) == (self.settings.space, self.settings.executor):
                self.again(row)  # otherwise its submitter does
        if burial.lost:
            self._next_tell = 0.0
            self._awake()

    # -- the store's state -----------------------------------------------------------------------

    @contextlib.contextmanager
    def _asking(self) -> Generator[None, None, None]:
        """Ask the store, unless it could not be used a moment ago: then nothing waits for it."""
        if self._down_since:
            raise StoreError(self.store.url, "it could not be used a moment ago; it is tried again")
        try:
            yield
        except UnstorableError:
            raise
        except StoreError as error:
            self._goes_down(error)
            raise

    def _goes_down(self, error: StoreError) -> None:
        """Leave the store to the thread, which tries it until it works."""
        with self._lock:
            is_news, self._down_since = not self._down_since, self._down_since or time.monotonic()
        if is_news:
            self._log(logging.WARNING, "%s; jobs go on, and their records are written later", error)
            self._scheduled = True
            self._awake()

    def _is_up_again(self) -> None:
        with self._lock:
            dropped, self._dropped, self._down_since = self._dropped, 0, 0.0
        lost = f"; {dropped} records of finished jobs were dropped" if dropped else ""
        self._log(logging.WARNING, "the job store %s is written again%s", self.store.url, lost)

    def _log(self, level: int, message: str, *args: object) -> None:
        with contextlib.suppress(BaseException):
            self._logger().log(level, message, *args)

    # -- the thread ------------------------------------------------------------------------------

    def _awake(self) -> None:
        self._wake.set()
        if not self._runs:
            self._start()

    def _attend(self) -> None:
        """Have the thread run, and poll a store that does not tell of changes."""
        if not self._runs or not self.store.listens:
            self._awake()

    def _start(self) -> None:
        with self._lock:
            if self._runs:
                return
            try:
                self._thread = start_thread(f"{self._label}-records", self._run)
            except RuntimeError:  # the interpreter is ending, or the system has no more threads
                self._urgent = self._scheduled = False  # the next change tries again
                return
            self._runs = True
            if self.store.listens and not self._listens:
                try:
                    listener = start_thread(f"{self._label}-events", self._listen)
                except RuntimeError:
                    return  # changes are looked for at every beat
                self._listens = True
                leave_behind: Any = getattr(listener, "leave_behind", None)
                leave_behind()  # it waits for messages, and nothing waits for it

    def _run(self) -> None:
        leases = Leases(self.settings.lease, self._interval)
        while True:
            self._wake.wait(self._pause())
            self._wake.clear()
            try:
                self._step(leases)
            except StoreError as error:
                self._goes_down(error)
                self._next_try = time.monotonic() + self._retry
                self._retry = min(2 * self._retry, _RETRY_LAST)
                self._drop_backlog()
            except Exception:  # a thread that ended would leave every record as it is
                log_exception(
                    self._logger(), "error in the thread that records jobs of %s", self._label
                )
                time.sleep(_RETRY_FIRST)
            if self._may_end() and self._end():
                return

    def _pause(self) -> float:
        """Return the seconds until there is something to do."""
        now = time.monotonic()
        if self._down_since:
            return max(0.0, self._next_try - now)
        times = [self._next_beat, self._next_purge]
        if self._urgent:
            times.append(self._flushed + _LINGER)
        elif self._dirty or self._scheduled:
            times.append(self._flushed + _DELAY)
        if self._moved:
            times.append(self._progress_written + _PROGRESS_EVERY)
        if self._again:
            times.append(self._next_publish)
        if self._look_is_due:
            times.append(now)
        elif not self.store.listens:
            times.append(self._polled + self._poll_interval(now))
        return max(0.0, min(times) - now)

    def _poll_interval(self, now: float) -> float:
        if self._waiting or self._watches:
            waited = now - self._waited_since
            return next(interval for until, interval in _POLLS if waited < until)
        return _POLL_FOR_CANCEL if self._open else inf

    def _step(self, leases: Leases) -> None:
        now = time.monotonic()
        if self._down_since:
            if now < self._next_try:
                return
            self._register()
            self._beat()
            self._flush()
            self._is_up_again()
            self._retry = _RETRY_FIRST
        if self._moved and now >= self._progress_written + _PROGRESS_EVERY:
            self._progress_written = now
            moved = list(self._moved)
            for future in moved:
                self._moved.pop(future, None)
                self._dirty[future] = None
        # Also if a flag alone is left, of a call that was refused: a flush clears it.
        is_due = now >= self._flushed + (_LINGER if self._urgent else _DELAY)
        if is_due and (self._dirty or self._urgent or self._scheduled):
            self._flush()
        for job_id, key in list(self._unreleased.items()):
            self.store.release(self.settings.space, key, job_id)
            self._unreleased.pop(job_id, None)
        for job_id in list(self._read):
            if not self._next_tell:  # set before: without its record, a loss is not announced
                self._tell_now(now)
            self.store.withdraw(job_id)
            self._read.pop(job_id, None)
        if now >= self._next_beat:
            self._next_beat = now + self._interval
            self._beat()
            self._look_at_owners(leases, now)
            self._look_is_due = True  # in case a message was lost
        if now >= self._next_tell:
            self._tell_now(now)
        if now >= self._next_purge:
            self._next_purge = now + _PURGE_EVERY
            self._keep_bounds()
        self._look(now)
        if self._again and not self._is_publishing and now >= self._next_publish:
            self._next_publish = now + self._interval
            self._is_publishing = True
            self._apart(self._publish_all_again)  # a broker may not answer

    def _publish_all_again(self) -> None:
        assert self._publish_again is not None
        try:
            for job_id, row in list(self._again.items()):
                try:
                    self._publish_again(row)
                except Exception:  # of a broker; the next step tries again
                    message = "%s [%s] cannot be published again"
                    log_exception(self._logger(), message, row.name, job_id)
                    continue
                if self._again.get(job_id) is row:  # else there is a newer attempt
                    self._again.pop(job_id, None)
        finally:
            self._is_publishing = False

    # -- writing ---------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._urgent = self._scheduled = False
        for _ in range(len(self._dirty) // _BATCH + 1):  # what comes meanwhile is for the next time
            batch = list(self._dirty)[:_BATCH]
            if not batch:
                break
            for future in batch:
                self._dirty.pop(future, None)  # before it is looked at: a later change counts again
            try:
                self._register()
                with self._writing:
                    self._write(batch)
            except BaseException:
                for future in batch:
                    if future in self._open:
                        self._dirty.setdefault(future, None)
                raise
        self._flushed = time.monotonic()

    def _write(self, batch: list[FutureProxy[Any]]) -> None:
        recorded: list[tuple[FutureProxy[Any], Recording]] = []
        rows: list[Row] = []
        for future in batch:
            recording = self._open.get(future)
            if recording is None:
                continue
            try:
                rows.append(recording.row(future))
            except Exception:  # of what users gave: one record must not hold up all others
                self._open.pop(future, None)
                log_exception(self._logger(), "the record of %s cannot be written", future.name)
            else:
                recorded.append((future, recording))
        if not rows:
            return
        try:
            refused = set(self.store.write(rows, patient=True))
        except UnstorableError:
            refused = self._write_one_by_one(rows)
        for (future, recording), row in zip(recorded, rows, strict=True):
            if row.id in refused:
                self._was_refused(future, recording, row)
                continue
            recording.is_written = True
            with self._lock:
                self._known[row.id] = future
            if row.done:
                self._is_over(future, row)
            elif future not in self._open and not (recording.is_over or recording.is_elsewhere):
                # Refused while we wrote: its end is to be written too.
                self._open[future] = recording
                self._dirty[future] = None

    def _write_one_by_one(self, rows: list[Row]) -> set[str]:
        """Write each row by itself, and one that is refused for its content without its texts."""
        refused: set[str] = set()
        for row in rows:
            try:
                refused.update(self.store.write([row], patient=True))
            except UnstorableError as error:
                self._log(
                    logging.WARNING,
                    "the record of %s [%s] is written without its texts: %s",
                    row.name,
                    row.id,
                    error.reason,
                )
                bare = Row(
                    id=row.id,
                    space=row.space,
                    executor=row.executor,
                    name="?",
                    owner=row.owner,
                    server=row.server,
                    status=row.status,
                    step=row.step,
                    submitted=row.submitted,
                    started=row.started,
                    finished=row.finished,
                )
                with contextlib.suppress(UnstorableError):
                    refused.update(self.store.write([bare], patient=True))
        return refused

    def _was_refused(self, future: FutureProxy[Any], recording: Recording, row: Row) -> None:
        found = self.store.get([row.id]).get(row.id)
        if found is None or (found.owner == row.owner and not found.done):
            return  # a later row was written by another thread
        if found.owner == row.owner and (found.status != "lost" or row.status == "lost"):
            self._is_over(future, row)  # written before, by an answer that was lost
            return
        if found.status == "lost" or recording.taken is not None:  # else an engine has the job
            self._log(
                logging.WARNING,
                "job %s [%s] is %s here, but was declared lost: another "
                "process took this one for dead",
                row.name,
                row.id,
                row.status,
            )
        self._open.pop(future, None)

    def _is_over(self, future: FutureProxy[Any], row: Row) -> None:
        recording = self._open.pop(future, None)
        self._asked.pop(row.id, None)
        if recording is not None:
            recording.on_over()
        if row.result_state in {"local", "too_large"}:
            with self._lock:
                self._kept[row.id] = future
                while self.settings.keeps is not None and len(self._kept) > self.settings.keeps:
                    self._kept.popitem(last=False)

    def _drop_backlog(self) -> None:
        """Bound what waits for a store that cannot be used."""
        if len(self._open) <= _MAX_BACKLOG:
            return
        for future in [each for each in list(self._open) if each.done()][
            : len(self._open) - _MAX_BACKLOG
        ]:
            self._open.pop(future, None)
            self._dirty.pop(future, None)
            self._dropped += 1

    # -- living ----------------------------------------------------------------------------------

    def _beat(self) -> None:
        if not self._is_registered:
            return
        pulse = self.store.beat(self.owner.id)
        if pulse == "ok":
            return
        with self._lock:
            if pulse == "dead":
                self._log(
                    logging.WARNING,
                    "this process (%s) was taken for dead by another; its "
                    "%d unfinished jobs are recorded as lost",
                    self.owner.server,
                    len(self._open),
                )
                self.owner = this_process()
                self._open.clear()
                self._dirty.clear()
            self._is_registered = False
        if pulse == "gone":  # the store has lost its data
            self._register()
            self._dirty.update(dict.fromkeys(list(self._open)))
            self._flush()

    def _look_at_owners(self, leases: Leases, now: float) -> None:
        others = [each for each in self.store.owners() if each.id != self.owner.id]
        self._owners = {each.id: each for each in others}
        elsewhere: list[Owner] = []
        for owner in others:
            dead = True if owner.dead else is_dead(owner, self.owner)
            if dead:
                self._bury(owner, patient=True)
            elif dead is None:
                elsewhere.append(owner)
        for owner in leases.overdue(elsewhere, now):
            self._bury(owner, patient=True)

    def _tell_now(self, now: float) -> None:
        self._next_tell = now + self._interval
        self._announce()

    def _announce(self) -> None:
        for job_id in self.store.untold(self.settings.space):
            row = self.store.get([job_id]).get(job_id)
            if row is None or not self.store.tell(job_id):
                continue
            record = record_of(row)
            self._log(
                logging.ERROR,
                "Background job %s [%s] is lost: %s",
                row.name,
                row.id,
                row.error_message,
            )
            with contextlib.suppress(BaseException):
                self._tell(self._future_of(row), record)

    def _keep_bounds(self) -> None:
        settings = self.settings
        self.store.expire(settings.space, time.time())
        while self.store.purge(
            settings.space,
            finished_before=time.time() - settings.ttl,
            keep=settings.max_jobs,
            keep_bytes=settings.max_bytes,
        ):
            if self._urgent or time.monotonic() >= self._next_beat:  # the next step goes on
                self._next_purge = time.monotonic()
                return

    # -- hearing ---------------------------------------------------------------------------------

    def _listen(self) -> None:
        listener: Listener | None = None
        owner, pause = self.owner, _RETRY_FIRST
        while self._runs:
            try:
                if listener is None or owner is not self.owner:
                    if listener is not None:
                        listener.close()
                    owner = self.owner
                    listener = self.store.listener(self.settings.space, owner.id)
                    self._listener = listener
                # Who wants to hear more sets this first, and then wakes the listener found here.
                heard = listener.wait(1.0, self._hears)
                pause = _RETRY_FIRST
            except Exception as error:  # a thread that ended would leave all to the next beats
                if not isinstance(error, StoreError):
                    log_exception(self._logger(), "error in the thread that listens for jobs")
                if listener is not None:
                    listener.close()
                self._listener = listener = None
                time.sleep(pause)
                pause = min(2 * pause, _RETRY_LAST)
                continue
            if heard is None:
                self._look_is_due = True
                self._wake.set()
            elif matters := self._that_matter(heard):
                for each in matters:
                    self._heard[each] = listener.row_of(heard[each])
                self._wake.set()
        if listener is not None:
            listener.close()
        self._listener = None
        self._listens = False

    def _that_matter(self, heard: Iterable[str]) -> list[str]:
        ours = {self.owner.id, *(watch.job_id for watch in self._watches)}
        return [each for each in heard if each in self._waiting or each in ours]

    def _look(self, now: float) -> None:
        """Settle what is waited for, and cancel what is to be cancelled."""
        heard = dict(self._heard.popitem() for _ in range(len(self._heard)))
        try:
            is_due = self._may_have_changed(now)
            if is_due or heard:
                self._look_at(heard, is_due=is_due)
        except StoreError:
            self._look_is_due = True  # in place of what was heard
            raise

    def _look_at(self, heard: Mapping[str, Row | None], *, is_due: bool) -> None:
        if is_due or self.owner.id in heard:
            self._look_at_cancels()
        waiting, watches = list(self._waiting), self._watches
        if not is_due:  # thousands may wait, of which few have changed
            waiting = [each for each in waiting if each in heard]
        ids = {*waiting, *(watch.job_id for watch in watches)}
        # A few that were heard of have ended, most likely: their results come in the same answer.
        at_once = not is_due and len(ids) <= _RESULTS_AT_ONCE
        rows = {each: row for each in ids if (row := heard.get(each)) is not None}
        rows |= self.store.get(ids - rows.keys(), results=at_once)
        for watch in watches:
            row = rows.get(watch.job_id)
            row = None if row is None else self._up_to_date(row)
            watch.sees(0 if row is None else row.version)
        for job_id in waiting:
            row = rows.get(job_id)
            row = None if row is None else self._up_to_date(row)
            if row is not None and row.done and not (at_once or heard.get(job_id)):
                row = self.store.get([job_id], results=True).get(job_id)
            future = self._waiting.pop(job_id, None)  # after what may raise: it is waited for
            if future is None:  # given up meanwhile
                continue
            if row is not None and not row.done:
                future.adopt(row)
                # Out of the way first: who begins to wait meanwhile puts it back, or is seen here.
                if is_waited_for(future):
                    self._waiting[job_id] = future
            else:
                self._apart(partial(future.adopt, row))

    def _look_at_cancels(self) -> None:
        for job_id, kill in self.store.asked_to_cancel(self.owner.id):
            if job_id not in self._asked or kill > self._asked[job_id]:
                self._asked[job_id] = kill
                self._cancel_here(job_id, kill=kill)

    def _may_have_changed(self, now: float) -> bool:
        is_due = self._look_is_due
        if is_due:
            self._look_is_due = False  # before we look: what is set from now on means another look
        if self.store.listens or not (self._waiting or self._watches or self._open):
            return is_due
        if not is_due and now < self._polled + self._poll_interval(now):
            return False
        self._polled = now
        before, self._mark = self._mark, self.store.mark()
        return is_due or before != self._mark

    def _apart(self, settle: Callable[[], object]) -> None:
        """Settle a future in a thread of its own: callbacks may wait, for remote futures say."""
        try:
            self._settlers.run(settle)
        except RuntimeError:
            settle()

    def _cancel_here(self, job_id: str, *, kill: bool) -> None:
        with self._lock:
            future = self._known.get(job_id)
        if future is not None:
            self._apart(partial(_cancel, future, kill=kill))

    # -- the end ---------------------------------------------------------------------------------

    def _may_end(self) -> bool:
        return self._closing and (bool(self._down_since) or not self._has_unheld())

    def _has_unheld(self) -> bool:
        """Return whether a call is open that is not held: what that waits for may never come.

        At the exit nothing waits for the jobs of an engine, which go on.
        """
        if not exit_has_begun() and any(each.is_answer for each in list(self._waiting.values())):
            return True
        return any(each.done() or not facts_of(each).is_held for each in list(self._open))

    def _end(self) -> bool:
        # Another thread may be started as soon as _runs is cleared, and end as well. The second one
        # waits here, and the first leaves the store to it.
        with self._ending:
            return self._end_alone()

    def _end_alone(self) -> bool:
        with self._lock:
            self._runs = False
            if not self._may_end():
                self._runs = True  # a record came meanwhile
                return False
        for future in [self._waiting.pop(job_id) for job_id in list(self._waiting)]:
            self._apart(partial(future.give_up, StoreError(self.store.url, "it was closed")))
        if self._down_since and self._open:
            self._log(
                logging.WARNING,
                "%d records of %s were not written: %s cannot be used",
                len(self._open),
                self._label,
                self.store.url,
            )
        self._settlers.close()
        with contextlib.suppress(StoreError):
            if self._is_registered and not self._open:
                self._announce()
                self.store.retire(self.owner.id)
        with self._lock:
            if not self._runs:
                self.store.close()
        return True

    def close(self, *, cancel_pending: bool = False) -> None:
        """Have the thread end once every record is written, or the store cannot be used."""
        self._closing = True
        self._wake.set()
        if not self.threads():  # it has only read, so no thread closes the store in the end
            self.store.close()

    def threads(self) -> list[threading.Thread]:
        with self._lock:
            return [] if self._thread is None else [self._thread]

    def abandon(self, seconds: float) -> None:
        """Nothing: the calls are their backend's to fail."""

    def kill(self) -> bool:
        return False

    def forget_parent(self) -> None:
        """In the child of a fork, which is another owner: the jobs are the parent's."""
        self._reset()


def _is_late(row: Row, now: float) -> bool:
    """Return whether no worker has taken a job in time."""
    waits = row.owner is None and row.status == "pending"
    return waits and row.expires is not None and row.expires <= now


def _cancel(future: FutureProxy[Any], *, kill: bool) -> None:
    with contextlib.suppress(Exception):  # of a callback
        try:
            future.cancel(kill=kill)
        except UnsupportedError:
            future.cancel()


def _headers(
    own: Sequence[Sequence[str]], environ: object = None, scope: object = None
) -> list[tuple[str, str]]:
    """Implement ``HTTPException.get_headers``."""
    return [("Content-Type", "text/html; charset=utf-8"), *((name, text) for name, text in own)]


_clients: WeakSet[StoreClient] = WeakSet()  # listed only where there is one thread, after a fork


@in_child
def _forget_parent() -> None:
    for client in list(_clients):
        client.forget_parent()
