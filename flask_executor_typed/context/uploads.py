"""Uploaded files, opened once for all jobs of a request and readable by many after its end.

Small files are read into memory; on Windows, which has no ``pread``, all of them are.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from io import BufferedReader, BytesIO, RawIOBase
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from werkzeug.datastructures import FileStorage, Headers, MultiDict

from ..errors import UploadsLeftBehindError
from ..runtime.logs import fields_of

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ("SharedContent", "captured_uploads", "reader_of", "rewind", "uploads_left_behind")


class CapturedUpload(NamedTuple):
    """One upload, as it was when a job was submitted."""

    key: str
    """Its key in ``request.files``."""

    filename: str | None
    name: str | None
    headers: Headers
    content: SharedContent

    def __repr__(self) -> str:
        return fields_of(self)

    def open(self) -> FileStorage:
        """Return the upload for one run."""
        stream = self.content.open()
        upload = FileStorage(stream, self.filename, self.name, headers=self.headers)
        _note_content(upload, self.content)  # for jobs that the run submits
        return upload


def captured_uploads(request: Any) -> list[CapturedUpload]:
    """Return the uploads of a request, each read or opened once for all jobs of the request."""
    return [
        CapturedUpload(key, upload.filename, upload.name, upload.headers, _content_of(upload))
        for key, upload in request.files.items(multi=True)
    ]


def reader_of(upload: FileStorage) -> FileStorage:
    """Return a copy of an upload, with its own stream that outlives the request."""
    try:
        content = _content_of(upload)
    except (AttributeError, OSError):  # one that an app made, of what cannot be read twice
        return upload
    reader: FileStorage = object.__new__(type(upload))
    vars(reader).update(vars(upload))
    reader.stream = content.open()
    _note_content(reader, content)
    return reader


def rewind(upload: FileStorage) -> None:
    """Give what :func:`reader_of` returned a stream that nothing has been read of."""
    _, content = vars(upload).get(_CONTENT, (None, None))
    if content is not None:
        upload.stream = content.open()
        _note_content(upload, content)


_CONTENT = "flask_executor_typed.content"
"""The attribute in which an upload keeps what it shares with jobs, and its stream."""


def _content_of(upload: FileStorage) -> SharedContent:
    """Return the same content as for the last job, unless the upload got another stream."""
    stream, content = vars(upload).get(_CONTENT, (None, None))
    if stream is not upload.stream or content is None:
        content = SharedContent(upload.stream)
        _note_content(upload, content)
    return cast("SharedContent", content)


def _note_content(upload: FileStorage, content: SharedContent) -> None:
    vars(upload)[_CONTENT] = upload.stream, content


class SharedContent:
    """A file's content. Many can read it at once, even after the file was closed.

    Args:
        stream: The file. Its position stays where it is.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._content: bytes | None = None
        self._file: _Descriptor | None = None
        try:
            position = stream.tell()
            size = stream.seek(0, os.SEEK_END)
            stream.seek(position)
            if size > _SMALL_UPLOAD:
                self._file = _Descriptor(stream.fileno())
        except (AttributeError, OSError):  # Windows has no pread, and some streams no descriptor
            pass
        except ValueError:  # the view has closed it, so it is closed for the job too
            return
        if self._file is None:
            position = stream.tell()
            stream.seek(0)
            self._content = stream.read()
            stream.seek(position)

    def open(self) -> IO[bytes]:
        if self._content is not None:
            return BytesIO(self._content)
        if self._file is not None:
            return BufferedReader(_SharedFile(self._file))
        stream: IO[bytes] = self._stream
        return stream


_SMALL_UPLOAD = 512 * 1024  # bytes; werkzeug moves uploads from memory to a file at about this size


class _Descriptor:
    """A file descriptor of our own for another's file, closed with its last user."""

    def __init__(self, descriptor: int) -> None:
        os.pread(descriptor, 0, 0)  # raises if the file cannot seek, such as a pipe
        self.number = os.dup(descriptor)

    # Bound here: at interpreter exit the module loses its names before the last upload is freed.
    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "number"):
            close(self.number)


class _SharedFile(RawIOBase):
    """A reader with a position of its own: pread moves no other reader's."""

    def __init__(self, file: _Descriptor) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.number

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = (0, self._position, os.fstat(self._file.number).st_size)[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = os.pread(self._file.number, len(view), self._position)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


class _UploadsLeftBehind(MultiDict[str, FileStorage]):
    def _refuse(self, *args: object, **kwargs: object) -> Any:
        raise UploadsLeftBehindError

    __getitem__ = __contains__ = __iter__ = __len__ = get = getlist = _refuse
    items = lists = listvalues = keys = values = to_dict = _refuse


def uploads_left_behind() -> MultiDict[str, FileStorage]:
    """Return a stand-in for the uploads, in another process. Looking one up raises the cure."""
    return _UploadsLeftBehind()
