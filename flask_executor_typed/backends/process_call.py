"""One call of the process backend: the right to run it, its time limit, and its attempts.

The only module that gives a call to a worker process.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from enum import Enum
from math import inf
from typing import Any, TypeAlias

from .. import signals
from ..callables import is_async_callable
from ..calls import Call
from ..errors import JobLostError
from ..futures import FutureProxy, Progress
from .pickling import Work
from .runner import CANCELLED, settle_like
from .wire import CALL, LOG, LOOKS, PROGRESS, Message
from .worker_process import Trouble, WorkerProcess

__all__ = ("End", "ProcessCall")


CallLater: TypeAlias = Callable[[float, Callable[[], object]], Callable[[], object]]
"""Calls a function after some seconds. Returns a function that cancels that."""


class End(Enum):
    """The ways in which a worker may leave a call."""

    OVER = "it is settled"
    AGAIN = "it was lost with its worker, and runs once more"
    UNREAD = "its worker ended before reading the call, which has not run"


class ProcessCall:
    """A call, pickled by its submitter. One thread at a time owns it; any thread may cancel it."""

    def __init__(self, call: Call[Any], context: bytes | None) -> None:
        """Pickle the function of ``call`` and its arguments.

        Raises:
            UnpicklableError: names the part that cannot be pickled.
        """
        self.call = call
        self._work = Work.of(call, context)
        self._interrupter = _Interrupter(is_async_callable(call.fn))
        self.has_begun: bool = False
        self._end = inf  # when its time is up, once it has begun
        self._is_timed = False  # whether a timer enforces _end; otherwise the owning thread does

    def run(self, worker: WorkerProcess) -> End:
        """Run the call on ``worker``, as often as its retries allow, while the worker lives."""
        call = self.call
        end = End.OVER
        try:
            begins = not self.has_begun
            if self._take():
                if begins and signals.job_started.receivers:
                    call.announcement(signals.job_started)()
                end = self._run(worker)
        except BaseException as error:  # no memory for the answer, say; other calls must continue
            self._interrupter.detach()
            worker.kill()
            worker.bury()
            call.fail(error)
        if end is End.OVER:
            call.release()
        return end

    def fail(self, error: BaseException) -> None:
        """Fail the call, which is waiting for a worker, unless it has been settled meanwhile."""
        if self._take():
            self.call.fail(error)
        self.call.release()

    def wait_for_another_worker(self, call_later: CallLater) -> bool:
        """Give back the right to run, for another worker to take; ``False`` if the call is over.

        Meanwhile the call can be cancelled as if it had not begun. Its time limit keeps running.
        """
        call, future = self.call, self.call.future
        if self._end < inf and not self._is_timed:
            left = max(0.0, self._end - time.monotonic())
            try:
                lift_limit = call_later(left, call.deadline(self._seconds()))
            except Exception:  # the interpreter is ending, or the system has no more threads
                reason = "its worker process ended, and no thread can enforce its time limit"
                call.fail(JobLostError(future.name, reason, begun=True))
                call.release()
                return False
            self._is_timed = True
            if not call.watch(lambda _: lift_limit()):
                lift_limit()
        call.pause()
        return True

    def is_settled(self) -> bool:
        return self.call.future.done()

    def _take(self) -> bool:
        """Take the right to run, for the first time or again; ``False`` if the call is settled."""
        call = self.call
        if self.has_begun:
            return call.resume()
        call.interrupter = self._interrupter  # before anything can ask it to interrupt
        if not call.begin():
            return False
        self.has_begun = True
        if call.has_time_limit:
            self._end = time.monotonic() + self._seconds()
        return True

    def _seconds(self) -> float:
        limits = self.call.limits
        return inf if limits is None or limits.timeout is None else limits.timeout

    def _run(self, worker: WorkerProcess) -> End:
        call, future = self.call, self.call.future
        try:
            while True:
                answer = self._ask(worker, future)
                if answer is Trouble.LATE:
                    call.deadline(self._seconds())()
                    if self._interrupter.detach():  # the worker still has the call
                        worker.kill()
                        worker.bury()
                    return End.OVER
                if answer is Trouble.UNREAD:
                    worker.bury()
                    return End.OVER if future.done() else End.UNREAD
                error = _settle(call, answer, worker)
                if error is None or future.done() or not self._may_run_again(error):
                    return End.OVER
                if worker.is_gone:
                    return End.AGAIN
        finally:
            error = None  # its traceback refers to this frame
            del call, future  # see FutureProxy.result()

    def _ask(self, worker: WorkerProcess, future: FutureProxy[Any]) -> Message | Trouble:
        """Have the worker run the call once. Return its answer."""
        if time.monotonic() >= self._end:
            return Trouble.LATE
        number = worker.next_number()
        work = self._work._replace(
            number=number, attempt=self.call.attempt, keeps_log=self.call.keeps_log
        )
        interrupter = self._interrupter
        interrupter.attach(worker, number)
        # The call may have ended before the worker was attached. If not, its end finds the worker.
        if future.done():
            interrupter.detach()
            return Message(CANCELLED, number)
        if self.call.cancel_requested:
            interrupter.ask_to_end(self.call)
        message = Message(CALL, number, pickle.dumps(tuple(work)))
        answer: Message | Trouble
        answer = worker.send(message, self._end) or worker.receive(number, self._end)
        while isinstance(answer, Message) and answer.kind in {PROGRESS, LOOKS, LOG}:
            if answer.kind == PROGRESS:
                self.call.report(Progress(*pickle.loads(answer.content)))
            elif answer.kind == LOG:
                self.call.add_log(pickle.loads(answer.content))
            else:
                self.call.look_for_cancel()
            answer = worker.receive(number, self._end)
        if answer is not Trouble.LATE:
            interrupter.detach()
        return answer

    def _may_run_again(self, error: BaseException) -> bool:
        """Log an attempt's error, then wait for the next attempt; or fail the call."""
        call, future = self.call, self.call.future
        try:
            call.log(error)
            pause = call.pause_after(error)
            if pause is None:
                call.fail(error)
                return False
            left = max(0.0, self._end - time.monotonic())
            if call.wait_unless_settled(min(pause, left)):
                return True
            if not future.done():  # asked to cancel while waiting
                call.fail(error)
            return False
        finally:
            del call, future, error


def _settle(
    call: Call[Any], answer: Message | Trouble, worker: WorkerProcess
) -> BaseException | None:
    """Settle a call by its answer, or return the error that the attempt failed with."""
    if isinstance(answer, Message):
        return settle_like(call, answer.kind, answer.content)
    name = call.future.name
    if answer is Trouble.CONFUSED:
        worker.kill()
        worker.bury()
        return JobLostError(name, "its worker process answered another call", begun=True)
    return JobLostError(name, f"its worker process {worker.bury()} while it ran", begun=True)


class _Interrupter:
    """Interrupts a call through the worker that runs it. Thread-safe."""

    backend = "EXECUTOR_TYPE='process'"

    def __init__(self, is_async: bool) -> None:
        self._is_async = is_async
        # Held only around steps that cannot block. interrupt() holds it until the order is sent or
        # the worker is killed; the thread with the answer takes it to detach the worker. So an
        # interruption ends this call, never the worker's next one.
        self._lock = threading.Lock()
        self._worker: WorkerProcess | None = None  # while it has the call; guarded by _lock
        self._number = 0  # of the call; guarded by _lock
        self._is_told = False  # to cancel the call: once is enough; guarded by _lock

    def attach(self, worker: WorkerProcess, number: int) -> None:
        with self._lock:
            self._worker, self._number, self._is_told = worker, number, False

    def detach(self) -> bool:
        """Let go of the worker, which no longer has the call; ``False`` if there was none."""
        with self._lock:
            worker, self._worker = self._worker, None
        return worker is not None

    def can_interrupt(self, call: Call[Any], *, kill: bool) -> bool:
        return kill or self._is_async

    def interrupt(self, call: Call[Any], *, kill: bool = False) -> None:
        with self._lock:
            if self._worker is None:
                return
            if kill:
                self._worker.kill()
            elif not self._is_told:
                self._is_told = True
                self._worker.order(self._number)

    def ask_to_end(self, call: Call[Any]) -> None:
        self.interrupt(call)
