"""The services that other tests start, and how their tests are left out."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import TIMEOUT
from .helpers import services
from .helpers.services import axe_core_path, chromedriver_path, chromium_path, redis_server, without


def ask(port: int, *words: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as client:
        client.sendall(" ".join(words).encode() + b"\r\n")
        return client.recv(1000)


def test_redis_answers_on_the_loopback_until_the_block_ends() -> None:
    with redis_server() as redis:
        assert redis.url == f"redis://127.0.0.1:{redis.port}/0"
        assert ask(redis.port, "SET", "key", "value") == b"+OK\r\n"
        assert ask(redis.port, "CONFIG", "GET", "save") == b"*2\r\n$4\r\nsave\r\n$0\r\n\r\n"
        assert b"127.0.0.1" in ask(redis.port, "CONFIG", "GET", "bind")
    assert redis.process.poll() is not None
    with pytest.raises(ConnectionRefusedError):
        ask(redis.port, "PING")


def test_redis_starts_again_where_it_was_and_knows_nothing() -> None:
    with redis_server() as first:
        assert ask(first.port, "SET", "key", "value") == b"+OK\r\n"
    with redis_server("--maxmemory", "100mb", port=first.port) as second:
        assert second.port == first.port
        assert ask(second.port, "GET", "key") == b"$-1\r\n"
        assert b"104857600" in ask(second.port, "CONFIG", "GET", "maxmemory")


def test_redis_ends_when_the_block_fails() -> None:
    with pytest.raises(LookupError), redis_server() as redis:
        raise LookupError
    assert redis.process.poll() is not None


def test_redis_on_a_port_that_another_program_uses_is_an_error_with_its_log() -> None:
    with (
        redis_server() as other,
        pytest.raises(RuntimeError, match=r"(?s)did not start:.*in use"),
        redis_server(port=other.port),
    ):
        pass


@pytest.mark.parametrize("find", [chromium_path, chromedriver_path])
def test_browser_and_its_driver_run(find: Callable[[], Path]) -> None:
    asked = subprocess.run(
        [find(), "--version"], capture_output=True, text=True, timeout=6 * TIMEOUT, check=True
    )
    assert "Chrom" in asked.stdout


def test_axe_core_is_a_script() -> None:
    assert "axe.run" in axe_core_path().read_text(encoding="utf-8")


def test_service_that_is_left_out_skips_its_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI_WITHOUT", "celery, redis")
    assert [name for name in sorted(services.NAMES) if without(name)] == ["celery", "redis"]
    with pytest.raises(pytest.skip.Exception, match="CI_WITHOUT names redis"), redis_server():
        pass
    monkeypatch.setenv("CI_WITHOUT", "npm,chromium")
    for find in (chromium_path, chromedriver_path, axe_core_path):
        with pytest.raises(pytest.skip.Exception):
            find()


def test_service_that_is_missing_fails_its_tests_with_the_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CI_WITHOUT", raising=False)
    monkeypatch.setenv("PATH", "")
    expected = (
        "redis-server is not installed: python3 dev.py services installs it on Debian; "
        "CI_WITHOUT=redis leaves its tests out"
    )
    with pytest.raises(FileNotFoundError) as caught, redis_server():
        pass
    assert str(caught.value) == expected


def test_name_that_is_no_service_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI_WITHOUT", "redis,rabbitmq")
    with pytest.raises(ValueError, match="no service: rabbitmq; expected one of"):
        without("redis")
    monkeypatch.setenv("CI_WITHOUT", "")
    with pytest.raises(ValueError, match="no service: rabbitmq"):
        without("rabbitmq")


@pytest.mark.parametrize("user", [0, 1000])
def test_what_is_missing_is_installed_by_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int
) -> None:
    # Installs, as far as anyone can tell, all packages that it is given.
    apt_get = tmp_path / "apt-get"
    apt_get.write_text(f"""#!/bin/sh
        echo "$@" >> {tmp_path}/log
        for word in "$@"; do
            case $word in chromium-driver) word=chromedriver ;; esac
            /bin/cp "$0" {tmp_path}/$word
        done
        """)
    apt_get.chmod(0o755)
    monkeypatch.setenv("CI_WITHOUT", "npm")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert services.install() == ([] if user == 0 else ["chromium", "redis"])
    services.install()  # finds that nothing is missing
    log = tmp_path / "log"
    if user == 0:
        assert log.read_text().splitlines() == [
            "-qq update",
            "-qq install --yes --no-install-recommends redis-server chromium chromium-driver",
        ]
    else:
        assert not log.exists()


def test_what_cannot_be_installed_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI_WITHOUT", "npm")
    monkeypatch.setenv("PATH", "")
    assert services.install() == ["chromium", "redis"]
    assert "redis-server is missing, for the tests of redis\n" in capsys.readouterr().out
