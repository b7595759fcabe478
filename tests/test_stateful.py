"""An executor against a model of it: whatever is done to it, in any order, they agree."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from typing import Any, ClassVar

import pytest
from flask import Flask

from flask_executor_typed import (
    Executor,
    ExecutorClosedError,
    FutureProxy,
    JobTimeoutError,
    QueueFullError,
)

from .conftest import TIMEOUT, until

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

WORKERS = 2
MAX_PENDING = 3
SOON = 0.001  # seconds


class Failure(Exception):
    """What a job of the model raises."""


class Job:
    """A call, and what the model says of it. It goes on until its gate opens."""

    def __init__(self, number: int, *, fails: bool, is_async: bool, is_late: bool) -> None:
        self.number = number
        self.fails = fails
        self.is_async = is_async
        self.is_late = is_late
        """It has a time limit that is over as soon as it starts."""
        self.gate: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.future: FutureProxy[int] | None = None
        self.status = "pending"
        self.expected_callbacks = 0
        self.callbacks = 0
        self.starts = self.ends = 0  # of the function

    def run(self) -> int:
        self.starts += 1
        try:
            self.gate.result(TIMEOUT)
            return self.outcome()
        finally:
            self.ends += 1

    async def run_async(self) -> int:
        self.starts += 1
        try:
            await asyncio.shield(asyncio.wrap_future(self.gate))
            return self.outcome()
        finally:
            await asyncio.sleep(0)
            self.ends += 1

    def outcome(self) -> int:
        if self.fails:
            raise Failure(self.number)
        return self.number

    def open(self) -> None:
        if not self.gate.done():
            self.gate.set_result(None)

    def has_ended(self) -> bool:
        return self.ends == self.starts

    @property
    def is_done(self) -> bool:
        return self.status not in {"pending", "running"}

    def end(self) -> None:
        """It ran to its end."""
        if not self.is_done:
            self.status = "failed" if self.fails else "succeeded"


class Workers:
    """The model: what ``init_app`` makes anew after a shutdown."""

    def __init__(self) -> None:
        self.queue: list[Job] = []
        self.busy: list[Job] = []
        self.jobs: list[Job] = []
        self.is_closed = False

    def is_full(self, *, is_async: bool) -> bool:
        live = [job for job in self.jobs if job.is_async == is_async and not job.is_done]
        return len(live) >= (MAX_PENDING if is_async else WORKERS + MAX_PENDING)

    def accept(self, job: Job) -> None:
        self.jobs.append(job)
        if job.is_async:
            job.status = "failed" if job.is_late else "running"
        else:
            self.queue.append(job)
            self.go_on()

    def go_on(self) -> None:
        self.busy = [job for job in self.busy if not job.gate.done()]
        while self.queue and len(self.busy) < WORKERS:
            job = self.queue.pop(0)
            job.status = "failed" if job.is_late else "running"
            if job.gate.done():
                job.end()
            else:
                self.busy.append(job)

    def count(self, status: str) -> int:
        return sum(job.status == status for job in self.jobs)


class ExecutorMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.app = Flask("model")
        self.app.config["EXECUTOR_MAX_WORKERS"] = WORKERS
        self.app.config["EXECUTOR_MAX_PENDING"] = MAX_PENDING
        self.app.config["EXECUTOR_LOG_EXCEPTIONS"] = False
        self.executor = Executor(self.app)
        self.workers = Workers()
        self.all: list[Job] = []

    jobs: Bundle[Job] = Bundle("jobs")
    outcomes: ClassVar[set[str]] = set()
    """Of all jobs of all examples, as the model has them."""

    @rule(target=jobs, fails=st.booleans(), is_async=st.booleans(), is_late=st.booleans())
    def submit(self, fails: bool, is_async: bool, is_late: bool) -> Job:
        # One that waits for a worker may be late before or after its gate has opened.
        is_late = is_late and (is_async or len(self.workers.busy) < WORKERS)
        job = Job(len(self.all), fails=fails, is_async=is_async, is_late=is_late)
        executor = self.executor.using(timeout=SOON) if is_late else self.executor
        fn: Any = job.run_async if is_async else job.run
        if self.workers.is_closed:
            with pytest.raises(ExecutorClosedError):
                executor.submit(fn)
            job.status = "refused"
        elif self.workers.is_full(is_async=is_async):
            with pytest.raises(QueueFullError):
                executor.submit(fn)
            job.status = "refused"
        else:
            job.future = executor.submit(fn)
            self.workers.accept(job)
        self.all.append(job)
        return job

    @rule(job=jobs)
    def open_gate(self, job: Job) -> None:
        self.agree()  # whether it was late, say
        job.open()
        if job.status == "running":
            job.end()
        self.workers.go_on()

    @rule(job=jobs)
    def cancel(self, job: Job) -> None:
        if job.future is None:
            return
        self.agree()
        stops = job.status == "pending" or (job.status == "running" and job.is_async)
        assert job.future.cancel() == (stops or job.status == "cancelled")
        if stops:
            if job in self.workers.queue:
                self.workers.queue.remove(job)
            job.status = "cancelled"

    @rule(job=jobs)
    def ask_for_result(self, job: Job) -> None:
        if job.future is None:
            return
        self.agree()
        if not job.is_done:
            with pytest.raises(concurrent.futures.TimeoutError):
                job.future.result(SOON)
        elif job.status == "cancelled":
            with pytest.raises(concurrent.futures.CancelledError):
                job.future.result(0)
        elif job.status == "succeeded":
            assert job.future.result(0) == job.number
        else:
            expected = JobTimeoutError if job.is_late else Failure
            assert isinstance(job.future.exception(0), expected)

    @rule(job=jobs)
    def give_up_awaiting(self, job: Job) -> None:
        future = job.future
        if future is None:
            return
        self.agree()

        async def wait() -> str:
            try:
                return str(await asyncio.wait_for(future, SOON))
            except asyncio.CancelledError:
                return "cancelled"
            except (Failure, JobTimeoutError):
                return "failed"
            except asyncio.TimeoutError:
                return "gave up"

        seen = asyncio.run(wait())
        ended = str(job.number) if job.status == "succeeded" else job.status
        # wait_for() may give up on what is done, if the machine is that slow.
        assert seen in ({ended, "gave up"} if job.is_done else {"gave up"})

    @rule(job=jobs)
    def add_callback(self, job: Job) -> None:
        if job.future is None:
            return

        def count(future: FutureProxy[int]) -> None:
            assert future.done()
            job.callbacks += 1
            raise SystemExit("of a callback")

        job.expected_callbacks += 1
        job.future.add_done_callback(count)

    @rule(cancel_futures=st.booleans())
    def shut_down(self, cancel_futures: bool) -> None:
        self.agree()
        self.executor.shutdown(wait=False, cancel_futures=cancel_futures)
        self.workers.is_closed = True
        if cancel_futures:
            for job in self.workers.queue:
                job.status = "cancelled"
            self.workers.queue.clear()

    @precondition(lambda self: self.workers.is_closed)
    @rule()
    def begin_again(self) -> None:
        self.agree()
        for job in self.all:  # the model knows of one set of workers
            self.open_gate(job)
        self.agree()
        self.executor.init_app(self.app)
        self.workers = Workers()

    @invariant()
    def agree(self) -> None:
        """What the model says comes true, in a moment, and stays true."""
        limit = time.monotonic() + TIMEOUT
        while (seen := self.seen()) != (expected := self.expected()):
            assert time.monotonic() < limit, (seen, expected)
            time.sleep(0.0005)

    def seen(self) -> list[Any]:
        stats = self.executor.stats()
        statuses = [job.future.status if job.future else "refused" for job in self.all]
        counts = [stats.pending, stats.running, stats.succeeded, stats.failed, stats.cancelled]
        return [statuses, counts, [job.callbacks for job in self.all]]

    def expected(self) -> list[Any]:
        statuses = ["pending", "running", "succeeded", "failed", "cancelled"]
        return [
            [job.status for job in self.all],
            [self.workers.count(status) for status in statuses],
            [job.expected_callbacks if job.is_done else 0 for job in self.all],
        ]

    def teardown(self) -> None:
        for job in self.all:
            job.open()
        self.executor.shutdown()
        for job in self.all:
            assert job.future is None or job.future.done()
            assert job.starts <= 1
            until(job.has_ended)  # in a worker from before a shutdown, say
            assert job.starts == 1 or job.status in {"cancelled", "refused"} or job.is_late
            assert job.callbacks == job.expected_callbacks
            if job.is_done:
                self.outcomes.add(job.status)


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
@pytest.mark.parametrize("examples", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_executor_does_what_its_model_says(caplog: pytest.LogCaptureFixture, examples: int) -> None:
    caplog.set_level("CRITICAL")  # the callbacks raise on purpose
    ExecutorMachine.outcomes.clear()
    run_state_machine_as_test(
        ExecutorMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow],
            phases=[Phase.generate],  # shrinking would wait, each time, for what does not come
        ),
    )
    assert {"succeeded", "failed"} <= ExecutorMachine.outcomes
