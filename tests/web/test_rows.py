"""The rows of rows.py in one process, without a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flask_executor_typed.executor import executors_of

from ..apps.served_rows import create_app
from .rows import ROWS, Row, Site


@pytest.fixture(scope="module", params=["memory", "sqlite"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp(f"rows-{request.param}")
    app = create_app(folder, None if request.param == "memory" else "sqlite:///jobs.db")
    transport = httpx.WSGITransport(app=app)
    with httpx.Client(transport=transport, base_url="http://localhost") as http:
        yield Site(http, folder)
    for executor in executors_of(app):
        executor.shutdown()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.__name__)
def test_row(site: Site, row: Row) -> None:
    row(site)
