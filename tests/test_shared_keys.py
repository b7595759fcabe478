"""Keys and ids of executors that share a store, as those of several server processes do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from flask_executor_typed import DuplicateKeyError, Executor, StoreError

from .conftest import TIMEOUT


def executor_of(folder: Path, **settings: object) -> Executor:
    app = Flask("shop", instance_path=str(folder))
    app.config["EXECUTOR_STORE"] = "sqlite:///jobs.db"
    for name, value in settings.items():
        app.config[name] = value
    executor = Executor(app)
    executor.submit(app.name.upper).result(TIMEOUT)  # the app is alive as long as the executor
    apps.append(app)
    return executor


apps: list[Flask] = []


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Executor]:
    with executor_of(tmp_path) as executor:
        yield executor
    apps.clear()


@pytest.fixture
def there(tmp_path: Path, here: Executor) -> Iterator[Executor]:
    with executor_of(tmp_path) as executor:
        yield executor


def test_future_that_is_added_under_a_key_is_found_by_the_others(
    here: Executor, there: Executor
) -> None:
    go_on = threading.Event()
    runs = here.submit(go_on.wait, TIMEOUT)
    here.futures.add("runs", runs)
    assert there.futures.done("runs") is False
    assert "runs" in there.futures
    assert runs.key == "runs"
    with pytest.raises(DuplicateKeyError):
        there.futures.add("runs", there.submit(int))
    go_on.set()
    assert there.futures.result("runs", TIMEOUT) is True
    assert here.futures.get("runs") is runs
    found = there.futures.pop("runs")
    assert found is not None
    assert found.id == runs.id
    assert "runs" not in here.futures


def test_future_of_another_process_can_be_added(here: Executor, there: Executor) -> None:
    job_id = here.submit(int, "7").id
    future = there.jobs.future(job_id)
    assert future is not None
    there.futures.add(job_id, future)
    assert here.futures.result(job_id, TIMEOUT) == 7


def test_key_that_cannot_be_shared_is_this_processs_or_an_error_if_that_is_wanted(
    tmp_path: Path,
) -> None:
    (tmp_path / "jobs.db").write_text("this is no database, and long enough to see that", "utf-8")
    with executor_of(tmp_path) as executor:
        future = executor.submit(int)
        executor.futures.add("added", future)
        assert executor.futures.get("added") is future
        future = executor.using(key="submitted").submit(int)
        assert executor.futures.result("submitted", TIMEOUT) == 0
        assert executor.futures.pop("submitted") is future
    with executor_of(tmp_path, EXECUTOR_STORE_STRICT=True) as executor:
        future = executor.submit(int)
        with pytest.raises(StoreError):
            executor.futures.add("added", future)
        with pytest.raises(StoreError):
            executor.using(key="submitted").submit(int)
    apps.clear()


def test_keys_of_others_do_not_push_out_those_that_stay_here(
    here: Executor, there: Executor
) -> None:
    here.futures.max_length = 2
    for number in range(3):
        there.using(key=number).submit(int)
    own = object()  # a key that no other process can have
    future = here.using(key=own).submit(int)
    assert here.futures.get(own) is future
