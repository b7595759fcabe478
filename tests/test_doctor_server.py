"""What is read of a server's command line, environment and configuration files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from flask_executor_typed.doctor.server import Deployment, look


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that tells nothing of a server."""
    for name in os.environ:
        if name.startswith(("WEB_CONCURRENCY", "GUNICORN_", "UWSGI_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "argv", ["flask", "executor", "doctor"])


@pytest.mark.parametrize(
    ("command", "server", "processes"),
    [
        ("gunicorn shop:app", "gunicorn", 1),
        ("gunicorn -w 4 shop:app", "gunicorn", 4),
        ("gunicorn -w4 shop:app", "gunicorn", 4),
        ("/srv/env/bin/gunicorn --bind :80 --workers=3 shop:app", "gunicorn", 3),
        ("python -m gunicorn shop:app --workers 2", "gunicorn", 2),
        ("WEB_CONCURRENCY=5 gunicorn shop:app", "gunicorn", 5),
        ("WEB_CONCURRENCY=5 gunicorn -w 2 shop:app", "gunicorn", 2),
        ("GUNICORN_CMD_ARGS='-w 6' gunicorn shop:app", "gunicorn", 6),
        ("uvicorn shop:app", "uvicorn", 1),
        ("uvicorn shop:app --workers 3", "uvicorn", 3),
        ("WEB_CONCURRENCY=2 uvicorn shop:app", "uvicorn", 2),
        ("hypercorn -w 3 shop:app", "hypercorn", 3),
        ("waitress-serve --threads 8 shop:app", "waitress-serve", 1),
        ("uwsgi --http :80 -p 4 --module shop:app", "uWSGI", 4),
        ("uwsgi --processes 2 --module shop:app", "uWSGI", 2),
        ("gunicorn.exe -w 2 shop:app", "gunicorn", 2),
    ],
)
def test_processes_are_read_off_a_command_line(
    tmp_path: Path, command: str, server: str, processes: int
) -> None:
    found = look(command, folder=tmp_path)
    assert (found.server, found.processes) == (server, processes)
    assert not found.unseen


@pytest.mark.parametrize(
    ("command", "library"),
    [
        ("gunicorn shop:app", None),
        ("gunicorn -k gthread shop:app", None),
        ("gunicorn -k gevent shop:app", "gevent"),
        ("gunicorn --worker-class=gevent_pywsgi shop:app", "gevent"),
        ("gunicorn -k gunicorn.workers.ggevent.GeventWorker shop:app", "gevent"),
        ("gunicorn -k eventlet shop:app", "eventlet"),
        ("uwsgi --gevent 100 --module shop:app", "gevent"),
    ],
)
def test_greenlets_are_read_off_a_command_line(
    tmp_path: Path, command: str, library: str | None
) -> None:
    assert look(command, folder=tmp_path).library == library


@pytest.mark.parametrize(
    ("options", "threads"),
    [
        ("", False),
        ("--enable-threads", True),
        ("-T", True),
        ("--threads 2", True),
        ("--ini off.ini", False),
        ("--ini on.ini", True),
        ("on.ini", True),
        ("some.ini", True),
    ],
)
def test_uwsgi_has_to_be_told_to_run_threads(tmp_path: Path, options: str, threads: bool) -> None:
    (tmp_path / "off.ini").write_text("[uwsgi]\nenable-threads = false\n", "utf-8")
    (tmp_path / "on.ini").write_text("[uwsgi]\nenable-threads = true\nvenv = %d/env\n", "utf-8")
    (tmp_path / "some.ini").write_text("[uwsgi]\nmaster\nthreads = 2\nprocesses = 3\n", "utf-8")
    found = look(f"uwsgi {options}", folder=tmp_path)
    assert found.threads is threads
    assert not found.unseen
    assert found.processes == (3 if options == "some.ini" else 1)
    assert look("uwsgi -p 2 some.ini", folder=tmp_path).processes == 2


@pytest.mark.parametrize(
    ("options", "tells"),
    [
        ("--enable-threads", False),
        ("--py-call-osafterfork", True),
        ("--lazy-apps", True),
        ("--lazy", True),
        ("some.ini", True),
    ],
)
def test_uwsgi_has_to_be_told_to_tell_of_forks(tmp_path: Path, options: str, tells: bool) -> None:
    (tmp_path / "some.ini").write_text("[uwsgi]\npy-call-osafterfork = true\n", "utf-8")
    assert look(f"uwsgi {options}", folder=tmp_path).tells_of_forks is tells


def test_gunicorns_own_file_is_read_and_the_command_line_counts_more(tmp_path: Path) -> None:
    file = tmp_path / "gunicorn.conf.py"
    file.write_text("workers = 4\nworker_class: str = 'gevent'\npreload_app = True\n", "utf-8")
    assert look("gunicorn -w 2 shop:app", folder=tmp_path) == Deployment(
        server="gunicorn",
        processes=2,
        library="gevent",
        preload=True,
        seen=("--server", "gunicorn.conf.py"),
    )
    assert look(folder=tmp_path).processes == 4
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "conf.py").write_text("workers = 7\n", "utf-8")
    assert look("gunicorn -c other/conf.py a", folder=tmp_path).processes == 7
    assert look("gunicorn --chdir other -c file:conf.py a", folder=tmp_path).processes == 7


def test_file_that_patches_makes_preload_harmless(tmp_path: Path) -> None:
    text = "from gevent import monkey; monkey.patch_all()\nworker_class = 'gevent'\n"
    (tmp_path / "gunicorn.conf.py").write_text(text, "utf-8")
    assert not look("gunicorn --preload shop:app", folder=tmp_path).preload


def test_what_a_file_computes_stays_unknown_and_is_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    text = f"workers = int(open({str(ran)!r}, 'w').write('2'))\n"
    (tmp_path / "gunicorn.conf.py").write_text(text, "utf-8")
    found = look(folder=tmp_path)
    assert found.processes is None
    assert found.unseen == ("workers in gunicorn.conf.py, which is computed there",)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("command", "unseen"),
    [
        ("gunicorn -c python:settings shop:app", "python:settings, which cannot be read here"),
        ("gunicorn -w", "--server: argument -w/--workers: expected one argument"),
        ("uwsgi --ini missing.ini", "missing.ini, which cannot be read here"),
        ("uwsgi --processes", "--server: argument -p/--processes/--workers: expected one argument"),
        ("hypercorn -w", "--server: argument -w/--workers: expected one argument"),
        (
            "twistd web --wsgi shop.app",
            (
                "--server names none of gunicorn, uwsgi, uvicorn, hypercorn, waitress-serve, "
                "whose options are known"
            ),
        ),
    ],
)
def test_what_cannot_be_understood_is_said(tmp_path: Path, command: str, unseen: str) -> None:
    assert look(command, folder=tmp_path).unseen == (unseen,)


def test_environment_tells_without_a_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert look(folder=tmp_path) == Deployment()
    monkeypatch.setenv("WEB_CONCURRENCY", "3")
    assert look(folder=tmp_path) == Deployment(processes=3, seen=("WEB_CONCURRENCY",))
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--workers 2 -k gevent")
    assert look(folder=tmp_path) == Deployment(
        server="gunicorn",
        processes=2,
        library="gevent",
        seen=("WEB_CONCURRENCY", "GUNICORN_CMD_ARGS"),
    )
    monkeypatch.delenv("GUNICORN_CMD_ARGS")
    monkeypatch.setenv("UWSGI_PROCESSES", "4")
    monkeypatch.setenv("UWSGI_ENABLE_THREADS", "true")
    assert look(folder=tmp_path) == Deployment(
        server="uWSGI", processes=4, tells_of_forks=False, seen=("UWSGI_... variables",)
    )
    monkeypatch.setenv("UWSGI_LAZY_APPS", "true")
    assert look(folder=tmp_path).tells_of_forks


def test_server_finds_its_own_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/env/gunicorn/__main__.py", "-w", "4", "shop:app"])
    assert look(folder=tmp_path) == Deployment(
        server="gunicorn", processes=4, seen=("the command line of this process",)
    )


def test_uwsgi_tells_its_own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uwsgi = SimpleNamespace(opt={b"processes": b"4", b"enable-threads": b"true"}, numproc=4)
    monkeypatch.setitem(sys.modules, "uwsgi", uwsgi)
    assert look(folder=tmp_path) == Deployment(
        server="uWSGI",
        processes=4,
        tells_of_forks=False,
        seen=("uWSGI, which runs this process",),
    )
    uwsgi.opt = {b"gevent": b"100", b"py-call-osafterfork": True}
    found = look(folder=tmp_path)
    assert (found.threads, found.library, found.tells_of_forks) == (False, "gevent", True)
