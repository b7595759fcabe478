"""What the time of a job is made of: from a bare hand-over to all of it, part by part.

Each line adds one part of a job that does nothing to those above it. The first one is a queue, a
copy of the context variables and a result, so its ratio is a bound for whoever hands over context
variables as well. The last one is ``executor.submit``.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any

from flask import Flask, g

from flask_executor_typed import Executor
from flask_executor_typed.calls import Call
from flask_executor_typed.context import (
    ContextRules,
    ContextSnapshot,
    PushedContexts,
    PushedInTask,
    active_app_context,
    capture,
)
from flask_executor_typed.futures import FutureProxy, begin, succeed
from harness import Case, Side, latency, measure, print_header, print_result, throughput

JOBS = 4000
LATENCIES = 1000
WORKERS = 4

app = Flask("parts")
app.config["EXECUTOR_MAX_WORKERS"] = WORKERS
executor = Executor(app)
app.add_url_rule("/items/<int:item>", "item")
rules = ContextRules()


def noop() -> None: ...


async def anoop() -> None: ...


class HandOver:
    """A function on its way to another thread, and its result on the way back."""

    __slots__ = ("call", "contexts", "fn", "future", "is_done", "lock", "result_", "variables")

    def __init__(
        self, fn: Callable[..., Any], contexts: ContextSnapshot | None, variables: Context
    ) -> None:
        self.fn = fn
        self.contexts = contexts
        self.variables = variables
        self.future: FutureProxy[Any] | None = None
        self.call: Call[Any] | None = None  # made for what it costs
        self.lock: threading.Lock | None = None
        self.is_done = False

    def finish(self, result: Any) -> None:
        if self.future is not None:
            succeed(self.future, result)
        self.result_ = result
        self.is_done = True
        if self.lock is not None:
            self.lock.release()

    def result(self) -> Any:
        if not self.is_done:
            lock = threading.Lock()
            lock.acquire()
            self.lock = lock
            if not self.is_done:
                lock.acquire()
        return self.result_


class Parts:
    """Runs jobs with so many parts of those of this package: 0 to 4."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._queue: SimpleQueue[HandOver] = SimpleQueue()
        for _ in range(WORKERS):
            threading.Thread(target=self._work, daemon=True).start()
        self._posted: deque[HandOver] = deque()
        self._awake = False
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def submit(self, fn: Callable[..., Any]) -> Any:
        hand_over = self._hand_over(fn)
        self._queue.put(hand_over)
        return hand_over

    def submit_coroutine(self, fn: Callable[..., Any]) -> Any:
        hand_over = self._hand_over(fn)
        self._posted.append(hand_over)
        if not self._awake:
            self._awake = True
            self._loop.call_soon_threadsafe(self._drain)
        return hand_over

    def _hand_over(self, fn: Callable[..., Any]) -> HandOver:
        if self._parts == 0:
            return HandOver(fn, None, copy_context())
        contexts, variables = capture(rules, app, active_app_context())
        hand_over = HandOver(fn, contexts, variables.copy())
        if self._parts >= 3:
            hand_over.future = FutureProxy(fn.__qualname__, contexts, variables)
        if self._parts >= 4:
            future: Any = hand_over.future
            hand_over.call = Call(fn, (), {}, contexts, variables, future, executor=executor)
        return hand_over

    def _work(self) -> None:
        while True:
            hand_over = self._queue.get()
            if hand_over.future is not None:
                begin(hand_over.future)
            hand_over.finish(hand_over.variables.run(self._run, hand_over))
            del hand_over

    def _run(self, hand_over: HandOver) -> Any:
        if self._parts < 2 or hand_over.contexts is None:
            return hand_over.fn()
        with PushedContexts(hand_over.contexts):
            return hand_over.fn()

    def _drain(self) -> None:
        self._awake = False
        while self._posted:
            hand_over = self._posted.popleft()
            if hand_over.future is not None:
                begin(hand_over.future)
            _create_task(self._await(hand_over), loop=self._loop, context=hand_over.variables)

    async def _await(self, hand_over: HandOver) -> None:
        if self._parts < 2 or hand_over.contexts is None:
            hand_over.finish(await hand_over.fn())
            return
        with PushedInTask(hand_over.contexts):
            result = await hand_over.fn()
        hand_over.finish(result)


def _create_task(coroutine: Any, *, loop: asyncio.AbstractEventLoop, context: Context) -> None:
    if sys.version_info >= (3, 12):
        asyncio.Task(coroutine, loop=loop, context=context, eager_start=True)
    else:
        context.run(loop.create_task, coroutine)


TITLES = (
    "a queue, context variables, and a result",
    "+ contexts captured, or seen to be the same",
    "+ contexts of the job's own",
    "+ a future: cancel, await, callbacks, times",
    "+ what is known of the call",
    "all: limits, counts, signals, keys, errors",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="default: 15")
    rounds: int = parser.parse_args().rounds
    parts = [Parts(number) for number in range(5)]
    bare = ThreadPoolExecutor(WORKERS)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    def on_loop(fn: Callable[..., Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(fn(), loop)

    def print_all(group: str, unit: str, submits: list[Any], side: Callable[[Any], Side]) -> None:
        print_header(group)
        *ours, peer = map(side, submits)
        for title, measured in zip(TITLES, ours, strict=True):
            case = Case(name=title, group=group, title=title, unit=unit, ours=measured, peer=peer)
            print_result(measure(case, rounds))

    plain = [*(part.submit for part in parts), executor.submit, bare.submit]
    coroutines = [*(part.submit_coroutine for part in parts), executor.submit, on_loop]
    with app.test_request_context("/items/7?q=benchmark"):
        g.user, g.locale, g.roles = "ada", "en", ["admin"]
        print_all(
            "plain function / bare pool",
            "us/job",
            plain,
            lambda submit: throughput(submit, noop, jobs=JOBS),
        )
        print_all(
            "coroutine function / run_coroutine_threadsafe",
            "us/job",
            coroutines,
            lambda submit: throughput(submit, anoop, jobs=JOBS),
        )
        print_all(
            "one plain function at a time / bare pool",
            "us",
            plain,
            lambda submit: latency(submit, noop, jobs=LATENCIES),
        )


if __name__ == "__main__":
    main()
