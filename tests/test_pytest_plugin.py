"""The pytest plugin, in runs of pytest of its own, as the tests of an app use it."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

pytest_plugins = ["pytester"]

APP = """
    import asyncio
    import threading

    import pytest
    from flask import Flask
    from flask_executor_typed import Executor

    executor = Executor()
    released = threading.Event()


    def work(number: int = 0) -> int:
        return number + 1


    def fail() -> None:
        raise ValueError("of a job")


    def block() -> None:
        released.wait(30)


    async def fetch() -> str:
        await asyncio.sleep(0)
        return "fetched"


    def create_app() -> Flask:
        app = Flask(__name__)
        executor.init_app(app)

        @app.get("/<name>")
        def view(name: str) -> str:
            executor.submit(globals()[name])
            return name

        @app.get("/later/<name>")
        def later(name: str) -> str:
            executor.after_response().submit(globals()[name])
            return name

        return app
"""

CONFTEST = """
    import pytest
    from service import create_app, executor


    @pytest.fixture
    def app():
        return create_app()


    @pytest.fixture
    def client(app):
        return app.test_client()
"""

# The plugins that the tests need are loaded by those tests; the others take longer than a run.
INI = """
    [pytest]
    addopts = -p no:flask -p no:asyncio -p no:cacheprovider -p no:ddtrace -p no:hypothesispytest
        -p no:playwright -p no:base_url
    filterwarnings = error
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    return Run(pytester)


class Run:
    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester: Any = pytester
        self._pytester.makepyfile(service=APP)
        pytester.makeconftest(CONFTEST)

    def __call__(
        self, tests: str, *options: str, ini: str = "", **expected: int
    ) -> pytest.RunResult:
        self._pytester.makeini(INI + ini)
        self._pytester.makepyfile(
            test_service="from service import *\nfrom service import released\n" + tests
        )
        result: pytest.RunResult
        result = self._pytester.runpytest_subprocess("-q", *options, timeout=300)
        if expected:
            result.assert_outcomes(**expected)
        return result


def test_calls_are_recorded_and_held(run: Run) -> None:
    run(
        """
def test_recorded(client, executor_calls):
    client.get("/work")
    assert executor_calls.runs
    executor_calls.assert_submitted(work)
    executor_calls.wait(60)

def test_held(client, executor_held):
    client.get("/block")
    client.get("/fetch")
    assert not executor_held.runs
    held = executor_held.assert_submitted(fetch)
    assert held.future.status == "pending"
    released.set()
    executor_held.run(60)
    assert held.future.result() == "fetched"

def test_what_is_never_run_is_no_leak(client, executor_held):
    client.get("/fail")
    executor_held.assert_submitted(fail)

def test_sync(app, client, executor_sync, executor_calls):
    assert executor_sync(executor, app) is executor
    client.get("/work")
    assert executor_calls[0].future.result(0) == 1

def test_after_response(client, executor_calls):
    with client.get("/later/work"):
        pass
    executor_calls.assert_submitted(work)
""",
        passed=5,
    )


@pytest.mark.skipif(not importlib.util.find_spec("sqlalchemy"), reason="no SQLAlchemy")
def test_a_call_after_a_commit_is_recorded_when_the_commit_comes(run: Run) -> None:
    run(
        """
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

@pytest.fixture
def session(app):
    engine = create_engine("sqlite://")
    with app.app_context(), Session(engine) as session:
        session.connection()
        executor.after_commit(session).submit(work)
        yield session
    engine.dispose()

def test_commit(executor_calls, session):
    executor_calls.assert_not_submitted(work)
    session.commit()
    executor_calls.assert_submitted(work)

def test_rollback(executor_calls, session):
    session.rollback()
    executor_calls.assert_not_submitted(work)

def test_held(executor_held, session):
    session.commit()
    assert executor_held.assert_submitted(work).future.status == "pending"
    executor_held.run(60)
""",
        passed=3,
    )


def test_a_failure_that_nobody_saw_fails_the_test_with_the_jobs_traceback(run: Run) -> None:
    result = run(
        """
def test_unseen(client, executor_calls):
    client.get("/fail")

def test_unseen_after_the_response(client, executor_calls):
    client.get("/later/fail").close()

def test_expected(client, executor_calls):
    with executor_calls.expect_failure(ValueError, match="of a job"):
        client.get("/fail")

def test_asked(client, executor_calls):
    client.get("/fail")
    assert isinstance(executor_calls[0].future.exception(), ValueError)

@pytest.mark.executor(allow_failures=True)
def test_allowed(client, executor_calls):
    client.get("/fail")

@pytest.mark.executor
def test_marked(client):
    client.get("/fail")

def test_without_the_plugin(client):
    client.get("/fail")
""",
        passed=4,
        failed=3,
    )
    result.stdout.fnmatch_lines(
        [
            "*test_unseen*",
            "1 jobs failed, and the test has not asked how they ended; use*",
            "fail() failed:",
            "*service.py*in fail",
            "ValueError: of a job",
        ]
    )


def test_a_job_that_still_runs_fails_the_test_and_is_cancelled(run: Run) -> None:
    result = run(
        """
async def endless():
    await asyncio.sleep(3600)

def test_leak(app, executor_calls):
    with app.app_context():
        executor.submit(endless)

def test_after_it(executor_calls):
    executor.wait_idle(60)
""",
        passed=1,
        failed=1,
    )
    result.stdout.fnmatch_lines(
        ["*1 jobs are not over at the end of the test*", "endless() still runs"]
    )


def test_what_is_held_when_there_is_no_test_is_cancelled(run: Run) -> None:
    run(
        """
futures = []

@pytest.fixture
def fails(client, executor_held):
    client.get("/work")
    futures.append(executor_held[0].future)
    raise LookupError("of a fixture")

@pytest.fixture
def submits_late(client, executor_held):
    yield
    client.get("/work")
    futures.append(executor_held[0].future)

def test_error(fails):
    pass

def test_late(submits_late):
    pass

def test_they_are_over():
    assert [future.status for future in futures] == ["cancelled", "cancelled"]
""",
        passed=2,
        errors=1,
    )


def test_ini_options_check_all_tests_or_none(run: Run) -> None:
    tests = """
def test_unseen(client):
    client.get("/fail")

def test_unseen_with_a_fixture(client, executor_calls):
    client.get("/fail")
"""
    run(tests, failed=2, ini="    executor_failures = error\n")
    run(tests, passed=2, ini="    executor_failures = off\n")
    result = run(tests, "-W", "default", passed=2, warnings=2, ini="    executor_failures = warn\n")
    result.stdout.fnmatch_lines(["*1 jobs failed, and the test has not asked*"])
    result = run(tests, ini="    executor_leaks = sometimes\n")
    result.stderr.fnmatch_lines(["*executor_leaks = sometimes: expected error, warn or off"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_a_failed_test_reports_its_jobs_beside_its_own_failure(run: Run) -> None:
    result = run(
        """
def test_wrong(client, executor_calls):
    client.get("/fail")
    assert 1 == 2
""",
        failed=1,
    )
    result.stdout.fnmatch_lines(["*assert 1 == 2*", "*ValueError: of a job*"])


def test_the_marker_changes_settings_for_a_test(run: Run) -> None:
    run(
        """
@pytest.fixture(scope="module")
def lasting():
    return create_app()

@pytest.mark.executor(type="sync")
def test_sync(lasting, client, executor_calls):
    with lasting.app_context():
        assert executor.submit(threading.get_ident).result() == threading.get_ident()
    client.get("/work")
    assert executor_calls.of(work)[0].future.done()

@pytest.mark.executor(type="thread")
def test_routed(lasting, app, executor_calls):
    for each in lasting, app:
        with each.app_context():
            assert executor.using(queue="gpu", delay=60).submit(int).result(10) == 0

def test_threads_again(lasting, executor_calls):
    with lasting.app_context():
        assert executor.submit(threading.get_ident).result() != threading.get_ident()

@pytest.mark.executor(max_workers=0)
def test_wrong(client):
    pass
""",
        passed=3,
        errors=1,
    )


@pytest.mark.parametrize(
    "fixture",
    [
        "made = create_app()\n\n@pytest.fixture\ndef lasting():\n    return made",
        "@pytest.fixture(scope='session')\ndef lasting():\n    return create_app()",
        "make = functools.cache(create_app)\n\n@pytest.fixture\ndef lasting():\n    return make()",
    ],
    ids=["at the top", "for the session", "in the first test"],
)
def test_settings_are_those_of_each_test_for_an_app_that_lasts(run: Run, fixture: str) -> None:
    run(
        f"""
import functools

{fixture}

sync = pytest.param(True, marks=pytest.mark.executor(type="sync"))

@pytest.mark.parametrize("here", [sync, False, sync, sync, False, "override", sync, False])
def test_where_jobs_run(lasting, here, request):
    if here == "override":
        request.getfixturevalue("executor_sync")(executor, lasting)
    with lasting.app_context():
        thread = executor.submit(threading.get_ident).result(60)
    assert (thread == threading.get_ident()) == bool(here)
""",
        passed=8,
    )


def test_markers_of_a_class_and_its_tests_are_one_and_the_closest_wins(run: Run) -> None:
    result = run(
        """
@pytest.mark.executor(type="sync", allow_failures=True)
class TestMarked:
    @pytest.mark.executor(max_workers=3)
    def test_both(self, app, client):
        client.get("/fail")
        with app.app_context():
            assert executor.submit(threading.get_ident).result() == threading.get_ident()

    @pytest.mark.executor(type="thread")
    def test_closest(self, app):
        with app.app_context():
            assert executor.submit(threading.get_ident).result() != threading.get_ident()

@pytest.mark.executor("sync")
def test_without_a_name(client):
    pass
""",
        passed=2,
        errors=1,
    )
    result.stdout.fnmatch_lines(["*@pytest.mark.executor('sync'): expected settings by name*"])


def test_apps_of_failed_tests_are_in_the_way_of_no_other(run: Run) -> None:
    run(
        """
kept = []

@pytest.mark.parametrize("number", range(3))
def test_outside_of_a_context(app, number, executor_calls):
    kept.append(app)  # as the traceback of a test that failed keeps it
    assert executor.submit(work).result() == 1
""",
        passed=3,
    )


def test_an_app_of_a_wider_scope_stays_in_use(run: Run) -> None:
    run(
        """
@pytest.fixture(scope="module")
def lasting():
    return create_app()

kept = []

def test_first(lasting, executor_calls):
    assert executor.submit(work).result() == 1

def test_second(lasting, executor_calls):
    kept.append(create_app())

def test_third(lasting, executor_calls):
    assert executor.submit(work).result() == 1
    assert executor_calls[0].future in [call.future for call in executor_calls]
""",
        passed=3,
    )


@pytest.mark.parametrize("plugin", ["pytest_asyncio", "anyio"])
def test_async_tests(run: Run, plugin: str) -> None:
    pytest.importorskip(plugin)
    mark = "asyncio" if plugin == "pytest_asyncio" else "anyio"
    run(
        f"""
@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.{mark}
async def test_awaits(app, executor_calls):
    with app.app_context():
        future = executor.submit(fetch)
        executor_calls.assert_submitted(fetch)
        assert await future == "fetched"
        await executor.await_idle(60)

@pytest.mark.{mark}
async def test_unseen(app, executor_calls):
    with app.app_context():
        executor.submit(fail)

@pytest.mark.{mark}
async def test_held(app, executor_held):
    with app.app_context():
        future = executor.submit(fetch)
    executor_held.run(60)
    assert await future == "fetched"
""",
        *(("-p", "pytest_asyncio.plugin") if mark == "asyncio" else ()),
        ini="    asyncio_default_fixture_loop_scope = function\n" if mark == "asyncio" else "",
        passed=2,
        failed=1,
    )


@pytest.mark.skipif(not importlib.util.find_spec("pytest_flask"), reason="no pytest-flask")
def test_with_pytest_flask(run: Run) -> None:
    run(
        """
def test_client(client, executor_calls):
    assert client.get("/work").status_code == 200
    executor_calls.wait(60)
    executor_calls.assert_submitted(work)

def test_unseen(client, executor_calls):
    client.get("/fail")
""",
        "-p",
        "pytest_flask.plugin",
        passed=1,
        failed=1,
    )


@pytest.mark.skipif(not importlib.util.find_spec("xdist"), reason="no pytest-xdist")
def test_with_xdist(run: Run) -> None:
    result = run(
        """
@pytest.mark.parametrize("number", range(4))
def test_each(client, number, executor_calls):
    client.get("/work")
    executor_calls.wait(60)

def test_unseen(client, executor_calls):
    client.get("/fail")
""",
        "-n",
        "2",
        passed=4,
        failed=1,
    )
    result.stdout.fnmatch_lines(["*ValueError: of a job*"])


def test_with_unittest(run: Run) -> None:
    run(
        """
import unittest

@pytest.mark.executor(type="sync")
class TestService(unittest.TestCase):
    def setUp(self):
        self.client = create_app().test_client()

    def test_unseen(self):
        self.client.get("/fail")

    def test_in_this_thread(self):
        self.client.get("/work")
""",
        passed=1,
        failed=1,
    )


def test_worker_processes(run: Run) -> None:
    run(
        """
@pytest.mark.executor(type="process", max_workers=1)
def test_processes(client, executor_calls):
    client.get("/work")
    executor_calls.wait(60)
    assert executor_calls.assert_submitted(work).future.result() == 1

@pytest.mark.executor(type="process", max_workers=1)
def test_unseen(app, executor_calls):
    with app.app_context():
        future = executor.submit(fail)
    executor_calls.wait(60)
""",
        passed=1,
        failed=1,
    )


def test_a_run_that_does_not_use_it_imports_nothing_of_flask(pytester: Any) -> None:
    pytester.makeini(INI)
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_imported(request):
            assert request.config.pluginmanager.hasplugin("flask_executor_typed")
            for name in ("flask", "flask_executor_typed", "asgiref", "concurrent.futures"):
                assert name not in sys.modules
        """
    )
    options = [f"-p no:{name}" for name in ("anyio", "xdist")]
    pytester.runpytest_subprocess(*options, timeout=300).assert_outcomes(passed=1)


def test_a_command_that_runs_tests_may_import_the_package_first() -> None:
    # As pytest does for each package that has a plugin. It warns of one that it cannot rewrite, and
    # warnings are errors here.
    pytest.register_assert_rewrite("flask_executor_typed")
