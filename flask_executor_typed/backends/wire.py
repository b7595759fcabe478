"""The messages between the server process and a worker process, and their format on a socket.

Each message carries the number of its call, so that an answer cannot be mistaken for another
call's.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from ..runtime.logs import fields_of

__all__ = (
    "CALL",
    "END",
    "LOG",
    "LOOKS",
    "PROGRESS",
    "READY",
    "Message",
    "Reader",
    "dump",
    "read_message",
    "read_order",
    "write",
    "write_order",
)

CALL, END = b"C", b"E"
"""Kinds of messages to a worker: a call, or the request to exit."""

READY, PROGRESS, LOOKS, LOG = b"+", b"p", b"?", b"l"
"""Kinds of messages from a worker that are not answers: the worker is up; the job has reported its
progress; it has checked whether it is to end; it has logged lines. The answers' kinds are in
runner.py."""

_HEADER = struct.Struct("!cQQ")  # kind, number, bytes of content
_ORDER = struct.Struct("!Q")
_PIECE = 1 << 16  # bytes read at once; _LARGE_PIECE within a longer message
_LARGE_PIECE = 1 << 20


class Message(NamedTuple):
    """One message, in either direction."""

    kind: bytes
    number: int = 0
    """The number of the call; 0 if the message is not about one."""

    content: bytes = b""

    def __repr__(self) -> str:
        return fields_of(self)


def dump(message: Message) -> bytes:
    return _HEADER.pack(message.kind, message.number, len(message.content)) + message.content


class Reader:
    """Assembles messages from the pieces read from a socket."""

    def __init__(self) -> None:
        self._read = bytearray()

    def wants(self) -> int:
        """Return how many bytes to read at once: many only if that many are known to be coming."""
        return _PIECE if len(self._read) < _PIECE else _LARGE_PIECE

    def feed(self, piece: bytes) -> None:
        self._read += piece

    def message(self) -> Message | None:
        """Return the next message, or ``None`` if it has not been read completely."""
        if len(self._read) < _HEADER.size:
            return None
        kind, number, length = _HEADER.unpack_from(self._read)
        end = _HEADER.size + length
        if len(self._read) < end:
            return None
        content = bytes(memoryview(self._read)[_HEADER.size : end])
        del self._read[:end]
        return Message(kind, number, content)


# -- blocking sockets, in the worker --------------------------------------------------------------


def write(sock: socket.socket, message: Message) -> None:
    sock.sendall(dump(message))


def read_message(sock: socket.socket, reader: Reader) -> Message:
    """Block until a message has arrived. Raise ``EOFError`` if the other end is closed."""
    while (message := reader.message()) is None:
        piece = sock.recv(reader.wants())
        if not piece:
            raise EOFError
        reader.feed(piece)
    return message


def _read(sock: socket.socket, length: int) -> bytes:
    read = bytearray(length)
    view = memoryview(read)
    while view:
        count = sock.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return bytes(read)


# -- orders: cancel a call, or exit ---------------------------------------------------------------


def write_order(sock: socket.socket, number: int) -> None:
    """Order a worker to cancel that call; with 0, to exit. Send all of it or nothing."""
    sock.send(_ORDER.pack(number))


def read_order(sock: socket.socket) -> int:
    """Block until an order has arrived. Raise ``EOFError`` if the other end is closed."""
    number: int = _ORDER.unpack(_read(sock, _ORDER.size))[0]
    return number
