"""The report of a failed job: the place and facts in its log record, notes on its exception."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from flask import Flask, current_app, request, url_for

from flask_executor_typed import Executor, JobTimeoutError, QueueFullError
from flask_executor_typed.stores.recording import Recording

from .conftest import TIMEOUT
from .helpers.held import Held


def line_of(fn: Callable[..., object], text: str) -> int:
    """The number of the line of ``fn`` that ends in ``text``."""
    lines, first = inspect.getsourcelines(fn)
    (found,) = (number for number, line in enumerate(lines) if line.rstrip().endswith(text))
    return first + found


def defined_at(fn: Callable[..., object]) -> str:
    return f"{__file__}:{inspect.getsourcelines(fn)[1]}"


def notes_of(error: BaseException | None) -> list[str]:
    return list(getattr(error, "__notes__", []))


def buy(number: int) -> float:
    return charge(number)


def charge(number: int) -> float:
    return 1 / number


async def buy_async(number: int) -> float:
    await asyncio.sleep(0)
    return charge(number)


def tenfold(fn: Callable[[int], float]) -> Callable[[int], float]:
    @functools.wraps(fn)
    def wrapper(number: int) -> float:
        return 10 * fn(number)

    return wrapper


@tenfold
def buy_ten(number: int) -> float:
    return charge(number)


class Till:
    def buy(self, number: int) -> float:
        return charge(number)

    def __call__(self, number: int) -> float:
        return charge(number)


def record_of(caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    (record,) = (each for each in caplog.records if each.name != "asyncio")
    return record


@pytest.mark.parametrize(
    ("fn", "code"),
    [
        pytest.param(buy, buy, id="function"),
        pytest.param(buy_async, buy_async, id="coroutine"),
        pytest.param(functools.partial(buy), buy, id="partial"),
        pytest.param(Till().buy, Till.buy, id="method"),
        pytest.param(Till(), Till.__call__, id="instance"),
        pytest.param(buy_ten, inspect.unwrap(buy_ten), id="decorated"),
    ],
)
def test_record_of_a_failure_bears_the_line_of_the_job_that_it_went_through(
    executor: Executor, caplog: pytest.LogCaptureFixture, fn: Callable[[int], Any], code: Any
) -> None:
    assert isinstance(executor.submit(fn, 0).exception(TIMEOUT), ZeroDivisionError)
    record = record_of(caplog)
    assert (record.module, record.funcName) == ("test_reports", code.__name__)
    assert record.lineno == line_of(code, "charge(number)")
    assert record.pathname == __file__


def test_record_says_the_module_in_flasks_own_format(app: Flask) -> None:
    lines: list[str] = []
    handler = logging.StreamHandler(Mock(write=lines.append))
    handler.setFormatter(logging.Formatter("%(levelname)s in %(module)s: %(message)s"))
    app.logger.addHandler(handler)
    try:
        with Executor(app) as executor:
            future = executor.submit(buy, 0)
    finally:
        app.logger.removeHandler(handler)
    assert "".join(lines).startswith(
        f"ERROR in test_reports: Exception in background job buy [{future.id}]\n"
    )


def test_record_of_a_function_that_is_not_written_in_python_names_its_module(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    executor.submit(math.sqrt, -1).exception(TIMEOUT)
    assert (record_of(caplog).module, record_of(caplog).lineno) == ("math", 0)


def test_record_of_a_chunk_of_map_bears_the_line_of_the_users_function(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ZeroDivisionError):
        list(executor.map(buy, [1, 0], chunksize=2))
    assert (record_of(caplog).module, record_of(caplog).funcName) == ("test_reports", "buy")


def test_record_has_name_id_key_and_attempt_of_the_job_for_json_logs(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    named = executor.using(name="shop.buy", key=("buy", 7), retries=1)
    future = named.submit(buy, 0)
    future.exception(TIMEOUT)
    first, last = caplog.records
    facts = [
        {name: vars(each)[name] for name in ("job", "job_id", "job_key", "job_attempt")}
        for each in (first, last)
    ]
    of_both = {"job": "shop.buy", "job_id": future.id, "job_key": ("buy", 7)}
    assert facts == [{**of_both, "job_attempt": 1}, {**of_both, "job_attempt": 2}]
    assert json.dumps(facts[0])
    assert (first.levelname, last.levelname) == ("WARNING", "ERROR")
    assert {first.module, last.module} == {"test_reports"}


def test_record_of_a_job_without_a_key_has_none(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    executor.submit(buy, 0).exception(TIMEOUT)
    assert vars(record_of(caplog))["job_key"] is None


async def wait_long() -> None:
    await asyncio.sleep(3600)


def test_record_of_a_job_that_takes_too_long_bears_its_first_line_and_facts(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    future = executor.using(timeout=0.01).submit(wait_long)
    assert isinstance(future.exception(TIMEOUT), JobTimeoutError)
    executor.shutdown()
    record = record_of(caplog)
    assert (record.module, record.lineno) == (
        "test_reports",
        line_of(wait_long, "wait_long() -> None:"),
    )
    assert (vars(record)["job"], vars(record)["job_id"]) == ("wait_long", future.id)


def test_record_of_an_abandoned_job_bears_its_first_line_and_facts(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    executor = Executor(app)
    future = executor.submit(wait_long)
    executor.shutdown(timeout=0)
    record = record_of(caplog)
    assert (record.module, record.funcName) == ("test_reports", "wait_long")
    assert (vars(record)["job"], vars(record)["job_id"]) == ("wait_long", future.id)


def test_fields_that_the_apps_record_factory_sets_are_no_hindrance(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    factory = logging.getLogRecordFactory()

    def with_job(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = factory(*args, **kwargs)
        record.job = "none"
        return record

    logging.setLogRecordFactory(with_job)
    try:
        executor.submit(buy, 0).exception(TIMEOUT)
    finally:
        logging.setLogRecordFactory(factory)
    assert vars(record_of(caplog))["job"] == "buy"


def test_failure_is_logged_by_a_logger_of_another_library(app: Flask) -> None:
    logger = Mock(spec=["log"])
    vars(app)["logger"] = logger
    with Executor(app) as executor:
        future = executor.submit(buy, 0)
    (call,) = logger.log.mock_calls
    assert call.args == (
        logging.ERROR, "Exception in background job %s [%s]", "buy", future.id
    )  # fmt: skip
    assert call.kwargs["extra"]["job"] == "buy"
    assert call.kwargs["exc_info"] is future.exception()


def test_failure_of_a_callable_that_gives_no_place_is_logged_without(
    executor: Executor, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_place(*args: object) -> None:
        raise OSError

    monkeypatch.setattr("flask_executor_typed.calls.reports.place_of", no_place)
    executor.submit(buy, 0).exception(TIMEOUT)
    assert record_of(caplog).getMessage().startswith("Exception in background job buy")


def test_id_in_a_log_record_does_not_write_the_record_of_the_job(
    app: Flask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    app.config["EXECUTOR_STORE"] = f"sqlite:///{tmp_path / 'jobs.db'}"
    named = Mock()
    monkeypatch.setattr(Recording, "on_named", named)
    with Executor(app) as executor:
        future = executor.submit(buy, 0)
        future.exception(TIMEOUT)
        job_id = vars(record_of(caplog))["job_id"]
        assert not named.called
        assert future.id == job_id
        assert named.called


# -- the line that submitted it --------------------------------------------------------------------


@pytest.fixture
def debugged(app: Flask) -> Executor:
    executor = Executor(app)
    app.debug = True  # later, as app.run(debug=True) does
    return executor


def submitted_here(executor: Executor, fn: Callable[..., Any], *args: Any) -> Any:
    return executor.submit(fn, *args)


WHERE = f"submitted at {__file__}:{line_of(submitted_here, 'submit(fn, *args)')}"


@pytest.mark.parametrize("fn", [buy, buy_async])
def test_in_debug_mode_a_note_on_the_exception_names_the_line_that_submitted_it(
    debugged: Executor, caplog: pytest.LogCaptureFixture, fn: Callable[[int], Any]
) -> None:
    with debugged:
        error = submitted_here(debugged, fn, 0).exception(TIMEOUT)
    assert notes_of(error) == [WHERE]
    assert WHERE in caplog.text  # on Python 3.10, which prints no notes, in the message


def test_wrong_arguments_are_traced_to_the_line_that_submitted_them(debugged: Executor) -> None:
    with debugged:
        error = submitted_here(debugged, buy).exception(TIMEOUT)
    assert isinstance(error, TypeError)
    assert notes_of(error) == [WHERE]


def test_note_is_there_without_a_log(app: Flask, debugged: Executor) -> None:
    app.config["EXECUTOR_LOG_EXCEPTIONS"] = False
    with debugged:
        error = submitted_here(debugged, buy, 0).exception(TIMEOUT)
    assert notes_of(error) == [WHERE]


def test_job_that_takes_too_long_is_traced_to_the_line_that_submitted_it(
    debugged: Executor,
) -> None:
    with debugged:
        limited = debugged.using(timeout=0.01)
        error = submitted_here(limited, wait_long).exception(TIMEOUT)
    assert notes_of(error) == [WHERE]


def test_note_is_added_once_though_the_exception_is_raised_again(debugged: Executor) -> None:
    same = LookupError()

    def fail() -> None:
        raise same

    with debugged:
        retrying = debugged.using(retries=2)
        assert submitted_here(retrying, fail).exception(TIMEOUT) is same
    assert notes_of(same) == [WHERE]


def test_exception_of_a_job_in_a_job_names_both_lines(debugged: Executor) -> None:
    def outer() -> None:
        debugged.submit(buy, 0).result()

    with debugged:
        error = submitted_here(debugged, outer).exception(TIMEOUT)
    assert len(notes_of(error)) == 2
    assert notes_of(error)[1] == WHERE


def test_exception_that_takes_no_attributes_is_raised_as_it_is(debugged: Executor) -> None:
    class Frozen(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    def fail() -> None:
        raise Frozen

    with debugged:
        assert isinstance(submitted_here(debugged, fail).exception(TIMEOUT), Frozen)


def test_calls_of_map_name_the_line_that_made_them(debugged: Executor) -> None:
    with debugged, pytest.raises(ZeroDivisionError) as raised:
        list(debugged.map(buy, [0]))
    assert notes_of(raised.value)[0].startswith(f"submitted at {__file__}:")


@pytest.mark.parametrize("begun", [False, True])
def test_in_debug_mode_a_generator_as_a_result_is_warned_of_unless_it_has_begun(
    debugged: Executor, caplog: pytest.LogCaptureFixture, begun: bool
) -> None:
    def rows() -> Iterator[int]:
        generator = (number for number in range(3))
        if begun:
            next(generator)
        return generator

    with debugged:
        assert sum(submitted_here(debugged.using(name="rows"), rows).result(TIMEOUT)) == 3
    warning = (
        "rows returned a generator, whose body runs where it is iterated: not in the background, "
        f"and without the contexts of the job; return a list ({WHERE})"
    )
    assert caplog.messages == ([] if begun else [warning])


def test_in_debug_mode_an_async_generator_as_a_result_is_warned_of(
    debugged: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    async def rows() -> AsyncIterator[int]:
        yield 1

    async def make() -> object:
        return rows()

    with debugged:
        debugged.using(name="make").submit(make).result(TIMEOUT)
    (message,) = caplog.messages
    assert message.startswith("make returned a generator")


def test_in_production_a_generator_as_a_result_is_not_warned_of(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    executor.submit(lambda: (number for number in range(3))).result(TIMEOUT)
    executor.shutdown()
    assert caplog.messages == []


def test_in_production_nothing_is_noted(executor: Executor) -> None:
    assert notes_of(executor.submit(buy, 0).exception(TIMEOUT)) == []


# -- what a job has no context for -----------------------------------------------------------------


def reads_request() -> str:
    return request.path


def builds_url() -> str:
    return url_for("static", filename="a.css")


@pytest.mark.parametrize("fn", [reads_request, builds_url])
def test_job_that_misses_a_request_says_that_it_was_submitted_without(
    executor: Executor, fn: Callable[[], str]
) -> None:
    error = executor.submit(fn).exception(TIMEOUT)
    (note,) = notes_of(error)
    assert note == (
        f"{fn.__name__} ({defined_at(fn)}) was submitted outside of a request, so it has none; "
        "pass what it needs as arguments, or submit it in a view (in a streamed response: within "
        "stream_with_context())"
    )


def test_callable_without_code_that_misses_a_request_is_named_without_a_place(
    executor: Executor,
) -> None:
    error = executor.submit(getattr, request, "path").exception(TIMEOUT)
    (note,) = notes_of(error)
    assert note.startswith("getattr was submitted outside of a request")


async def forgets_to_await() -> object:
    given: Any = wait_long()
    try:
        return given.status_code
    finally:
        given.close()


def test_attribute_of_a_coroutine_says_to_await_it_first(executor: Executor) -> None:
    error = executor.submit(forgets_to_await).exception(TIMEOUT)
    assert notes_of(error) == ["wait_long() gives a coroutine; await it first"]


def test_job_that_misses_a_request_says_where_it_was_submitted(debugged: Executor) -> None:
    with debugged:
        error = submitted_here(debugged, reads_request).exception(TIMEOUT)
    assert notes_of(error)[1] == WHERE


def test_second_job_that_misses_a_request_says_where_it_was_submitted_in_production_too(
    executor: Executor,
) -> None:
    first = executor.submit(reads_request).exception(TIMEOUT)
    others = submitted_here(executor, buy, 0).exception(TIMEOUT)
    second = submitted_here(executor, reads_request).exception(TIMEOUT)
    assert len(notes_of(first)) == 1
    assert notes_of(others) == []  # the calls of other functions do not pay for it
    assert notes_of(second)[1:] == [WHERE]


def test_job_that_misses_a_request_has_no_effect_on_other_apps(
    app: Flask, executor: Executor
) -> None:
    other = Flask("other")
    executor.init_app(other)
    with other.app_context():
        executor.submit(reads_request).exception(TIMEOUT)
    with app.app_context():
        error = executor.submit(reads_request).exception(TIMEOUT)
    assert len(notes_of(error)) == 1


def test_job_without_a_request_by_setting_names_the_setting(app: Flask) -> None:
    app.config["EXECUTOR_PUSH_REQUEST_CONTEXT"] = False
    with Executor(app) as executor, app.test_request_context():
        error = executor.submit(reads_request).exception(TIMEOUT)
    (note,) = notes_of(error)
    assert note == (
        f"reads_request ({defined_at(reads_request)}) has no request: "
        "EXECUTOR_PUSH_REQUEST_CONTEXT is False; set it to True, or pass what the job needs as "
        "arguments"
    )


def test_job_without_an_app_by_setting_names_the_setting(app: Flask) -> None:
    app.config["EXECUTOR_PUSH_APP_CONTEXT"] = False

    def reads_app() -> str:
        return current_app.name

    with Executor(app) as executor:
        error = executor.using(name="reads_app").submit(reads_app).exception(TIMEOUT)
    (note,) = notes_of(error)
    assert note == (
        f"reads_app ({defined_at(reads_app)}) has no app: EXECUTOR_PUSH_APP_CONTEXT is False; "
        "set it to True"
    )


def test_full_queue_says_which_line_submits(app: Flask) -> None:
    app.config.from_mapping(EXECUTOR_MAX_PENDING=1, EXECUTOR_MAX_WORKERS=1)
    held = Held()
    with Executor(app) as executor:
        executor.submit(held)
        executor.submit(buy, 1)
        try:
            with pytest.raises(QueueFullError) as raised:
                submitted_here(executor, buy, 1)
        finally:
            held.let_go()
    assert str(raised.value).endswith(f"; {WHERE}")
    assert raised.value.line == WHERE.removeprefix("submitted at ")
    assert __file__ not in str(raised.value.get_body())  # that is for clients
