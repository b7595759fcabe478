"""Serve an app on an open socket: ``python -m tests.helpers.serve NAME MODULE DESCRIPTOR``.

NAME is waitress or uvicorn, whose own commands cannot do that. MODULE contains the app. DESCRIPTOR
belongs to a listening socket.
"""

from __future__ import annotations

import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any


def stop(*_: object) -> None:
    sys.exit()


def main(name: str, module: str, descriptor: str, option: str = "4") -> None:
    served: Any = import_module(module)
    sockets = [socket.socket(fileno=int(descriptor))]
    server: Any = import_module(name)
    if name == "waitress":
        signal.signal(signal.SIGTERM, stop)
        server.serve(served.app, sockets=sockets, threads=int(option))
    else:
        if option == "exits":
            signal.signal(signal.SIGTERM, stop)  # uvicorn raises it again after its shutdown
        # uvicorn's own option for a descriptor takes it for a Unix socket. Then each answer waits
        # for a delayed TCP acknowledgement.
        with suppress(KeyboardInterrupt):  # raised again after the shutdown
            server.Server(server.Config(served.asgi_app, lifespan="off")).run(sockets)


if __name__ == "__main__":
    main(*sys.argv[1:])
