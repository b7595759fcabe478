"""Objects of a request as arguments of a job: uploads get readers, the rest is refused."""

from __future__ import annotations

import csv
import io
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, current_app, g, request, session, stream_with_context
from werkzeug.datastructures import FileStorage

from flask_executor_typed import Executor, FutureProxy, RequestArgumentError, UnpicklableError

from .conftest import TIMEOUT
from .helpers.contexts import itself
from .helpers.forms import MULTIPART, multipart, post, upload

SMALL, LARGE = b"small " * 100, bytes(range(256)) * 6000
both_sizes = pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])


def send(app: Flask, view: Callable[[], object], *contents: bytes) -> None:
    """Call ``view`` in a request with uploads ``file0`` and so on; what it raises is raised."""
    body = (multipart(*contents), MULTIPART) if contents else (b"body", "text/plain")
    post(app, view, *body)


def content_of(file: FileStorage) -> object:
    return file.read()


# -- uploads -------------------------------------------------------------------------------------


class Reading:
    """Jobs that read uploads, all of them only when the request is over."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def size(self, file: Any) -> int:
        assert self.go_on.wait(TIMEOUT)
        return len(file.read())

    async def asize(self, *, file: Any) -> int:
        return self.size(file)

    def sizes(self, files: Any) -> list[int]:
        if hasattr(files, "values"):
            return [size for each in files.values() for size in self.sizes(each)]
        return [self.size(files)] if hasattr(files, "read") else list(map(self.size, files))


@both_sizes
def test_upload_as_an_argument_is_read_after_the_response(
    app: Flask, executor: Executor, content: bytes
) -> None:
    reading, futures = Reading(), list[FutureProxy[int]]()

    def view() -> None:
        assert len(upload().read(3)) == 3
        futures.append(executor.submit(reading.size, upload()))
        futures.append(executor.submit(reading.asize, file=upload()))
        futures.append(executor.submit(partial(reading.size, upload())))
        assert upload().tell() == 3

    send(app, view, content)
    reading.go_on.set()
    assert [future.result(TIMEOUT) for future in futures] == [len(content)] * 3


@both_sizes
@pytest.mark.parametrize("chunksize", [1, 2])
def test_uploads_that_are_mapped_are_read_after_the_response(
    app: Flask, executor: Executor, content: bytes, chunksize: int
) -> None:
    reading, results = Reading(), list[Iterator[int]]()

    def view() -> None:
        files = list(request.files.values())
        results.append(executor.map(reading.size, files, chunksize=chunksize))

    send(app, view, content, b"second", b"third")
    reading.go_on.set()
    assert list(results[0]) == [len(content), 6, 5]


@pytest.mark.parametrize(
    "collect",
    [
        lambda: request.files,
        lambda: list(request.files.values()),
        lambda: tuple(request.files.values()),
        lambda: {"one": upload(), "rest": list(request.files.values())[1:]},
    ],
)
def test_uploads_in_a_collection_are_read_after_the_response(
    app: Flask, executor: Executor, collect: Callable[[], Any]
) -> None:
    reading, futures = Reading(), list[FutureProxy[list[int]]]()
    send(app, lambda: futures.append(executor.submit(reading.sizes, collect())), LARGE, b"2nd")
    reading.go_on.set()
    assert futures[0].result(TIMEOUT) == [len(LARGE), 3]


@both_sizes
def test_method_of_an_upload_is_a_job_that_runs_after_the_response(
    app: Flask, executor: Executor, content: bytes, tmp_path: Path
) -> None:
    target, futures = tmp_path / "saved", list[FutureProxy[None]]()
    started, go_on = threading.Event(), threading.Event()
    app.config["EXECUTOR_MAX_WORKERS"] = 1

    def hold() -> None:
        started.set()
        assert go_on.wait(TIMEOUT)

    def view() -> None:
        executor.submit(hold)
        futures.append(executor.submit(upload().save, target))

    send(app, view, content)
    go_on.set()
    futures[0].result(TIMEOUT)
    assert target.read_bytes() == content


@both_sizes
def test_each_attempt_reads_an_upload_from_its_beginning(
    app: Flask, executor: Executor, content: bytes
) -> None:
    sizes, futures = list[int](), list[FutureProxy[None]]()

    def read(one: FileStorage, many: list[FileStorage], *, named: FileStorage) -> None:
        sizes.extend(len(file.read()) for file in (one, *many, named))
        one.close()
        if len(sizes) < 9:
            raise ConnectionError

    def view() -> None:
        retried = executor.using(retries=2)
        futures.append(retried.submit(partial(read, upload()), [upload()], named=upload()))

    send(app, view, content)
    futures[0].result(TIMEOUT)
    assert sizes == [len(content)] * 9


def test_upload_of_another_class_keeps_its_class_and_attributes(executor: Executor) -> None:
    class Photo(FileStorage):
        author = ""

    photo = Photo(io.BytesIO(SMALL), "photo.jpg", "photo")
    photo.author = "ada"

    def look(given: Photo) -> tuple[bool, type, str, str | None, int]:
        return given is photo, type(given), given.author, given.filename, len(given.read())

    result = executor.submit(look, photo).result(TIMEOUT)
    assert result == (False, Photo, "ada", "photo.jpg", len(SMALL))


def test_upload_of_what_cannot_be_read_twice_is_the_jobs(executor: Executor) -> None:
    class Once:
        """A stream without a position."""

        def read(self) -> bytes:
            return b"once"

    stream: Any = Once()
    assert executor.submit(content_of, FileStorage(stream, "once")).result(TIMEOUT) == b"once"


def test_arguments_without_uploads_are_the_very_objects(app: Flask, executor: Executor) -> None:
    def everything(*args: object, last: object) -> list[object]:
        return [*args, last]

    def view() -> None:
        assert request.files
        given: Any = [["a"], {"b": [1]}, ("c",), object(), request.form]
        result = executor.submit(everything, *given, last=given).result(TIMEOUT)
        assert list(map(id, result)) == list(map(id, [*given, given]))

    send(app, view, SMALL)


def test_upload_that_is_closed_is_refused(app: Flask, executor: Executor) -> None:
    def view() -> None:
        upload().close()
        with pytest.raises(RequestArgumentError) as caught:
            executor.submit(content_of, upload())
        assert str(caught.value) == (
            "content_of: argument 1 is an upload that is closed; submit the job before you close it"
        )

    send(app, view, SMALL)


@both_sizes
def test_upload_does_not_go_to_a_worker_process(
    app: Flask, executor: Executor, content: bytes
) -> None:
    app.config["EXECUTOR_TYPE"] = "process"

    def view() -> None:
        with pytest.raises(UnpicklableError, match=r"argument 1 .*read the file in the view"):
            executor.submit(content_of, upload())

    send(app, view, content)


# -- what is refused -----------------------------------------------------------------------------


def lines(stream: Any) -> Iterator[bytes]:
    yield from stream


async def alines(stream: Any) -> AsyncIterator[bytes]:
    yield stream.read()


def text() -> io.TextIOWrapper:
    if sys.version_info >= (3, 11):
        return io.TextIOWrapper(upload().stream)
    # Before, a temporary file cannot be wrapped: apps wrap what it keeps.
    stream: Any = upload().stream
    return io.TextIOWrapper(stream._file)


REQUEST = "the view's own request; use flask.request in the job, a copy of it"
BODY = "the body that the client sends; pass what request.get_data() gives"
STREAM = "the stream of an upload; pass the upload itself: the job gets a reader of its own"
READS = (
    "a generator that reads what ends with the request; "
    "pass what it reads, and make the generator in the job"
)
STREAMED = (
    "a generator in stream_with_context(), which holds the view's contexts; "
    "pass the generator without it: the job has contexts of its own"
)
RESPONSE = (
    "a response whose body the server reads; "
    "pass what the job needs of it, such as response.status_code"
)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: itself(request), REQUEST),
        (lambda: request.stream, BODY),
        (lambda: request.environ["wsgi.input"], BODY),
        (lambda: upload().stream, STREAM),
        (text, STREAM),
        (lambda: lines(upload()), READS),
        (lambda: alines(upload()), READS),
        (lambda: lines(upload().stream), READS),
        (lambda: lines(request.stream), READS),
        (lambda: (line for line in upload().stream), READS),
        (lambda: stream_with_context(lines([])), STREAMED),
        (lambda: Response(lines([])), RESPONSE),
    ],
)
def test_what_ends_with_the_request_is_refused_where_it_is_submitted(
    app: Flask, executor: Executor, make: Callable[[], Any], reason: str
) -> None:
    def ignore(given: object = None, *, named: object = None) -> None: ...

    submits: dict[str, Callable[[Any], object]] = {
        "submit": lambda given: executor.submit(ignore, given),
        "by keyword": lambda given: executor.submit(ignore, named=given),
        "partial": lambda given: executor.submit(partial(ignore, given)),
        "map": lambda given: executor.map(ignore, [given]),
        "stored": lambda given: executor.submit_stored("key", ignore, given),
        "later": lambda given: executor.after_response().submit(ignore, given),
    }

    def view() -> None:
        for name, submit in submits.items():
            given = make()
            with pytest.raises(RequestArgumentError) as caught:
                submit(given)
            part = "argument 'named'" if name == "by keyword" else "argument 1"
            assert str(caught.value) == f"{ignore.__qualname__}: {part} is {reason}"
            if isinstance(given, io.TextIOWrapper):
                given.detach()
            elif isinstance(given, Generator):
                given.close()  # before Flask 3.2, it has pushed the request's context once more
        assert len(executor.futures) == 0

    send(app, view, SMALL)


def test_methods_of_what_ends_with_the_request_are_refused(app: Flask, executor: Executor) -> None:
    def view() -> None:
        part = "the object of the method is"
        with pytest.raises(RequestArgumentError, match=f"{part} the view's own request"):
            executor.submit(request.get_data)
        with pytest.raises(RequestArgumentError, match=f"{part} the stream of an upload"):
            executor.submit(upload().stream.read)

    send(app, view, SMALL)


def test_what_does_not_end_with_the_request_is_taken(app: Flask, executor: Executor) -> None:
    def look(app: Any, g: Any, session: Any, request: Any, *rest: object) -> tuple[Any, ...]:
        return app.name, g.user, session["user"], request.method, *rest

    def view() -> None:
        g.user, session["user"] = "ada", "bob"
        rest = (Response("fine"), request.headers, request.environ)
        seen = executor.submit(look, current_app, g, session, request, *rest).result(TIMEOUT)
        assert seen == ("tests", "ada", "bob", "POST", *rest)
        squares = (number * number for number in range(4))
        assert executor.submit(sum, squares).result(TIMEOUT) == 14
        rows = csv.reader(["a,b"])
        assert executor.submit(list[Any], rows).result(TIMEOUT) == [["a", "b"]]

    send(app, view)


def test_arguments_of_a_job_that_submits_are_looked_at_too(app: Flask, executor: Executor) -> None:
    def job() -> str:
        assert request.path == "/"
        with pytest.raises(RequestArgumentError) as caught:
            executor.submit(len, itself(request))
        return str(caught.value)

    def view() -> None:
        assert executor.submit(job).result(TIMEOUT) == f"len: argument 1 is {REQUEST}"

    send(app, view)


# -- instances of a database session -------------------------------------------------------------


def test_instance_of_a_session_is_warned_of_in_debug_mode_with_the_line(
    app: Flask, executor: Executor
) -> None:
    reason = "flask-sqlalchemy needs Flask 2.2.5 or newer"
    flask_sqlalchemy = pytest.importorskip("flask_sqlalchemy", reason=reason)
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db: Any = flask_sqlalchemy.SQLAlchemy(app)

    User: Any = type("User", (db.Model,), {"id": db.Column(db.Integer, primary_key=True)})

    def look(user: Any) -> None: ...

    with app.app_context():
        db.create_all()
        user = User()
        db.session.add(user)
        db.session.commit()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            executor.submit(look, user).result(TIMEOUT)  # not in debug mode: it may be right
        app.debug = True
        with pytest.warns(UserWarning, match=r"argument 1 is a User of a .*primary key") as caught:
            executor.submit(look, user).result(TIMEOUT)
        assert [Path(warning.filename) for warning in caught] == [Path(__file__)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            executor.submit(look, User()).result(TIMEOUT)
            db.session.expunge(user)
            executor.submit(look, user).result(TIMEOUT)
        db.session.remove()
        db.engine.dispose()
