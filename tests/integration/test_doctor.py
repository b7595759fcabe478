"""``doctor.check`` in a view of a real server."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from .conftest import COMMANDS, PATIENCE, Server, ServerFactory


@pytest.fixture(autouse=True)
def serve_doctored(monkeypatch: pytest.MonkeyPatch) -> None:
    command = (*COMMANDS["gunicorn"][:-1], "tests.apps.doctored:app")
    monkeypatch.setitem(COMMANDS, "gunicorn", command)
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    monkeypatch.delenv("GUNICORN_CMD_ARGS", raising=False)


def get(server: Server, url: str) -> Any:
    response = httpx.get(server.url + url, timeout=PATIENCE, trust_env=False)
    assert response.is_success, server.log
    return response.json()


def codes(server: Server) -> set[str]:
    found = {each["code"] for each in get(server, "/health")}
    return found - {"uvloop-missing"}  # which depends on where the tests run


def test_health_view_tells_of_a_blocked_loop_and_of_a_setting_that_changed(
    serve: ServerFactory,
) -> None:
    server = serve("--threads", "4")
    assert codes(server) == set()
    assert get(server, "/status")[0]["figures"]["state"] == "not used yet"
    get(server, "/block")
    get(server, "/change")
    assert codes(server) == {"loop-blocked", "changed-after-init"}
    assert get(server, "/status")[0]["figures"]["state"] == "in use"
    get(server, "/release")
    assert codes(server) == {"changed-after-init"}
    assert server.stop() == 0, server.log


def test_health_view_knows_the_command_line_of_its_server(serve: ServerFactory) -> None:
    server = serve("--threads", "4", "--workers", "2")
    (finding,) = [each for each in get(server, "/health") if each["code"] == "several-processes"]
    assert finding["must_mend"]
    assert finding["what"].startswith("2 server processes, but keys live in one process's memory")
    assert finding["what"].endswith("These views use keys: poll.")
    assert server.stop() == 0, server.log
