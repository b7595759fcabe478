"""Forms, JSON, data and files in a job: what the view had read is there, the rest is refused."""

from __future__ import annotations

import gc
import io
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from flask import Flask, Request, request
from flask.ctx import AppContext
from werkzeug.datastructures import FileStorage
from werkzeug.serving import make_server
from werkzeug.test import create_environ, run_wsgi_app

from flask_executor_typed import BodyNotReadError, Executor, FutureProxy
from flask_executor_typed.context import uploads

from .conftest import TIMEOUT
from .helpers.contexts import Job, both_kinds, run, start
from .helpers.forms import FORM, MULTIPART, multipart, post, upload

NOT_READ = (
    "the body of this request was not read before the job was submitted; read it in the view "
    "first (request.form, request.files, request.get_data() or request.get_json())"
)

SMALL = b"small " * 100
LARGE = os.urandom(1_500_000)  # werkzeug keeps up to 500 kB in memory, more in a temporary file


both_sizes = pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])


# Servers that end the body themselves say so, and werkzeug then reads from them directly.
SERVERS = [
    pytest.param({}, id="length-limited"),
    pytest.param({"wsgi.input_terminated": True}, id="server-terminated"),
]
each_server = pytest.mark.parametrize("environ", SERVERS)


# -- what the view had read ------------------------------------------------------------------------


def read_json() -> Any:
    return request.get_json()


def read_data() -> Any:
    return request.get_data()


def read_form() -> Any:
    return request.form.to_dict(flat=False)


def read_values() -> Any:
    return request.values.to_dict(flat=False)


def read_file() -> Any:
    return upload().read()


@each_server
@pytest.mark.parametrize(
    ("body", "content_type", "read"),
    [
        pytest.param(b'{"a": [1, 2]}', "application/json", read_json, id="json"),
        pytest.param(b"raw bytes", "text/plain", read_data, id="data"),
        pytest.param(b"a=1&a=2&b=3", FORM, read_form, id="form"),
        pytest.param(b"a=1&a=2&b=3", FORM, read_values, id="values"),
        pytest.param(multipart(SMALL), MULTIPART, read_form, id="multipart form"),
        pytest.param(multipart(SMALL), MULTIPART, read_file, id="small file"),
        pytest.param(multipart(LARGE), MULTIPART, read_file, id="large file"),
    ],
)
@both_kinds
def test_what_the_view_had_read_stays_readable_after_the_response(
    app: Flask,
    executor: Executor,
    kind: Callable[[Job], Job],
    body: bytes,
    content_type: str,
    read: Job,
    environ: dict[str, Any],
) -> None:
    request_is_over = threading.Event()
    seen: list[Any] = []
    futures: list[FutureProxy[Any]] = []

    def job() -> Any:
        assert request_is_over.wait(TIMEOUT)
        return read()

    def view() -> None:
        seen.append(read())
        futures.append(start(executor, kind(job)))

    post(app, view, body, content_type, environ)
    request_is_over.set()
    assert seen[0]
    assert futures[0].result(TIMEOUT) == seen[0]


@each_server
@pytest.mark.parametrize(
    ("body", "content_type"), [(b"a=1", FORM), (multipart(SMALL), MULTIPART)], ids=["form", "files"]
)
def test_other_ways_to_a_body_that_was_read_as_a_form_find_it_empty_as_in_the_view(
    app: Flask, executor: Executor, body: bytes, content_type: str, environ: dict[str, Any]
) -> None:
    def ways() -> list[object]:
        return [
            request.data,
            request.get_data(),
            request.get_json(silent=True, force=True),
            request.stream.read(),
        ]

    results: list[object] = []

    def view() -> None:
        assert request.form
        results.append(run(executor, ways))
        results.append(ways())

    post(app, view, body, content_type, environ)
    assert results == [[b"", b"", None, b""]] * 2


def test_body_that_the_view_used_up_without_keeping_it_is_empty_in_the_job_too(
    app: Flask, executor: Executor
) -> None:
    def view() -> None:
        assert request.get_data(cache=False) == b"raw bytes"
        assert run(executor, lambda: (request.get_data(), request.stream.read())) == (b"", b"")

    post(app, view, b"raw bytes", "text/plain")


@each_server
def test_json_can_be_parsed_in_the_job_from_data_that_the_view_had_read(
    app: Flask, executor: Executor, environ: dict[str, Any]
) -> None:
    results: list[object] = []

    def view() -> None:
        request.get_data()
        results.append(
            run(executor, lambda: (request.get_json(), request.data, request.stream.read()))
        )

    post(app, view, b'{"a": 1}', "application/json", environ)
    assert results == [({"a": 1}, b'{"a": 1}', b"")]


# -- uploads ---------------------------------------------------------------------------------------


@both_sizes
@both_kinds
def test_view_and_job_read_the_same_upload_at_once_each_from_a_position_of_its_own(
    app: Flask, executor: Executor, kind: Callable[[Job], Job], content: bytes
) -> None:
    taking_turns = threading.Barrier(2)

    def read_in_turns() -> bytes:
        file, pieces = upload(), list[bytes]()
        size = len(content) // 7
        while piece := file.read(size):
            pieces.append(piece)
            taking_turns.wait(TIMEOUT)
        return b"".join(pieces)

    def view() -> None:
        assert upload().read(3) == content[:3]  # the job starts at the beginning all the same
        future = start(executor, kind(read_in_turns))
        upload().seek(0)
        assert read_in_turns() == content
        assert future.result(TIMEOUT) == content

    post(app, view, multipart(content), MULTIPART)


@both_sizes
@both_kinds
def test_job_that_ends_first_does_not_close_the_views_upload(
    app: Flask, executor: Executor, kind: Callable[[Job], Job], content: bytes
) -> None:
    def use_up(number: int) -> None:
        upload().read(number)
        upload().close()

    def view() -> None:
        file = upload()
        for _ in range(3):
            run(executor, kind(use_up), 100)
        list(executor.map(kind(use_up), range(3)))
        assert not file.stream.closed
        assert file.tell() == 0
        assert file.read() == content

    post(app, view, multipart(content), MULTIPART)


@both_sizes
def test_jobs_upload_is_a_file_like_the_views(
    app: Flask, executor: Executor, tmp_path: Path, content: bytes
) -> None:
    def job() -> None:
        file = upload()
        assert isinstance(file, FileStorage)
        assert (file.filename, file.name, file.mimetype) == ("0.bin", "file0", "application/x-test")
        file.save(tmp_path / "saved")
        assert (tmp_path / "saved").read_bytes() == content
        assert file.read() == b""
        assert (file.seek(-5, os.SEEK_END), file.read()) == (len(content) - 5, content[-5:])
        assert (file.seek(10), file.seek(5, os.SEEK_CUR), file.tell()) == (10, 15, 15)
        assert file.read(5) == content[15:20]
        file.seek(0)
        assert b"".join(file) == content  # line by line
        with pytest.raises(KeyError):
            upload("file1")

    def view() -> None:
        assert request.files
        run(executor, job)

    post(app, view, multipart(content), MULTIPART)


def test_several_files_under_one_name_are_all_there(app: Flask, executor: Executor) -> None:
    body = multipart(b"one", b"two", b"three").replace(b'"file1"', b'"file0"')

    def job() -> dict[str, list[bytes]]:
        return {name: [file.read() for file in files] for name, files in request.files.lists()}

    def view() -> None:
        assert len(request.files.getlist("file0")) == 2
        assert run(executor, job) == {"file0": [b"one", b"two"], "file2": [b"three"]}

    post(app, view, body, MULTIPART)


@both_sizes
@both_kinds
def test_job_sees_the_stream_and_the_name_that_the_view_gave_an_upload_after_the_last_job(
    app: Flask, executor: Executor, kind: Callable[[Job], Job], content: bytes
) -> None:
    def read() -> tuple[bytes, str | None]:
        return upload().read(), upload().filename

    def view() -> None:
        assert request.files
        assert run(executor, kind(read)) == (content, "0.bin")
        upload().stream.close()
        upload().stream, upload().filename = io.BytesIO(b"cleaned"), "cleaned.bin"
        assert run(executor, kind(read)) == (b"cleaned", "cleaned.bin")

    post(app, view, multipart(content), MULTIPART)


@both_kinds
@both_sizes
def test_job_may_submit_jobs_that_read_the_upload_too(
    app: Flask, kind: Callable[[Job], Job], content: bytes
) -> None:
    digests: list[bytes] = []

    def outer(depth: int) -> None:
        upload().read(10)
        digests.append(sha256(content[:10] + upload().read()).digest())
        if depth:
            start(executor, kind(outer), depth - 1).add_done_callback(done)

    def done(future: FutureProxy[Any]) -> None:
        assert upload().read(5) == content[:5]  # a callback has an upload of its own
        if len(digests) == 3:
            all_done.set()

    all_done = threading.Event()

    def view() -> None:
        assert request.files
        run(executor, kind(outer), 2)

    with Executor(app) as executor:
        post(app, view, multipart(content), MULTIPART)
        assert all_done.wait(TIMEOUT)
    assert digests == [sha256(content).digest()] * 3


@both_sizes
def test_upload_that_the_view_closed_does_not_keep_it_from_submitting(
    app: Flask, executor: Executor, content: bytes
) -> None:
    def view() -> None:
        upload().close()
        assert run(executor, lambda: request.form["title"]) == "x"

    post(app, view, multipart(content), MULTIPART)


class OwnStream(io.RawIOBase):
    """A stream of the app's own making: no descriptor, no buffer."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        return self._buffer.readinto(buffer)

    def write(self, data: Any, /) -> int:
        return self._buffer.write(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._buffer.seek(offset, whence)


def test_upload_kept_in_a_stream_of_the_apps_own_making_is_readable_in_the_job(
    app: Flask, executor: Executor
) -> None:
    class OwnRequest(Request):
        def _get_file_stream(self, *args: Any, **kwargs: Any) -> Any:
            return OwnStream()

    app.request_class = OwnRequest

    def view() -> None:
        assert isinstance(upload().stream, OwnStream)
        assert upload().read(4) == SMALL[:4]
        assert run(executor, lambda: upload().read()) == SMALL
        assert upload().read() == SMALL[4:]

    post(app, view, multipart(SMALL), MULTIPART)


@both_sizes
def test_jobs_read_one_upload_at_once_without_mixing_up_positions(
    app: Flask, content: bytes
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 8
    barrier = threading.Barrier(8)

    def job(number: int) -> bytes:
        file = upload()
        file.seek(number)
        barrier.wait(TIMEOUT)
        pieces = iter(lambda: file.read(1000 + number), b"")
        return sha256(b"".join(pieces)).digest()

    def view() -> None:
        assert request.files
        expected = [sha256(content[number:]).digest() for number in range(8)]
        assert list(executor.map(job, range(8), timeout=TIMEOUT)) == expected

    with Executor(app) as executor:
        post(app, view, multipart(content), MULTIPART)


# -- descriptors -----------------------------------------------------------------------------------

HAS_MERGED_CONTEXTS = hasattr(AppContext, "has_request")

counts_descriptors = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="this system does not list open descriptors"
)


def temporary_files() -> int:
    """How many open descriptors are of temporary files, which have no name."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed just now
            found += descriptor.readlink().name.endswith(" (deleted)")
    return found


@counts_descriptors
@pytest.mark.skipif(not hasattr(os, "pread"), reason="the content is copied")
def test_jobs_of_one_request_share_one_descriptor_that_is_closed_after_the_last(app: Flask) -> None:
    release = threading.Event()
    futures: list[FutureProxy[Any]] = []
    counts: list[int] = []

    def job() -> int:
        assert release.wait(TIMEOUT)
        return len(upload().read())

    def view() -> None:
        assert request.files
        counts.append(temporary_files())
        futures.extend(start(executor, job) for _ in range(50))
        counts.append(temporary_files())

    gc.collect()
    before = temporary_files()
    gc.disable()
    try:
        with Executor(app) as executor:
            post(app, view, multipart(LARGE), MULTIPART)
            assert counts == [before + 1, before + 2]  # one more for 50 jobs
            assert temporary_files() == before + 1  # the request's own is closed, ours is not
            release.set()
            assert {future.result(TIMEOUT) for future in futures} == {len(LARGE)}
        if HAS_MERGED_CONTEXTS:
            gc.collect()  # Flask 3.2 leaves each request in a cycle with its environ
        assert temporary_files() == before
    finally:
        gc.enable()


@counts_descriptors
def test_descriptor_is_closed_also_when_its_module_has_lost_its_names_as_at_interpreter_exit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(LARGE)
        reader = uploads.reader_of(FileStorage(file, "large.bin"))
    descriptor = reader.stream.fileno()
    monkeypatch.setattr(uploads, "os", None)
    del reader
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_many_small_files_do_not_take_a_descriptor_each(app: Flask, executor: Executor) -> None:
    counts: list[int] = []

    def view() -> None:
        assert len(request.files) == 100
        counts.append(temporary_files())
        contents = run(executor, lambda: [file.read() for file in request.files.values()])
        assert contents == [SMALL] * 100
        counts.append(temporary_files())

    post(app, view, multipart(*[SMALL] * 100), MULTIPART)
    assert counts[0] == counts[1]


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_uploads_are_closed_and_not_left_for_the_interpreter_to_complain_about(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    complaints: list[object] = []

    def complain(unraisable: sys.UnraisableHookArgs) -> None:
        complaints.append(unraisable.exc_value)

    monkeypatch.setattr(sys, "unraisablehook", complain)

    def view() -> None:
        assert request.files
        executor.submit(lambda: upload().read(10))
        executor.submit(lambda: None)

    with Executor(app) as executor:
        post(app, view, multipart(LARGE, SMALL), MULTIPART)
    gc.collect()
    assert complaints == []


# -- what the view had not read --------------------------------------------------------------------


def by_form() -> object:
    return request.form


def by_files() -> object:
    return request.files


def by_values() -> object:
    return request.values


def by_data() -> object:
    return request.data


def by_get_data() -> object:
    return request.get_data()


def by_json() -> object:
    return request.get_json()


def by_silent_json() -> object:
    return request.get_json(silent=True, force=True)


def by_stream() -> object:
    return request.stream.read()


def by_line() -> object:
    return request.stream.readline()


def by_iteration() -> object:
    return next(iter(request.stream))


def by_input_stream() -> object:
    return request.environ["wsgi.input"].read(1)


FORM_WAYS = [by_form, by_files, by_values, by_data]
JSON_WAYS = [by_json, by_silent_json, by_data]
ANY_WAYS = [by_get_data, by_stream, by_line, by_iteration, by_input_stream]

WAYS = [
    *[(b"a=1", FORM, way) for way in FORM_WAYS + ANY_WAYS],
    *[(multipart(SMALL), MULTIPART, way) for way in FORM_WAYS + ANY_WAYS],
    *[(b'{"a": 1}', "application/json", way) for way in JSON_WAYS + ANY_WAYS],
]


@each_server
@pytest.mark.parametrize(
    ("body", "content_type", "way"),
    WAYS,
    ids=[f"{kind.partition(';')[0]}-{way.__name__}" for _, kind, way in WAYS],
)
def test_body_that_the_view_had_not_read_is_refused_with_the_cure(
    app: Flask,
    executor: Executor,
    body: bytes,
    content_type: str,
    way: Callable[[], object],
    environ: dict[str, Any],
) -> None:
    app.config["EXECUTOR_LOG_EXCEPTIONS"] = False

    def view() -> None:
        error = start(executor, way).exception(TIMEOUT)
        assert isinstance(error, BodyNotReadError)
        assert str(error) == NOT_READ
        assert request.get_data() == body  # nothing is lost for the view

    executor.init_app(app)
    post(app, view, body, content_type, environ)


@each_server
def test_body_that_the_view_had_begun_to_read_is_refused(
    app: Flask, executor: Executor, environ: dict[str, Any]
) -> None:
    def view() -> None:
        assert request.stream.read(2) == b"ra"
        assert isinstance(start(executor, by_stream).exception(TIMEOUT), BodyNotReadError)
        assert isinstance(start(executor, by_get_data).exception(TIMEOUT), BodyNotReadError)
        assert request.stream.read() == b"w bytes"

    post(app, view, b"raw bytes", "text/plain", environ)


def test_form_that_was_asked_for_but_is_json_does_not_pass_for_a_body_that_was_read(
    app: Flask, executor: Executor
) -> None:
    def view() -> None:
        assert not request.form  # parses nothing, since this is no form
        assert isinstance(start(executor, by_json).exception(TIMEOUT), BodyNotReadError)
        assert request.get_json() == {"a": 1}

    post(app, view, b'{"a": 1}', "application/json")


@each_server
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "POST"])
@both_kinds
def test_request_without_a_body_has_an_empty_one_in_the_job(
    app: Flask,
    executor: Executor,
    kind: Callable[[Job], Job],
    method: str,
    environ: dict[str, Any],
) -> None:
    seen: list[object] = []

    def job() -> tuple[object, ...]:
        return (
            {**request.form},
            {**request.files},
            {**request.values},
            request.data,
            request.get_data(),
            request.get_json(silent=True),
            request.stream.read(),
        )

    def view() -> str:
        seen.append(run(executor, kind(job)))
        return ""

    app.testing = True
    app.add_url_rule("/", view_func=view, methods=[method])
    app.test_client().open("/?q=1", method=method, environ_overrides=environ)
    assert seen == [({}, {}, {"q": "1"}, b"", b"", None, b"")]


# -- real servers ----------------------------------------------------------------------------------


@contextmanager
def served(app: Flask) -> Generator[str]:
    """The app behind werkzeug's server; the value is its URL."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(TIMEOUT)
        server.server_close()


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
@both_sizes
@both_kinds
def test_upload_over_http_is_readable_in_the_job_after_the_response(
    app: Flask, kind: Callable[[Job], Job], content: bytes, chunked: bool
) -> None:
    futures: list[FutureProxy[Any]] = []
    answered = threading.Event()

    def job() -> tuple[str, bytes]:
        assert answered.wait(TIMEOUT)
        return request.form["title"], sha256(upload().read()).digest()

    def view() -> str:
        assert upload().read(1) == content[:1]
        futures.append(start(executor, kind(job)))
        return "accepted"

    app.add_url_rule("/", view_func=view, methods=["POST"])
    body = multipart(content)
    with Executor(app) as executor, served(app) as url, httpx.Client(timeout=TIMEOUT) as client:
        sent = iter([body[:1000], body[1000:]]) if chunked else body
        response = client.post(url, content=sent, headers={"Content-Type": MULTIPART})
        assert response.text == "accepted"
        answered.set()
        assert futures[0].result(TIMEOUT) == ("x", sha256(content).digest())


@pytest.mark.parametrize("way", [by_form, by_data, by_json, by_stream])
def test_chunked_body_that_the_view_had_not_read_is_refused(
    app: Flask, way: Callable[[], object]
) -> None:
    app.config["EXECUTOR_LOG_EXCEPTIONS"] = False

    def view() -> str:
        error = start(executor, way).exception(TIMEOUT)
        return f"{type(error).__name__}: {error} {request.get_data(as_text=True)}"

    app.add_url_rule("/", view_func=view, methods=["POST"])
    content_type = "application/json" if way is by_json else FORM
    with Executor(app) as executor, served(app) as url, httpx.Client(timeout=TIMEOUT) as client:
        response = client.post(
            url, content=iter([b"a", b"=1"]), headers={"Content-Type": content_type}
        )
        assert response.text == f"BodyNotReadError: {NOT_READ} a=1"


class Counted:
    """The connection as ``wsgi.input``, which counts what is taken from it."""

    def __init__(self, connection: io.BufferedIOBase) -> None:
        self._connection = connection
        self.taken = 0

    def read(self, size: int = -1) -> bytes:
        data = self._connection.read(size)
        self.taken += len(data)
        return data

    def readline(self, size: int = -1) -> bytes:
        data = self._connection.readline(size)
        self.taken += len(data)
        return data


class KeepAliveServer(ThreadingHTTPServer):
    """Serves an app over connections that stay open. Werkzeug's server closes them."""

    daemon_threads = True

    def __init__(self, app: Flask) -> None:
        self.app = app
        super().__init__(("127.0.0.1", 0), KeepAliveHandler)


class KeepAliveHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, KeepAliveServer)
        length = int(self.headers["Content-Length"])
        environ = create_environ(self.path, method="POST")
        body = Counted(self.rfile)
        environ.update({"wsgi.input": body, "CONTENT_LENGTH": str(length), "CONTENT_TYPE": FORM})
        content, status, headers = run_wsgi_app(self.server.app, environ, buffered=True)
        self.rfile.read(length - body.taken)  # what the view left, as servers do
        self.send_response(int(status.partition(" ")[0]))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"".join(content))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the parent's name
        """Print nothing."""


def test_next_request_on_the_connection_is_intact_after_a_job_tried_to_read_an_unread_body(
    app: Flask,
) -> None:
    app.config["EXECUTOR_LOG_EXCEPTIONS"] = False
    next_is_here = threading.Event()
    futures: list[FutureProxy[Any]] = []

    def read_late() -> bytes:
        assert next_is_here.wait(TIMEOUT)
        return request.get_data()

    def first() -> str:
        futures.append(executor.submit(read_late))
        return "first"

    def second() -> str:
        next_is_here.set()
        error = futures[0].exception(TIMEOUT)  # the job has had its chance at our body
        return f"{type(error).__name__} {request.form['b']}"

    app.add_url_rule("/first", view_func=first, methods=["POST"])
    app.add_url_rule("/second", view_func=second, methods=["POST"])
    server = KeepAliveServer(app)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with (
            Executor(app) as executor,
            socket.create_connection(("127.0.0.1", server.server_port)) as link,
        ):
            link.settimeout(TIMEOUT)
            answers = link.makefile("rb")
            link.sendall(b"POST /first HTTP/1.1\r\nContent-Length: 5\r\n\r\na=123")
            assert body_of(answers) == b"first"
            link.sendall(b"POST /second HTTP/1.1\r\nContent-Length: 5\r\n\r\nb=456")
            assert body_of(answers) == b"BodyNotReadError 456"
            link.sendall(b"POST /second HTTP/1.1\r\nContent-Length: 5\r\n\r\nb=789")
            assert body_of(answers) == b"BodyNotReadError 789"
            answers.close()
    finally:
        server.shutdown()
        thread.join(TIMEOUT)
        server.server_close()


def body_of(answers: IO[bytes]) -> bytes:
    """The body of the next response on a connection."""
    assert answers.readline().startswith(b"HTTP/1.1 200 ")
    length = 0
    while line := answers.readline().strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return answers.read(length)
