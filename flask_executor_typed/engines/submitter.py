"""Hand calls to an engine, and settle their futures by the records of their jobs.

The order is always: record, watch, publish. So there is no message without a record, and no change
of a record that is missed. What cannot be published is withdrawn in the opposite order.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import Any

from ..backends.borrowed import BorrowingBackend, Unreachable
from ..backends.capabilities import Capabilities, check
from ..backends.pickling import ContextDumper, Work
from ..callables import is_async_callable
from ..calls import Call, Limits, Route
from ..errors import EngineUnreachableError, ExecutorError, StoreError, UnsupportedError
from ..futures import Progress, follow, recorder_of
from ..runtime.exit import exit_has_begun
from ..runtime.logs import log_exception
from ..stores.client import StoreClient
from ..stores.records import Row
from ..stores.remote import RemoteFuture
from .envelope import as_text, seal
from .protocol import Engine, Message
from .worker import EngineSetup

__all__ = ("EngineBackend", "publish")


def publish(engine: Engine, app: str, row: Row, delay: float = 0.0) -> None:
    """Publish the job of a record. Raises what the engine raises."""
    token = as_text(row.token or b"")
    route = Route(**json.loads(row.route or "{}"), delay=delay)
    engine.publish(Message(app, row.executor, row.name, row.id, row.attempts, token), route)


def _text_of(route: Route) -> str | None:
    """Return what a record keeps of a route: all but the delay, which is over after a loss."""
    kept = {"queue": route.queue, "priority": route.priority}
    return json.dumps(kept) if any(value is not None for value in kept.values()) else None


class EngineBackend(BorrowingBackend):
    """Has an engine's workers run the calls."""

    def __init__(self, setup: EngineSetup) -> None:
        super().__init__(setup.settings.name)
        self._setup = setup
        self._contexts = ContextDumper(setup.settings)
        self.capabilities: Capabilities = setup.engine.capabilities

    def submit(self, call: Call[Any]) -> None:
        engine = self._setup.engine
        check(call, self.capabilities, engine.name)
        limits = call.limits or Limits()
        work = Work.of(call, self._contexts.dump(call))
        sealed = seal(self._setup.signer, work, limits, self._setup.release)
        self.accept(call)
        try:
            # From here on, the record decides. If the future was cancelled before, nothing runs.
            if not call.refuse():
                self.release(call)
                return
            self._send(call, sealed, limits)
        except BaseException:
            self.release(call)
            raise

    def _send(self, call: Call[Any], sealed: bytes, limits: Limits) -> None:
        future, client, engine = call.future, self._setup.client, self._setup.engine
        route = limits.route
        try:
            row = client.enqueue(
                future,
                token=sealed,
                retries=limits.retries,
                is_async=is_async_callable(call.fn),
                route=_text_of(route),
                expires=limits.expires,
            )
        except StoreError as error:
            raise EngineUnreachableError(future.name, engine.name, str(error)) from error
        call.interrupter = Unreachable(engine.name)
        answer = _Answer(client, row, call, engine)
        is_over = partial(self._is_over, call, answer, bool(row.listed))
        if not call.watch(is_over):  # a shutdown has abandoned it meanwhile
            client.withdraw(answer)
            is_over(future)
            return
        follow(future, answer)
        try:
            if call.cancel_requested:  # before the future followed its record, which knows nothing
                answer.cancel()
            publish(engine, self._setup.app_name, row, route.delay)
        except BaseException as error:
            may_run = False
            try:
                # If a worker has taken the job, it was published, whatever the engine says.
                if not client.withdraw(answer) and isinstance(error, Exception):
                    return
            except StoreError:
                may_run = True
            answer.is_given_up = True
            if isinstance(error, ExecutorError) or not isinstance(error, Exception):
                raise
            reason = f"{type(error).__name__}: {error}"
            raise EngineUnreachableError(future.name, engine.name, reason, may_run) from error

    def _is_over(self, call: Call[Any], answer: _Answer, listed: bool, future: object) -> None:
        self._setup.client.is_over(answer, listed=listed)
        self.release(call)
        call.release()

    def close(self, *, cancel_pending: bool) -> None:
        super().close(cancel_pending=cancel_pending)
        engine: Any = self._setup.engine
        if (stop := getattr(engine, "stop", None)) is not None:  # Dask's publishes jobs again
            stop()

    def wait(self, end: float) -> bool:
        # The jobs go on without this process.
        return exit_has_begun() or super().wait(end)

    def sizes(self) -> tuple[int, int]:
        return 0, 0  # unknown

    def abandon(self, seconds: float) -> None:
        """Fail the futures. Their jobs go on, also those that wait in the engine."""
        for call in self._calls():
            call.abandon(seconds, goes_on=True)

    def _cancel_pending(self) -> None:
        try:
            for call in self._calls():
                if call.future.status == "pending":
                    call.cancel()
        except StoreError:  # for the others, it would be asked in vain too
            logger = logging.getLogger("flask_executor_typed")
            log_exception(logger, "waiting jobs cannot be cancelled")

    def _calls(self) -> set[Call[Any]]:
        with self._changed:
            return self._accepted.copy()


class _Answer(RemoteFuture[Any]):
    """The future of a job's record. What that says is passed on to the call in this process."""

    is_answer = True
    is_given_up = False
    """Whether the job could not be published. The store, which may be away too, is not asked."""
    _job: Call[Any] | None = None  # while the record is read for the first time

    def __init__(self, client: StoreClient, row: Row, call: Call[Any], engine: Engine) -> None:
        super().__init__(client, row)
        self._client = client
        self._engine = engine
        self._attempt = row.attempts
        self._recorder_of_job = recorder_of(call.future)
        self._job = call

    def adopt(self, row: Row | None) -> None:
        if row is not None and row.status == "lost" and self._recorder_of_job is not None:
            # Of the processes that see this, the store has one announce it.
            self._recorder_of_job.announces_loss = False
            self._client.tell_of_losses()
        super().adopt(row)

    def _note(self, row: Row) -> None:
        super()._note(row)
        call = self._job
        if call is None or call.is_over:
            return
        call.set_start(row.started or 0.0)
        if row.status == "pending" and row.attempts > self._attempt:  # the worker has died
            self._attempt = row.attempts
            self._client.again(row)

    def _look(self) -> None:
        if not self.is_given_up:
            super()._look()

    def _report(self, progress: Progress) -> None:
        super()._report(progress)
        if self._job is not None:
            self._job.report(progress)

    def cancel(self, *, kill: bool = False) -> bool:
        if kill and not self._engine.capabilities.kill and self.running():
            cure = "use EXECUTOR_TYPE='process', or cancel() and current_job.cancel_requested"
            raise UnsupportedError(self.name, self._engine.name, "kill a running job", cure)
        return super().cancel(kill=kill)
