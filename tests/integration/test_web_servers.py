"""The rows of ``tests/web/rows.py``, which hold without a server, behind each kind of server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from ..web.rows import ROWS, Row, Site
from .conftest import PATIENCE, Server


@dataclass(frozen=True)
class Kind:
    """How to serve the app."""

    server: str
    options: tuple[str, ...] = ()
    store: str | None = None
    has_threads: bool = True
    module: str = "tests.apps.served_rows"


SERVERS = {
    "gthread": Kind("gunicorn", ("--workers", "1", "--threads", "8")),
    "gthread-4": Kind("gunicorn", ("--workers", "4", "--threads", "4"), "sqlite:///jobs.db"),
    "sync": Kind("gunicorn", ("--worker-class", "sync"), has_threads=False),
    "sync-4": Kind(
        *("gunicorn", ("--worker-class", "sync", "--workers", "4"), "sqlite:///jobs.db", False)
    ),
    "waitress": Kind("waitress", ("8",)),
    "uvicorn": Kind("uvicorn", module="tests.apps.served_rows_asgi"),
}


@pytest.fixture(scope="module", params=SERVERS)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    kind = SERVERS[request.param]
    pytest.importorskip("a2wsgi" if kind.server == "uvicorn" else kind.server)
    folder: Path = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROWS_FOLDER", str(folder))
        if kind.store is not None:
            patch.setenv("ROWS_STORE", kind.store)
        server = Server(folder / "server.log", kind.server, kind.module, *kind.options)
    try:
        # Each request comes by a connection of its own, which any of the processes may accept.
        headers = {"Connection": "close"}
        with httpx.Client(
            base_url=server.url, timeout=PATIENCE, trust_env=False, headers=headers
        ) as http:
            yield Site(http, folder, kind.has_threads)
    finally:
        server.kill()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.__name__)
def test_row(site: Site, row: Row) -> None:
    row(site)
