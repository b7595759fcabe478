"""Resources that belong to a loop: opened once on each, used by all, closed there at the end."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from flask import Flask, has_app_context
from typing_extensions import Self

from flask_executor_typed import Executor, LoopResource, OutsideLoopError

from .conftest import TIMEOUT


class Client:
    """Knows the loop and the thread that it was opened and closed on."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = threading.current_thread()
        self.closed_on: object = None
        self.saw_flask = has_app_context()


class Clients:
    """A factory that remembers what it made."""

    def __init__(self) -> None:
        self.made: list[Client] = []
        self.events: list[str] = []

    @asynccontextmanager
    async def make(self) -> AsyncGenerator[Client]:
        await asyncio.sleep(0.01)  # so that others ask meanwhile
        client = Client()
        self.made.append(client)
        yield client
        client.closed_on = (asyncio.get_running_loop(), threading.current_thread())
        self.events.append("closed")


@pytest.fixture
def clients() -> Clients:
    return Clients()


def test_all_jobs_share_one_resource_that_is_closed_on_its_loop_at_shutdown(
    app: Flask, clients: Clients
) -> None:
    with Executor(app) as executor:
        resource = executor.loop_resource(clients.make)
        found = [executor.submit(resource.get).result(TIMEOUT) for _ in range(10)]
        assert set(found) == set(clients.made)
        assert not clients.events
    (client,) = clients.made
    assert client.closed_on == (client.loop, client.thread)
    assert client.thread.name == "executor-loop-0"


def test_first_users_at_the_same_time_share_one_opening(
    executor: Executor, clients: Clients
) -> None:
    resource = executor.loop_resource(clients.make)
    futures = [executor.submit(resource.get) for _ in range(100)]
    assert {future.result(TIMEOUT) for future in futures} == set(clients.made)
    assert len(clients.made) == 1


def test_each_loop_has_a_resource_of_its_own(app: Flask, clients: Clients) -> None:
    app.config["EXECUTOR_MAX_LOOPS"] = 3
    meeting = threading.Barrier(3)

    async def use() -> Client:
        client = await resource.get()
        await asyncio.to_thread(meeting.wait, TIMEOUT)
        assert client.loop is asyncio.get_running_loop()
        return await resource.get()

    with Executor(app) as executor:
        resource = executor.loop_resource(clients.make)
        futures = [executor.submit(use) for _ in range(3)]
        assert len({future.result(TIMEOUT) for future in futures}) == 3
    assert [client.closed_on for client in clients.made] == [
        (client.loop, client.thread) for client in clients.made
    ]


def test_1000_requests_use_one_resource_on_one_loop(app: Flask, clients: Clients) -> None:
    app.config["EXECUTOR_ASYNC_VIEWS"] = True
    used: set[tuple[Client, object]] = set()
    with Executor(app) as executor:
        resource = executor.loop_resource(clients.make)

        @app.get("/")
        async def view() -> str:
            used.add((await resource.get(), asyncio.get_running_loop()))
            return ""

        client = app.test_client()
        for _ in range(1000):
            assert client.get("/").status_code == 200
        (made,) = clients.made
        assert used == {(made, made.loop)}
        assert not clients.events
    assert made.closed_on == (made.loop, made.thread)
    assert not made.saw_flask


def test_tasks_of_a_resource_outlive_the_view_that_opened_it(app: Flask) -> None:
    app.config["EXECUTOR_ASYNC_VIEWS"] = True
    events: defaultdict[int, list[str]] = defaultdict(list)  # of each loop, by its thread

    @asynccontextmanager
    async def make() -> AsyncGenerator[asyncio.Task[None]]:
        async def keep_alive() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                events[threading.get_ident()].append("cancelled")

        task = asyncio.create_task(keep_alive())
        yield task
        events[threading.get_ident()].append("closing")

    async def view() -> bool:
        return (await resource.get()).done()

    with Executor(app) as executor:
        resource = executor.loop_resource(make)
        assert [app.ensure_sync(view)() for _ in range(3)] == [False] * 3
        assert executor.submit(view).result(TIMEOUT) is False
    assert list(events.values()) == [["closing", "cancelled"]] * 2


def test_resources_are_closed_after_the_jobs_and_the_newest_first(app: Flask) -> None:
    events: list[str] = []

    def factory(name: str, needs: LoopResource[str] | None = None) -> Any:
        @asynccontextmanager
        async def make() -> AsyncGenerator[str]:
            if needs is not None:
                await needs.get()
            yield name
            await asyncio.sleep(0)
            events.append(name)

        return make

    async def linger() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            events.append("task")

    tasks: list[asyncio.Task[None]] = []

    async def use() -> None:
        for resource in (first, second, third):
            await resource.get()
        tasks.append(asyncio.create_task(linger()))

    with Executor(app) as executor:
        first = executor.loop_resource(factory("first"))
        pool: LoopResource[str] = executor.loop_resource(factory("pool"))
        second = executor.loop_resource(factory("second, which needs the pool", pool))
        third = executor.loop_resource(factory("third"))
        executor.submit(use).result(TIMEOUT)
    assert events == ["task", "third", "second, which needs the pool", "pool", "first"]


def test_failed_opening_is_raised_for_all_who_wait_and_tried_again_by_the_next(
    executor: Executor,
) -> None:
    attempts: list[int] = []

    @asynccontextmanager
    async def make() -> AsyncGenerator[str]:
        attempts.append(1)
        await asyncio.sleep(0.01)
        if len(attempts) == 1:
            raise ConnectionError("not yet")
        yield "open"

    async def three_at_once() -> list[Any]:
        return await asyncio.gather(*[resource.get() for _ in range(3)], return_exceptions=True)

    resource = executor.loop_resource(make)
    errors = executor.submit(three_at_once).result(TIMEOUT)
    assert [str(error) for error in errors] == ["not yet"] * 3
    assert executor.submit(resource.get).result(TIMEOUT) == "open"
    assert len(attempts) == 2


def test_job_that_is_cancelled_while_it_waits_leaves_the_opening_to_others(
    executor: Executor,
) -> None:
    opening, go_on = threading.Event(), threading.Event()

    @asynccontextmanager
    async def make() -> AsyncGenerator[str]:
        opening.set()
        await asyncio.to_thread(go_on.wait, TIMEOUT)
        yield "open"

    resource = executor.loop_resource(make)
    first, second = executor.submit(resource.get), executor.submit(resource.get)
    assert opening.wait(TIMEOUT)
    assert first.cancel()
    go_on.set()
    assert second.result(TIMEOUT) == "open"


def test_shutdown_cancels_an_opening_for_which_nobody_waits(app: Flask) -> None:
    opening, events = threading.Event(), list[str]()

    @asynccontextmanager
    async def make() -> AsyncGenerator[None]:
        opening.set()
        try:
            await asyncio.sleep(3600)
        finally:
            events.append("cancelled")
        yield

    with Executor(app) as executor:
        future = executor.submit(executor.loop_resource(make).get)
        assert opening.wait(TIMEOUT)
        assert future.cancel()
    assert events == ["cancelled"]


def test_what_fails_when_it_is_closed_is_logged_and_the_others_are_closed(
    app: Flask, clients: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    @asynccontextmanager
    async def make_badly() -> AsyncGenerator[None]:
        yield
        raise ConnectionError("reset")

    async def use() -> None:
        await good.get()
        await bad.get()

    with caplog.at_level(logging.ERROR), Executor(app) as executor:
        good, bad = executor.loop_resource(clients.make), executor.loop_resource(make_badly)
        executor.submit(use).result(TIMEOUT)
    (record,) = caplog.records
    assert record.name == "flask_executor_typed"
    assert record.getMessage().endswith("make_badly() opened failed")
    assert record.exc_info is not None
    assert record.exc_info[0] is ConnectionError
    assert clients.events == ["closed"]


def test_resource_that_somebody_cancelled_is_opened_anew(
    executor: Executor, clients: Clients
) -> None:
    async def cancel_all() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.wait(others)

    resource = executor.loop_resource(clients.make)
    first = executor.submit(resource.get).result(TIMEOUT)
    executor.submit(cancel_all).result(TIMEOUT)
    assert executor.submit(resource.get).result(TIMEOUT) is not first


def test_other_loops_are_refused_with_the_cure(app: Flask, clients: Clients) -> None:
    expected = (
        "what Clients.make() opens belongs to a loop of an executor, and this is another loop; "
        "use it in an async job, or in an async view with EXECUTOR_ASYNC_VIEWS=True"
    )
    with Executor(app) as executor:
        resource = executor.loop_resource(clients.make)
        with pytest.raises(OutsideLoopError) as caught:
            asyncio.run(resource.get())
        assert str(caught.value) == expected
        with pytest.raises(OutsideLoopError):  # without EXECUTOR_ASYNC_VIEWS
            app.ensure_sync(resource.get)()
    assert not clients.made


def test_factory_that_is_none_is_refused(executor: Executor) -> None:
    async def make() -> None: ...

    given: Any = make
    with pytest.raises(TypeError) as caught:
        executor.loop_resource(given)
    assert str(caught.value) == (
        f"expected a function that returns an async context manager, got {make!r}"
    )
    given = int
    with pytest.raises(TypeError) as caught:
        executor.submit(executor.loop_resource(given).get).result(TIMEOUT)
    assert str(caught.value) == "int() returned 0: expected an async context manager"


def test_factory_that_asks_for_its_own_resource_hears_of_it(executor: Executor) -> None:
    @asynccontextmanager
    async def make() -> AsyncGenerator[object]:
        yield await resource.get()

    resource: LoopResource[object] = executor.loop_resource(make)
    with pytest.raises(RuntimeError, match=r"make\(\) asks for the very resource that it is to"):
        executor.submit(resource.get).result(TIMEOUT)


def test_class_that_is_a_context_manager_is_a_factory(executor: Executor) -> None:
    events: list[str] = []

    class Connection:
        async def __aenter__(self) -> Self:
            events.append("opened")
            return self

        async def __aexit__(self, *_: object) -> None:
            events.append("closed")

    resource = executor.loop_resource(Connection)
    connection = executor.submit(resource.get).result(TIMEOUT)
    assert type(connection) is Connection
    assert events == ["opened"]
    executor.shutdown()
    assert events == ["opened", "closed"]
    assert repr(resource) == f"<LoopResource of {Connection.__qualname__}>"


def test_factory_that_raises_what_asyncio_refuses_is_an_error(executor: Executor) -> None:
    def broken() -> AbstractAsyncContextManager[int]:
        raise StopIteration("nothing")

    numbers = executor.loop_resource(broken)
    with pytest.raises(RuntimeError, match="StopIteration"):
        executor.submit(numbers.get).result(TIMEOUT)
