"""An app that comes from Celery, examples/from_celery.py: its tasks and its jobs in one worker."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from flask.testing import FlaskClient

from examples.on_celery import celery_worker

from ..conftest import until
from ..helpers.services import redis_server, skip_without
from .conftest import PATIENCE

skip_without("celery")
pytest.importorskip("celery", reason="Celery is not installed beside the oldest Flask")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The module of the example, while its worker runs."""
    log = tmp_path_factory.mktemp("from-celery") / "worker.log"
    with redis_server() as redis, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_REDIS", redis.url)
        patch.delitem(sys.modules, "examples.from_celery", raising=False)
        module: Any = import_module("examples.from_celery")
        with celery_worker(log, "examples.from_celery:celery_app"), module.app.app_context():
            yield module
            module.executor.shutdown(timeout=0, app=module.app)
            gc.collect()  # results of Celery's, which call its Redis when they are freed


@pytest.fixture
def client(shop: Any) -> FlaskClient:
    client: FlaskClient = shop.app.test_client()
    return client


@pytest.mark.parametrize("kind", ["count", "sum"])
@pytest.mark.parametrize("year", [1999, 2000])  # in 2000, the bank wants to be asked again
def test_a_task_and_the_job_that_it_becomes_give_the_same(
    client: FlaskClient, kind: str, year: int
) -> None:
    started = client.post(f"/{kind}/{year}")
    assert started.status_code == 202
    address = f"/{kind}/{started.get_json()['id']}"
    until(lambda: client.get(address).status_code != 202, PATIENCE)
    assert client.get(address).get_json() == {"orders": f"the orders of {year} for shop"}


def test_only_a_job_says_that_it_is_unknown(client: FlaskClient) -> None:
    assert client.get("/count/unknown").status_code == 202
    assert client.get("/sum/unknown").status_code == 404


def test_a_task_starts_a_job_that_starts_a_task(shop: Any) -> None:
    report_id = shop.every_night.delay(1999).get(timeout=PATIENCE)
    mail_id = shop.executor.jobs.future(report_id).result(PATIENCE)
    assert shop.celery_app.AsyncResult(mail_id).get(timeout=PATIENCE) == "sent: report of 1999"


def test_a_job_at_the_end_of_a_chain(shop: Any) -> None:
    chain: Any = import_module("celery").chain
    steps = chain(shop.next_year.s(1998), shop.every_night.s())
    report_id = steps.delay().get(timeout=PATIENCE)
    assert shop.executor.jobs.future(report_id).result(PATIENCE)
