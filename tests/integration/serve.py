"""``python -m tests.integration.serve NAME DESCRIPTOR``: a server that has no such command itself.

NAME is waitress or uvicorn, DESCRIPTOR that of a socket that listens.
"""

from __future__ import annotations

import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

from .served import app, asgi_app


def stop(*_: object) -> None:
    sys.exit()


def main(name: str, descriptor: str, threads: str = "4") -> None:
    sockets = [socket.socket(fileno=int(descriptor))]
    server: Any = import_module(name)
    if name == "waitress":
        signal.signal(signal.SIGTERM, stop)
        server.serve(app, sockets=sockets, threads=int(threads))
    else:
        # Its own option for a descriptor takes it for a Unix socket, and then each answer waits
        # for a delayed acknowledgement of TCP.
        with suppress(KeyboardInterrupt):  # raised again after the shutdown
            server.Server(server.Config(asgi_app, lifespan="off")).run(sockets)


if __name__ == "__main__":
    main(*sys.argv[1:])
