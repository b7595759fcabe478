"""Jobs under the real Sentry SDK; test_carriers.py runs this in a process of its own.

Worker processes import this module too, and so have Sentry as the server process has.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from flask_executor_typed import Executor
from tests.carriers.shop import create_app, view_was_asked
from tests.conftest import TIMEOUT

APP = "tests.carriers.run_sentry:create_app"


class Memory(Transport):
    """Keeps the events that would be sent."""

    events: list[dict[str, Any]] = []  # noqa: RUF012  # shared on purpose

    def capture_envelope(self, envelope: Envelope) -> None:
        event = envelope.get_event()
        if event is not None:
            self.events.append(dict(event))


sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", transport=Memory, traces_sample_rate=1.0)


@pytest.fixture(autouse=True)
def no_events() -> Iterator[None]:
    Memory.events.clear()
    yield
    Memory.events.clear()


def sent() -> dict[str, dict[str, Any]]:
    """The tags of each event, by its message or that of its exception."""
    return {
        event.get("message") or event["exception"]["values"][-1]["value"]: event.get("tags", {})
        for event in Memory.events
    }


@contextmanager
def asked(view: Callable[[Executor], object], **settings: object) -> Generator[None, None, None]:
    """Ask an app for a view that submits jobs; yield when all is over."""

    def tagged(executor: Executor) -> None:
        sentry_sdk.set_tag("view", "yes")
        view(executor)
        sentry_sdk.capture_message("view")

    with view_was_asked(create_app(**settings), tagged):
        pass
    yield


# -- jobs ------------------------------------------------------------------------------------------

meeting = threading.Barrier(2)
"""Where two jobs wait for each other, once both have set their tags."""


def plain(name: str) -> None:
    sentry_sdk.set_tag("job", name)
    meeting.wait(TIMEOUT)
    sentry_sdk.capture_message(name)


async def coroutine(name: str) -> None:
    sentry_sdk.set_tag("job", name)
    await asyncio.to_thread(meeting.wait, TIMEOUT)
    sentry_sdk.capture_message(name)


def alone(name: str) -> dict[str, Any]:
    """Return the tags that an event has before this sets its own."""
    sentry_sdk.capture_message(f"before {name}")
    before = sent()[f"before {name}"]
    sentry_sdk.set_tag("job", name)
    sentry_sdk.set_tag(f"of {name}", "yes")
    return before


class Unlucky(Exception):
    pass


def unlucky(name: str) -> None:
    sentry_sdk.set_tag("job", name)
    raise Unlucky(name)


async def unlucky_coroutine(name: str) -> None:
    unlucky(name)


# -- tests -----------------------------------------------------------------------------------------

BOTH = {
    "a": {"view": "yes", "job": "a"},
    "b": {"view": "yes", "job": "b"},
    "view": {"view": "yes"},
}
IN_THREADS: list[object] = ["thread", lambda: ThreadPoolExecutor(2)]
in_threads = pytest.mark.parametrize("kind", IN_THREADS, ids=["threads", "borrowed pool"])
both_kinds = pytest.mark.parametrize("job", [plain, coroutine])


@in_threads
@both_kinds
def test_two_jobs_and_the_view_have_tags_of_their_own(
    kind: object, job: Callable[[str], object]
) -> None:
    def view(executor: Executor) -> None:
        for future in [executor.submit(job, "a"), executor.submit(job, "b")]:
            future.result(TIMEOUT)

    with asked(view, TYPE=kind):
        assert sent() == BOTH


@in_threads
@both_kinds
def test_the_calls_of_a_map_have_tags_of_their_own(
    kind: object, job: Callable[[str], object]
) -> None:
    def view(executor: Executor) -> None:
        list(executor.map(job, "ab", timeout=TIMEOUT))

    with asked(view, TYPE=kind):
        assert sent() == BOTH


def test_jobs_of_the_submitters_thread_keep_their_tags() -> None:
    def view(executor: Executor) -> None:
        assert executor.submit(alone, "a").result(TIMEOUT) == {"view": "yes"}
        assert executor.submit(alone, "b").result(TIMEOUT) == {"view": "yes"}

    with asked(view, TYPE="sync"):
        assert sent()["view"] == {"view": "yes"}


@both_kinds
def test_after_the_response_jobs_have_the_tags_of_the_submit(
    job: Callable[[str], object],
) -> None:
    def view(executor: Executor) -> None:
        executor.after_response().submit(job, "a")
        executor.after_response().submit(job, "b")
        sentry_sdk.set_tag("later", "yes")

    with asked(view):
        assert sent() == {**BOTH, "view": {"view": "yes", "later": "yes"}}


def test_a_job_does_not_have_the_tags_that_the_view_sets_while_it_waits() -> None:
    release = threading.Event()

    def view(executor: Executor) -> None:
        executor.submit(release.wait, TIMEOUT)  # keeps the only worker
        future = executor.submit(alone, "a")
        sentry_sdk.set_tag("later", "yes")
        release.set()
        assert future.result(TIMEOUT) == {"view": "yes"}

    with asked(view, MAX_WORKERS=1):
        assert sent()["view"] == {"view": "yes", "later": "yes"}


@pytest.mark.parametrize("kind", ["thread", "sync"])
@pytest.mark.parametrize("job", [unlucky, unlucky_coroutine])
def test_the_event_of_a_failure_has_the_tags_of_its_job(
    kind: str, job: Callable[[str], object]
) -> None:
    def view(executor: Executor) -> None:
        assert isinstance(executor.submit(job, "a").exception(TIMEOUT), Unlucky)

    with asked(view, TYPE=kind):
        assert sent() == {"a": {"view": "yes", "job": "a"}, "view": {"view": "yes"}}


def test_an_attempt_does_not_have_the_tags_of_the_one_before() -> None:
    seen: list[dict[str, Any]] = []

    def job() -> None:
        name = f"attempt {len(seen) + 1}"
        seen.append(alone(name))
        if len(seen) < 3:
            raise Unlucky(name)

    def view(executor: Executor) -> None:
        executor.using(retries=2).submit(job).result(TIMEOUT)

    with asked(view):
        assert seen == [{"view": "yes"}] * 3


def test_a_job_of_a_job_has_the_tags_of_both() -> None:
    def outer(executor: Executor) -> None:
        sentry_sdk.set_tag("outer", "yes")
        assert executor.submit(alone, "a").result(TIMEOUT) == {"view": "yes", "outer": "yes"}
        sentry_sdk.capture_message("outer")

    def view(executor: Executor) -> None:
        executor.submit(outer, executor).result(TIMEOUT)

    with asked(view):
        assert sent()["outer"] == {"view": "yes", "outer": "yes"}
        assert sent()["view"] == {"view": "yes"}


def test_teardown_functions_run_outside_of_the_jobs_scope() -> None:
    app = create_app()
    executor: Executor = app.extensions["executor"]

    @app.teardown_appcontext
    def tear_down(error: BaseException | None) -> None:
        sentry_sdk.capture_message("teardown")

    with executor:
        executor.submit(alone, "a").result(TIMEOUT)
    assert sent()["teardown"] == {}


def test_no_carriers_share_the_scopes_of_the_view() -> None:
    """What the default mends; as in a plain copy of the context variables."""

    def view(executor: Executor) -> None:
        executor.submit(alone, "a").result(TIMEOUT)

    with asked(view, CARRIERS=[]):
        assert sent()["view"] == {"view": "yes", "job": "a", "of a": "yes"}


# -- worker processes ------------------------------------------------------------------------------


def trace_of(name: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return what an event of a worker process has: its tags, its user and its trace."""
    tags = alone(name)
    event = Memory.events[-1]
    return tags, event["user"], event["contexts"]["trace"]["trace_id"]


async def coroutine_trace_of(name: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    return trace_of(name)


PROCESSES = [("process", APP), ("process", None), ("loky:get_reusable_executor", APP)]


@pytest.mark.parametrize(("kind", "app"), PROCESSES)
def test_in_a_worker_process_a_job_has_the_tags_user_and_trace_of_its_submitter(
    kind: str, app: str | None
) -> None:
    def view(executor: Executor) -> None:
        sentry_sdk.set_user({"id": "7"})
        traceparent = sentry_sdk.get_traceparent()
        assert traceparent is not None
        expected = {"view": "yes"}, {"id": "7"}, traceparent.partition("-")[0]
        # One after the other in one process: neither has the tags of the other.
        for job, name in ((trace_of, "a"), (coroutine_trace_of, "b"), (trace_of, "c")):
            assert executor.submit(job, name).result(60) == expected

    with asked(view, TYPE=kind, APP=app, MAX_WORKERS=1):
        assert sent() == {"view": {"view": "yes"}}


def test_the_event_of_a_failure_in_a_worker_process_has_the_tags_of_the_view() -> None:
    def view(executor: Executor) -> None:
        assert isinstance(executor.submit(unlucky, "a").exception(60), Unlucky)

    with asked(view, TYPE="process"):
        assert sent() == {"a": {"view": "yes"}, "view": {"view": "yes"}}
