"""Uploads: opened once for all jobs of a request, and read by many at once after its end.

Small ones are read into memory, and so are all on Windows, which has no ``pread``.
"""

from __future__ import annotations

import os
from io import BufferedReader, BytesIO, RawIOBase
from typing import IO, TYPE_CHECKING, Any

from werkzeug.datastructures import FileStorage, MultiDict

from ..errors import UploadsLeftBehindError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ("SharedUpload", "UploadsLeftBehind", "shared_uploads")


def shared_uploads(request: Any) -> list[tuple[str, SharedUpload]]:
    """The uploads of a request by name, opened once for all jobs that the request submits."""
    key = "flask_executor_typed.uploads"
    if key not in request.environ:
        request.environ[key] = [
            (name, SharedUpload(file)) for name, file in request.files.items(multi=True)
        ]
    uploads: list[tuple[str, SharedUpload]] = request.environ[key]
    return uploads


class SharedUpload:
    """One uploaded file, readable many times at once and after its request closed it."""

    def __init__(self, upload: FileStorage) -> None:
        self._upload = upload
        self._content: bytes | None = None
        self._file: _Descriptor | None = None
        stream: Any = upload.stream
        try:
            position = stream.tell()
            size = stream.seek(0, os.SEEK_END)
            stream.seek(position)
            if size > _SMALL_UPLOAD:
                self._file = _Descriptor(stream.fileno())
        except (AttributeError, OSError):  # Windows has no pread, and some streams no descriptor
            pass
        except ValueError:  # the view has closed it: so it is for the job
            return
        if self._file is None:
            position = stream.tell()
            stream.seek(0)
            self._content = stream.read()
            stream.seek(position)

    def open(self) -> FileStorage:
        upload = self._upload
        if self._content is not None:
            stream: IO[bytes] = BytesIO(self._content)
        elif self._file is not None:
            stream = BufferedReader(_SharedFile(self._file))
        else:
            stream = upload.stream
        return FileStorage(stream, upload.filename, upload.name, headers=upload.headers)


_SMALL_UPLOAD = 512 * 1024  # bytes; about where werkzeug moves an upload from memory to a file


class _Descriptor:
    """A file descriptor of our own for a file of somebody else; closed with its last user."""

    def __init__(self, descriptor: int) -> None:
        os.pread(descriptor, 0, 0)  # raises if that is not possible, as for a pipe
        self.number = os.dup(descriptor)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class _SharedFile(RawIOBase):
    """A reader with a position of its own, which pread leaves alone for all others."""

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


class UploadsLeftBehind(MultiDict[str, FileStorage]):
    """Stands where the uploads were: looking for one, in another process, says what to do."""

    def _refuse(self, *args: object, **kwargs: object) -> Any:
        raise UploadsLeftBehindError

    __getitem__ = __contains__ = __iter__ = __len__ = get = getlist = _refuse
    items = lists = listvalues = keys = values = to_dict = _refuse
