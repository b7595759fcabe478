"""Find out how the app is served: from the server's command line, configuration and process.

The only module that reads command lines and configuration files of servers. It doesn't execute
them, so values that a file computes stay unknown.
"""

from __future__ import annotations

import argparse
import ast
import configparser
import contextlib
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NoReturn

__all__ = ("Deployment", "look")

_SERVERS = ("gunicorn", "uwsgi", "uvicorn", "hypercorn", "waitress-serve")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """The known facts about a server."""

    server: str | None = None
    """Its name, such as ``"gunicorn"``; ``None`` if unknown."""

    processes: int | None = None
    """The number of processes that serve the app; ``None`` if unknown."""

    library: str | None = None
    """``"gevent"`` or ``"eventlet"``, if greenlets serve the app."""

    threads: bool = True
    """Whether Python threads run at all: uWSGI must be told to let them."""

    tells_of_forks: bool = True
    """Whether Python's fork hooks run when the server forks after importing the app."""

    preload: bool = False
    """Whether the app is imported before greenlets replace threads."""

    seen: tuple[str, ...] = ()
    """The sources of these facts, to show."""

    unseen: tuple[str, ...] = ()
    """Sources that could not be understood, to show."""


def look(command: str | None = None, *, folder: Path | None = None) -> Deployment:
    """Find out about the server.

    Args:
        command: The command line that starts it, such as ``"gunicorn -w 4 shop:app"``. By default
            that of this process, if it is a server, or else its environment variables.
        folder: The server's working directory; by default the current one.
    """
    folder = folder or Path.cwd()
    environ = dict(os.environ)
    if command is None:
        found = _from_uwsgi_here()
        if found is not None:
            return found
        source, words = "the command line of this process", [*sys.argv]
    else:
        source, words = "--server", _split(command)
    while words and _name(words[0]) not in _SERVERS:
        variable, equals, value = words.pop(0).partition("=")
        if equals and command is not None:  # WEB_CONCURRENCY=4 gunicorn ...
            environ[variable] = value
    if words:
        return _READERS[_name(words[0])](words, source, environ, folder)
    if command is not None:
        return Deployment(
            unseen=(f"--server names none of {', '.join(_SERVERS)}, whose options are known",)
        )
    return _from_environment(environ, folder)


def _from_environment(environ: Mapping[str, str], folder: Path) -> Deployment:
    if "GUNICORN_CMD_ARGS" in environ or (folder / "gunicorn.conf.py").exists():
        return _gunicorn(["gunicorn"], "", environ, folder)
    if any(name.startswith("UWSGI_") for name in environ):
        return _uwsgi(["uwsgi"], "", environ, folder)
    processes = _web_concurrency(environ)
    return Deployment(processes=processes, seen=("WEB_CONCURRENCY",) if processes else ())


def _split(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # a quotation mark is missing
        return command.split()


def _name(word: str) -> str:
    path = PurePath(word)  # python -m gunicorn: .../gunicorn/__main__.py
    name = path.parent.name if path.name == "__main__.py" else path.name
    return name.removesuffix(".exe")


def _web_concurrency(environ: Mapping[str, str]) -> int | None:
    return _whole(environ.get("WEB_CONCURRENCY"))


def _whole(value: object) -> int | None:
    if isinstance(value, (int, str)):
        with contextlib.suppress(ValueError):
            return int(value)
    return None


class _Parser(argparse.ArgumentParser):
    """A parser that knows the relevant options and skips all others."""

    def __init__(self, *options: tuple[str, ...], flags: Sequence[tuple[str, ...]] = ()) -> None:
        super().__init__(add_help=False, argument_default=argparse.SUPPRESS)
        for names in options:
            self.add_argument(*names)
        for names in flags:
            self.add_argument(*names, action="store_true")

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)

    def options(self, words: Sequence[str]) -> dict[str, Any]:
        return vars(self.parse_known_args(words)[0])


def _gunicorn(
    words: Sequence[str], source: str, environ: Mapping[str, str], folder: Path
) -> Deployment:
    parser = _Parser(
        ("-w", "--workers"),
        ("-k", "--worker-class"),
        ("-c", "--config"),
        ("--chdir",),
        flags=[("--preload",)],
    )
    seen: list[str] = []
    unseen: list[str] = []
    options: dict[str, Any] = {"workers": 1}
    # The last one counts, as for gunicorn itself.
    processes = _web_concurrency(environ)
    if processes is not None:
        seen.append("WEB_CONCURRENCY")
        options["workers"] = processes
    given: dict[str, Any] = {}
    for where, arguments in [
        ("GUNICORN_CMD_ARGS", _split(environ.get("GUNICORN_CMD_ARGS", ""))),
        (source, words[1:]),
    ]:
        if where and arguments:
            seen.append(where)
            try:
                given |= parser.options(arguments)
            except ValueError as error:
                unseen.append(f"{where}: {error}")
    file = str(given.pop("config", "gunicorn.conf.py"))
    path = folder / given.pop("chdir", "") / file.removeprefix("file:")
    text = ""
    if path.is_file():
        seen.append(path.name)
        text = path.read_text("utf-8", errors="replace")
        constants, computed = _constants_of(text)
        options |= {_OPTION_OF_NAME[name]: value for name, value in constants.items()}
        for name in computed:
            unseen.append(f"{name} in {path.name}, which is computed there")
            options.pop(_OPTION_OF_NAME[name], None)
    elif file != "gunicorn.conf.py":
        unseen.append(f"{file}, which cannot be read here")
    options |= given
    worker_class = str(options.get("worker_class", "")).rpartition(".")[2].lower()
    library = next((name for name in ("gevent", "eventlet") if name in worker_class), None)
    patches = "patch_all(" in text or "monkey_patch(" in text
    return Deployment(
        server="gunicorn",
        processes=_whole(options.get("workers")),
        library=library,
        preload=bool(options.get("preload")) and not patches,
        seen=tuple(seen),
        unseen=tuple(unseen),
    )


_OPTION_OF_NAME = {"workers": "workers", "worker_class": "worker_class", "preload_app": "preload"}


def _constants_of(text: str) -> tuple[dict[str, object], list[str]]:
    """Return a configuration file's literal settings, and the names of computed ones."""
    constants: dict[str, object] = {}
    computed: list[str] = []
    with contextlib.suppress(SyntaxError, ValueError):
        for node in ast.parse(text).body:
            if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {target.id for target in targets if isinstance(target, ast.Name)}
            for name in names & _OPTION_OF_NAME.keys():
                try:
                    constants[name] = ast.literal_eval(node.value)
                except ValueError:
                    computed.append(name)
    return constants, computed


def _uwsgi(
    words: Sequence[str], source: str, environ: Mapping[str, str], folder: Path
) -> Deployment:
    parser = _Parser(
        ("-p", "--processes", "--workers"),
        ("--threads",),
        ("--gevent",),
        ("--ini",),
        flags=[
            ("-T", "--enable-threads"),
            ("--py-call-osafterfork",),
            ("--lazy-apps", "--lazy"),
        ],
    )
    seen: list[str] = []
    unseen: list[str] = []
    options: dict[str, Any] = {
        name.removeprefix("UWSGI_").lower(): value
        for name, value in environ.items()
        if name.startswith("UWSGI_")
    }
    if options:
        seen.append("UWSGI_... variables")
    if source:
        seen.append(source)
        try:
            options |= parser.options(words[1:])
        except ValueError as error:
            unseen.append(f"{source}: {error}")
        files = [word for word in words[1:] if word.endswith(".ini")]
        options.setdefault("ini", files[0] if files else None)
    if options.get("ini"):
        file = folder / str(options["ini"])
        ini = configparser.ConfigParser(allow_no_value=True, strict=False, interpolation=None)
        try:
            ini.read_string(file.read_text("utf-8"))
            section = ini["uwsgi"].items()
        except (OSError, KeyError, configparser.Error):
            unseen.append(f"{file.name}, which cannot be read here")
        else:
            seen.append(file.name)
            options = {name.replace("-", "_"): value for name, value in section} | options
    processes = options.get("processes", options.get("workers", 1))

    def is_on(*names: str) -> bool:
        values = (str(options.get(name, "false")).lower() for name in names)
        return any(value not in {"false", "0", "no", "off"} for value in values)

    return Deployment(
        server="uWSGI",
        processes=_whole(processes),
        library="gevent" if options.get("gevent") else None,
        threads=is_on("enable_threads") or "threads" in options,
        tells_of_forks=is_on("py_call_osafterfork", "lazy_apps", "lazy"),
        seen=tuple(seen),
        unseen=tuple(unseen),
    )


def _from_uwsgi_here() -> Deployment | None:
    """Return uWSGI's own settings, if it runs this process."""
    uwsgi: Any = sys.modules.get("uwsgi")
    options: dict[str | bytes, Any] | None = getattr(uwsgi, "opt", None)
    if options is None:
        return None
    names = {name.decode() if isinstance(name, bytes) else name for name in options}
    return Deployment(
        server="uWSGI",
        processes=_whole(uwsgi.numproc),
        library="gevent" if "gevent" in names else None,
        threads=bool(names & {"enable-threads", "threads"}),
        tells_of_forks=bool(names & {"py-call-osafterfork", "lazy-apps", "lazy"}),
        seen=("uWSGI, which runs this process",),
    )


def _other(
    words: Sequence[str], source: str, environ: Mapping[str, str], folder: Path
) -> Deployment:
    parser = _Parser(("-w", "--workers"))
    processes = _web_concurrency(environ) if _name(words[0]) == "uvicorn" else None
    seen = [source] if processes is None else ["WEB_CONCURRENCY", source]
    unseen: list[str] = []
    try:
        workers = parser.options(words[1:]).get("workers", processes or 1)
    except ValueError as error:
        workers = None
        unseen.append(f"{source}: {error}")
    return Deployment(
        server=_name(words[0]), processes=_whole(workers), seen=tuple(seen), unseen=tuple(unseen)
    )


_READERS = dict.fromkeys(_SERVERS, _other) | {"gunicorn": _gunicorn, "uwsgi": _uwsgi}
