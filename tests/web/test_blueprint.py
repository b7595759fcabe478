"""Routes of jobs, and views that run as jobs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    after_this_request,
    g,
    make_response,
    request,
    send_file,
    session,
    stream_with_context,
)
from flask.typing import ResponseReturnValue
from markupsafe import Markup
from werkzeug.test import TestResponse

from flask_executor_typed import Executor, NotRegisteredError, UnsupportedError, current_job
from flask_executor_typed.web import JobsBlueprint, routes

from ..conftest import TIMEOUT, until
from .shop import HTML, HTMX, Shop, json_of

THREADS = {"wsgi.multithread": True}


@pytest.fixture(params=["memory", "sqlite"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    store = None if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"
    shop = Shop(store, streams=2)
    shop.app.register_blueprint(shop.jobs)
    yield shop
    shop.go.set()
    shop.executor.shutdown()


# -- accepted ------------------------------------------------------------------------------------


def test_a_job_is_accepted_followed_and_its_result_fetched(shop: Shop) -> None:
    @shop.app.post("/reports")
    def reports() -> Response:
        return shop.jobs.accepted(shop.executor.submit(shop.work, {"pages": 7}))

    answer = shop.client.post("/reports")
    document = json_of(answer, 202)
    address = answer.headers["Location"]
    assert address == f"/jobs/{document['id']}" == document["links"]["self"]
    assert (answer.headers["Retry-After"], answer.headers["Cache-Control"]) == ("2", "no-store")
    assert not document["done"]
    assert json_of(shop.client.get(f"{address}/result"), 202)["id"] == document["id"]
    done = shop.finish(address)
    assert (done["status"], done["done"], done["error"]) == ("succeeded", True, None)
    assert done["links"] == {"self": address, "result": f"{address}/result"}
    result = shop.client.get(f"{address}/result")
    assert result.get_json() == {"pages": 7}
    assert result.headers["Cache-Control"] == "private, no-cache"
    assert result.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert result.headers["X-Content-Type-Options"] == "nosniff"


def test_a_job_that_is_done_in_time_is_answered_with_its_result(shop: Shop) -> None:
    shop.go.set()

    @shop.app.get("/value")
    def value() -> Response:
        return shop.jobs.accepted(shop.executor.submit(shop.work, "<b>text</b>"), wait=TIMEOUT)

    answer = shop.client.get("/value")
    assert (answer.status_code, answer.get_json()) == (200, "<b>text</b>")
    assert answer.mimetype == "application/json"


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("report", "filename=report.bin"),
        ("Büro 1", "filename=\"Buro 1.bin\"; filename*=UTF-8''B%C3%BCro%201.bin"),
        ("報告", "filename=.bin; filename*=UTF-8''%E5%A0%B1%E5%91%8A.bin"),
        ("a\r\nX-Evil: 1", 'filename="a__X-Evil: 1.bin"'),
        ("../a", "filename=.._a.bin"),
        ("caf\udce9", "filename=caf.bin; filename*=UTF-8''caf%EF%BF%BD.bin"),
    ],
)
def test_bytes_are_a_file_whatever_the_job_is_called(
    shop: Shop, name: str, disposition: str
) -> None:
    with shop.app.test_request_context():
        future = shop.executor.using(name=name).submit(lambda: b"x")
        answer = shop.jobs.accepted(future, wait=TIMEOUT)
    assert answer.get_data() == b"x"
    assert answer.headers["Content-Disposition"] == f"attachment; {disposition}"


def test_a_value_that_json_cannot_hold_is_an_error_that_is_logged(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    address = shop.start(object())
    done = shop.finish(address)
    is_stored = shop.app.config["EXECUTOR_STORE"] is not None
    problem = json_of(shop.client.get(f"{address}/result"), 410 if is_stored else 500)
    assert problem["type"].endswith(":result-gone" if is_stored else ":failed")
    assert ("result" in done["links"]) is not is_stored
    assert [message[:13] for message in caplog.messages] == ["The result of"]


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_a_number_that_json_cannot_hold_is_an_error_that_is_logged(
    shop: Shop, caplog: pytest.LogCaptureFixture, number: str
) -> None:
    address = shop.start({"numbers": [1.5, float(number)]})
    shop.finish(address)
    problem = json_of(shop.client.get(f"{address}/result"), 500)
    assert problem["type"].endswith(":failed")
    assert "ValueError: JSON has no " in caplog.text
    shop.go.clear()
    text = shop.start(["NaN", "-Infinity"])
    shop.finish(text)
    assert shop.client.get(f"{text}/result").get_json() == ["NaN", "-Infinity"]


@pytest.mark.parametrize("in_a_file", [False, True])
def test_a_response_that_a_job_returns_is_its_result(
    shop: Shop, tmp_path: Path, in_a_file: bool
) -> None:
    path = tmp_path / "report.csv"
    path.write_bytes(b"a;b\n" * 1000)
    headers = {"X-Rows": "1000", "Content-Disposition": "attachment"}

    def report() -> Response:
        shop.work()
        if not in_a_file:
            return Response(path.read_bytes(), 203, headers, mimetype="text/csv")
        response = send_file(path)
        response.status_code = 203
        response.headers.update(headers)
        return response

    with shop.app.test_request_context("/start"):
        address = shop.jobs.accepted(shop.executor.submit(report)).headers["Location"]
    assert shop.finish(address)["links"]["result"] == f"{address}/result"
    for _ in range(2):
        result = shop.client.get(f"{address}/result")
        assert (result.status_code, result.get_data()) == (203, b"a;b\n" * 1000)
        assert (result.headers["X-Rows"], result.mimetype) == ("1000", "text/csv")
        assert result.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
        assert set(result.headers["Cache-Control"].split(", ")) == {"private", "no-cache"}


# -- failures --------------------------------------------------------------------------------------


def test_users_never_see_tracebacks_and_logs_and_operators_do(shop: Shop) -> None:
    address = shop.start(ValueError("secret"))
    assert shop.finish(address)["status"] == "failed"
    for url in (address, f"{address}/result", f"{address}/fragment", "/jobs/"):
        for headers in ({}, HTML, HTMX):
            text = shop.client.get(url, headers=headers).get_data(as_text=True)
            assert "secret" not in text
            assert "Traceback" not in text
            assert "logged" not in text
    page = shop.client.get(f"{address}?user=root", headers=HTML).get_data(as_text=True)
    assert "Traceback" in page
    assert "ValueError: secret" in page
    assert "Last lines of its log" in page
    assert "WARNING shop: logged &lt;b&gt;secret&lt;/b&gt;" in page
    fragment = shop.client.get(f"{address}/fragment?user=root", headers=HTMX)
    assert "logged" not in fragment.get_data(as_text=True)  # which may be in a page of the app's


def test_a_late_view_has_its_log_from_the_first_line(shop: Shop) -> None:
    logged = threading.Event()

    @shop.app.get("/slow")
    @shop.jobs.respond_async(wait=0.0)
    def slow() -> str:
        shop.app.logger.warning("first line")
        logged.set()
        assert shop.go.wait(TIMEOUT)
        return ""

    address = shop.client.get("/slow").headers["Location"]
    assert logged.wait(TIMEOUT)
    shop.finish(address)
    page = shop.client.get(f"{address}?user=root", headers=HTML).get_data(as_text=True)
    assert "WARNING shop: first line" in page


def test_an_error_handler_of_the_app_answers_for_a_failed_job(shop: Shop) -> None:
    @shop.app.errorhandler(500)
    def sorry(error: Any) -> ResponseReturnValue:
        assert isinstance(error.original_exception, ValueError)  # in every process
        return f"sorry: {error.original_exception}", 500

    address = shop.start(ValueError("wrong"))
    shop.finish(address)
    text = shop.client.get(f"{address}/result").get_data(as_text=True)
    assert text.startswith("sorry: ")
    assert "wrong" in text


# -- cancelling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["DELETE", "POST"])
def test_a_job_is_asked_to_end_and_cancelled_when_it_does(shop: Shop, method: str) -> None:
    def stubborn() -> None:
        assert shop.go.wait(TIMEOUT)
        current_job.raise_if_cancelled()

    with shop.app.test_request_context():
        future = shop.executor.submit(stubborn)
        address = shop.jobs.accepted(future).headers["Location"]
    until(future.running)
    url = address if method == "DELETE" else f"{address}/cancel"
    asked = json_of(shop.client.open(url, method=method), 202)
    assert asked["cancel_requested"]
    assert "cancel" not in asked["links"]
    assert shop.finish(address)["status"] == "cancelled"
    assert json_of(shop.client.open(url, method=method))["status"] == "cancelled"
    assert json_of(shop.client.get(f"{address}/result"), 410)["type"].endswith(":cancelled")


# -- who may see what ------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [None, "yes", 1, ValueError("broken"), "abort"])
def test_only_true_itself_allows(answer: object) -> None:
    def authorize(job: object) -> Any:
        if answer == "abort":
            abort(401)
        if isinstance(answer, Exception):
            raise answer
        return answer

    shop = Shop(authorize=authorize, operator=None)
    shop.app.register_blueprint(shop.jobs)
    with shop.executor:
        address = shop.start()
        assert shop.client.get(address).status_code == 404
        assert shop.client.get("/jobs/").get_json()["jobs"] == []
        shop.go.set()


def test_a_job_without_a_user_is_nobodys_and_its_view_warns_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Flask("anonymous")
    go = threading.Event()
    with Executor(app, user=lambda: None) as executor:
        jobs = JobsBlueprint(executor)
        app.register_blueprint(jobs)

        @app.get("/accepted")
        def accepted() -> Response:
            return jobs.accepted(executor.submit(go.wait, TIMEOUT))

        @app.get("/late")
        @jobs.respond_async(wait=0)
        def late() -> str:
            assert go.wait(TIMEOUT)
            return ""

        client = app.test_client()
        for view in ("accepted", "late"):
            addresses = [client.get(f"/{view}").headers["Location"] for _ in range(2)]
            assert [client.get(address).status_code for address in addresses] == [404, 404]
            (message,) = caplog.messages
            assert message.startswith(f"{view} answers 202, but its client cannot ask for the job")
            caplog.clear()
        go.set()


def test_somebody_must_say_who_may_see_a_job(app: Flask) -> None:
    with Executor(app) as executor, pytest.raises(ValueError, match="authorize"):
        JobsBlueprint(executor)


def test_script_in_names_messages_and_errors_is_escaped(shop: Shop) -> None:
    script = "<script>alert(1)</script>"

    def work() -> None:
        current_job.progress(1, 2, script)
        assert shop.go.wait(TIMEOUT)
        raise ValueError(script)

    with shop.app.test_request_context():
        future = shop.executor.using(name=script, key=script).submit(work)
        address = shop.jobs.accepted(future).headers["Location"]
    until(lambda: json_of(shop.client.get(address))["progress"])
    for _ in range(2):
        for url in (
            f"{address}?user=root",
            f"{address}/fragment?user=root",
            "/jobs/?user=root",
            "/jobs/?status=<script>alert(1)</script>",
        ):
            page = shop.client.get(url, headers=HTML)
            assert script not in page.get_data(as_text=True)
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        shop.finish(address)


def test_half_a_surrogate_pair_is_shown_as_a_replacement_character(shop: Shop) -> None:
    for_operators = JobsBlueprint(shop.executor, operator=lambda: True, name="all")
    shop.app.register_blueprint(for_operators, url_prefix="/all")
    file = "caf\udce9.csv"  # as os.listdir() returns a name that is not UTF-8

    def work() -> Markup:
        shop.app.logger.warning("logged %s", file)
        current_job.progress(1, 2, f"Reading {file}")
        assert shop.go.wait(TIMEOUT)
        return Markup(f"<b>{file}</b>")

    with shop.app.test_request_context():
        future = shop.executor.using(name=file, labels={"file": file}).submit(work)
        address = shop.jobs.accepted(future).headers["Location"]
    until(lambda: json_of(shop.client.get(address))["progress"])
    document = json_of(shop.client.get(address))
    assert (document["name"], document["progress"]["message"]) == (
        "caf\ufffd.csv",
        "Reading caf\ufffd.csv",
    )
    for _ in range(2):
        for url in (address, f"{address}?user=root", f"{address}/fragment", "/jobs/", "/all/"):
            page = shop.client.get(url, headers=HTML)
            assert "caf\ufffd.csv" in page.get_data(as_text=True)
        shop.finish(address)
    result = shop.client.get(f"{address}/result")
    assert result.get_data(as_text=True) == "<b>caf\ufffd.csv</b>"


# -- pages and lists -------------------------------------------------------------------------------


def test_a_browser_is_sent_to_the_page_of_its_job(shop: Shop) -> None:
    @shop.app.post("/reports")
    def reports() -> Response:
        return shop.jobs.accepted(shop.executor.submit(shop.work))

    answer = shop.client.post("/reports", headers=HTML)
    assert answer.status_code == 303
    page = shop.client.get(answer.headers["Location"], headers=HTML)
    text = page.get_data(as_text=True)
    assert 'role="status"' in text
    assert '<meta http-equiv="refresh" content="2">' in text
    still = shop.client.get(answer.headers["Location"] + "&refresh=0", headers=HTML)
    assert "http-equiv" not in still.get_data(as_text=True)
    cancelled = shop.client.post(
        answer.headers["Location"].replace("?follow=1", "/cancel"), headers=HTML
    )
    assert cancelled.status_code == 303


def test_htmx_is_shown_that_a_job_is_gone_and_asks_no_more(shop: Shop) -> None:
    gone = shop.client.get("/jobs/AAAAAAAAAAAAAAAAAAAAAA/fragment", headers=HTMX)
    assert gone.status_code == 286  # htmx swaps in no 404, and would go on polling
    text = gone.get_data(as_text=True)
    assert "This job is no longer known here." in text
    assert "hx-" not in text


@pytest.mark.parametrize("header", ["HX-Boosted", "HX-History-Restore-Request"])
def test_htmx_gets_pages_where_it_opens_them_in_place_of_the_browser(
    shop: Shop, header: str
) -> None:
    @shop.app.post("/reports")
    def reports() -> Response:
        return shop.jobs.accepted(shop.executor.submit(shop.work))

    headers = {**HTMX, header: "true", "Accept": "*/*"}
    answer = shop.client.post("/reports", headers=headers)
    assert answer.status_code == 303
    for url in (answer.headers["Location"], "/jobs/"):
        page = shop.client.get(url, headers=headers)
        assert page.get_data(as_text=True).startswith("<!doctype html>")
    assert shop.client.get("/jobs/none", headers=headers).mimetype == "text/html"


def test_the_list_has_ones_own_jobs_and_for_operators_all(shop: Shop) -> None:
    mine = [shop.start(number) for number in range(3)]
    other = shop.start(query_string={"user": "bob"})
    for address in mine:
        shop.finish(address)
    until(lambda: shop.client.get(f"{other}?user=bob").get_json()["done"])
    listed = shop.client.get("/jobs/").get_json()
    assert [job["links"]["self"] for job in listed["jobs"]] == mine[::-1]
    assert listed["counts"] == {"succeeded": 3}
    every = shop.client.get("/jobs/?user=root&status=succeeded", headers=HTML)
    assert every.status_code == 200
    assert shop.client.get("/jobs/?status=nonsense").status_code == 400
    operators = shop.client.get("/jobs/", query_string={"user": "root"}, headers=HTML)
    assert "Times" in operators.get_data(as_text=True)
    assert "Times" not in shop.client.get("/jobs/", headers=HTML).get_data(as_text=True)


def test_operators_see_how_long_the_oldest_job_has_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class InAnHour(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(hours=1)

    monkeypatch.setattr(routes, "datetime", InAnHour)
    monkeypatch.setattr(routes, "_WINDOW", 1)
    shop = Shop(operator=lambda: True)
    shop.app.config["EXECUTOR_MAX_WORKERS"] = 1
    shop.executor.init_app(shop.app)
    shop.app.register_blueprint(shop.jobs)

    def oldest() -> str:
        page = shop.client.get("/jobs/", headers=HTML).get_data(as_text=True)
        return page.partition("<dt>Oldest waits</dt><dd>")[2].partition("</dd>")[0]

    with shop.executor:
        running = shop.start()
        until(lambda: shop.client.get(running).get_json()["status"] == "running")
        assert oldest() == "0 s"
        shop.start()
        shop.client.delete(shop.start())  # it fills the window of the other figures
        assert oldest() == "1 h"
        shop.start()
        assert oldest() == "&gt; 1 h"
        shop.go.set()


def test_assets_are_kept_under_an_address_that_changes_with_them(shop: Shop) -> None:
    page = shop.client.get("/jobs/", headers=HTML).get_data(as_text=True)
    start = page.index("/jobs/static/jobs.css")
    url = page[start : page.index('"', start)]
    with shop.client.get(url) as kept:
        assert "max-age=31536000" in kept.headers["Cache-Control"]
    with shop.client.get("/jobs/static/jobs.css") as asked_again:
        assert "max-age" not in asked_again.headers["Cache-Control"]
    assert shop.client.get("/jobs/static/nothing.css?v=1").status_code == 404


def test_a_nested_blueprint_below_a_prefix_links_to_itself() -> None:
    shop = Shop()
    outer = Blueprint("outer", __name__, url_prefix="/outer")
    outer.register_blueprint(shop.jobs)
    shop.app.register_blueprint(outer)
    with shop.executor:
        address = shop.start(base_url="http://localhost/mounted")
        assert address.startswith("/mounted/outer/jobs/")
        shop.go.set()


# -- events ----------------------------------------------------------------------------------------


def test_events_tell_of_each_state_and_places_come_back(shop: Shop) -> None:
    address = shop.start()
    streams = [
        shop.client.get(f"{address}/events", environ_overrides=THREADS, buffered=False)
        for _ in range(2)
    ]
    assert streams[0].mimetype == "text/event-stream"
    refused = shop.client.get(f"{address}/events", environ_overrides=THREADS)
    assert json_of(refused, 503)["detail"] == "No stream is free; poll the job instead."
    streams[1].close()  # a client that is gone before the body begins
    head = shop.client.head(f"{address}/events", environ_overrides=THREADS)
    assert head.status_code == 200
    shop.go.set()
    frames = streams[0].get_data(as_text=True)
    assert frames.startswith("retry: 2000\n\nevent: ")
    last = frames.strip().split("\n\n")[-1].splitlines()
    assert last[0] == "event: done"
    assert '"succeeded"' in last[2]
    seen = {"Last-Event-ID": last[1].removeprefix("id: ")}
    over = shop.client.get(f"{address}/events", environ_overrides=THREADS, headers=seen)
    assert over.status_code == 204
    for _ in range(3):
        again = shop.client.get(f"{address}/events", environ_overrides=THREADS)
        assert again.get_data(as_text=True).count("event: ") == 1


def test_a_server_without_threads_refuses_events(shop: Shop) -> None:
    address = shop.start()
    one = {"wsgi.multithread": False}
    json_of(shop.client.get(f"{address}/events", environ_overrides=one), 503)


# -- respond_async ---------------------------------------------------------------------------------


def test_a_view_in_time_answers_as_always(shop: Shop) -> None:
    @shop.app.after_request
    def mark(response: Response) -> Response:
        response.headers["X-Tenant"] = str(g.get("tenant"))
        return response

    @shop.app.route("/view/<name>", methods=["POST"])
    @shop.jobs.respond_async(wait=None)
    def view(name: str) -> ResponseReturnValue:
        session["visits"] = 1
        g.tenant = "north"

        @after_this_request
        def also(response: Response) -> Response:
            response.headers["X-After"] = "1"
            return response

        response = make_response(f"{name} {request.form['a']}", 201)
        response.set_cookie("seen", "yes")
        return response

    answer = shop.client.post("/view/ada", data={"a": "b"})
    assert (answer.status_code, answer.get_data(as_text=True)) == (201, "ada b")
    assert (answer.headers["X-Tenant"], answer.headers["X-After"]) == ("north", "1")
    cookies = " ".join(answer.headers.getlist("Set-Cookie"))
    assert "seen=yes" in cookies
    assert "session=" in cookies
    assert "Prefer" in answer.headers["Vary"]
    assert shop.client.get("/jobs/").get_json()["jobs"] == []


def test_a_late_view_gives_exactly_its_answer_later(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    @shop.app.get("/view")
    @shop.jobs.respond_async(wait=0)
    def view() -> ResponseReturnValue:
        assert shop.go.wait(TIMEOUT)
        session["late"] = True
        pieces = (f"{number} {request.args['q']}\n" for number in range(3))
        headers = {"X-Rows": "3", "Set-Cookie": "a=b", "Cache-Control": "public, max-age=60"}
        return Response(stream_with_context(pieces), 203, headers, mimetype="text/csv")

    answer = shop.client.get("/view?q=x", headers={"Range": "bytes=0-0", "If-None-Match": "*"})
    address = answer.headers["Location"]
    assert json_of(answer, 202)["name"] == "view"
    assert shop.finish(address)["status"] == "succeeded"
    result = shop.client.get(f"{address}/result")
    assert (result.status_code, result.get_data()) == (203, b"0 x\n1 x\n2 x\n")
    assert (result.mimetype, result.headers["X-Rows"]) == ("text/csv", "3")
    assert result.headers["Cache-Control"] == "private, no-cache"
    assert "Set-Cookie" not in result.headers
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "its cookies cannot reach the client" in caplog.messages[0]


def test_a_long_poll_that_cannot_wait_does_not_say_that_it_has() -> None:
    shop = Shop(long_polls=0)
    shop.app.register_blueprint(shop.jobs)
    with shop.executor:
        address, answers = shop.start(), list[TestResponse]()
        for url in (address, f"{address}/result"):
            answers.append(shop.client.get(url, headers={"Prefer": "respond-async, wait=1"}))
        shop.go.set()
    for answer in answers:
        assert answer.headers["Preference-Applied"] == "respond-async"


def test_an_exception_in_time_is_the_requests_and_logged_once(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    @shop.app.get("/view")
    @shop.jobs.respond_async()
    def view() -> str:
        raise ValueError("wrong")

    assert shop.client.get("/view").status_code == 500
    assert caplog.messages == ["Exception on /view [GET]"]


def test_an_async_view_runs_on_the_executors_loop(shop: Shop) -> None:
    threads: set[int] = set()

    @shop.app.get("/view")
    @shop.jobs.respond_async()
    async def view() -> ResponseReturnValue:
        threads.add(threading.get_ident())
        await asyncio.sleep(0)
        if "fail" in request.args:
            abort(418, "tea")
        return {"a": request.args["a"]}

    assert [shop.client.get("/view?a=1").get_json() for _ in range(2)] == [{"a": "1"}] * 2
    assert len(threads) == 1
    assert shop.client.get("/view?fail=1").status_code == 418


def test_a_file_answers_conditions_of_the_request(shop: Shop, tmp_path: Any) -> None:
    path = tmp_path / "report.csv"
    path.write_bytes(b"0123456789")

    @shop.app.get("/view")
    @shop.jobs.respond_async()
    def view() -> Response:
        return send_file(path)

    whole = shop.client.get("/view")
    assert whole.get_data() == b"0123456789"
    part = shop.client.get("/view", headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.get_data()) == (206, b"234")
    same = shop.client.get("/view", headers={"If-None-Match": whole.headers["ETag"]})
    assert same.status_code == 304


def test_a_view_without_the_blueprint_is_refused_before_it_runs() -> None:
    shop = Shop()
    ran: list[int] = []

    @shop.app.get("/view")
    @shop.jobs.respond_async()
    def view() -> str:
        ran.append(1)
        return ""

    shop.app.testing = True
    with shop.executor, pytest.raises(NotRegisteredError, match="'jobs' is not registered"):
        shop.client.get("/view")
    assert ran == []


def test_a_decorator_without_parentheses_is_refused() -> None:
    shop = Shop()
    decorate: Any = shop.jobs.respond_async
    with shop.executor, pytest.raises(TypeError, match=r"write @jobs.respond_async\(\), with"):
        decorate(lambda: "")


def test_a_view_cannot_run_in_another_process() -> None:
    app = Flask("processes")
    app.config["EXECUTOR_TYPE"] = "process"
    app.testing = True
    with Executor(app, user=lambda: "ada") as executor:
        jobs = JobsBlueprint(executor)
        app.register_blueprint(jobs)

        @app.get("/view")
        @jobs.respond_async()
        def view() -> str:
            return ""

        with pytest.raises(UnsupportedError, match="another process cannot run a view"):
            app.test_client().get("/view")


# -- a store that cannot be used -----------------------------------------------------------------


def test_a_store_that_is_down_is_a_503_and_a_late_view_is_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop = Shop("redis://127.0.0.1:1/0")
    shop.app.register_blueprint(shop.jobs)
    ids: list[str] = []

    @shop.app.get("/view")
    @shop.jobs.respond_async(wait=0)
    async def view() -> str:
        await asyncio.Event().wait()  # for ever, unless it is cancelled
        return ""

    @shop.app.post("/reports")
    def reports() -> Response:
        future = shop.executor.using(name="report").submit(shop.work)
        ids.append(future.id)
        return shop.jobs.accepted(future)

    with shop.executor:
        late = shop.client.get("/view")
        assert json_of(late, 503)["detail"].endswith("Please try again.")
        assert late.headers["Retry-After"] == "2"
        json_of(shop.client.post("/reports"), 503)
        (job_id,) = ids
        assert any(f"report [{job_id}] goes on" in message for message in caplog.messages)
        json_of(shop.client.get(f"/jobs/{job_id}"), 503)
        page = shop.client.get(f"/jobs/{job_id}", headers=HTML)
        assert (page.status_code, page.mimetype) == (503, "text/html")
        assert page.headers["Retry-After"] == "2"
        shop.go.set()


def test_a_user_that_is_no_text_is_an_error_of_the_late_view_which_is_cancelled() -> None:
    app = Flask("numbers")
    app.testing = True
    ended: list[str] = []
    with Executor(app, user=lambda: 7) as executor:  # type: ignore[arg-type, return-value]
        jobs = JobsBlueprint(executor)
        app.register_blueprint(jobs)

        @app.get("/view")
        @jobs.respond_async(wait=0)
        async def view() -> str:
            await asyncio.sleep(TIMEOUT)
            ended.append("by itself")
            return ""

        with pytest.raises(TypeError, match="user function returned 7: expected text, or None"):
            app.test_client().get("/view")
    assert ended == []


def test_a_late_view_may_not_be_larger_than_results(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop()
    shop.app.config["EXECUTOR_STORE_MAX_RESULT_BYTES"] = 1000
    shop.executor.init_app(shop.app)
    shop.app.register_blueprint(shop.jobs)

    @shop.app.get("/view")
    @shop.jobs.respond_async(wait=None)
    def view() -> str:
        assert shop.go.wait(TIMEOUT)
        return "x" * 1001

    with shop.executor:
        late = shop.client.get("/view", headers={"Prefer": "respond-async"})
        assert shop.finish(late.headers["Location"])["status"] == "failed"
        assert "larger than 1000 bytes" in caplog.text
        assert shop.client.get("/view").status_code == 200  # in time, ten times as much


def test_a_late_view_keeps_its_cookies_for_its_user_alone(shop: Shop) -> None:
    @shop.app.get("/view")
    @shop.jobs.respond_async(wait=0, keep_cookies=True)
    def view() -> Response:
        assert shop.go.wait(TIMEOUT)
        response = Response("done")
        response.set_cookie("seen", "yes")
        return response

    address = shop.client.get("/view").headers["Location"]
    shop.finish(address)
    others = shop.app.test_client()
    for_operator = others.get(f"{address}/result?user=root")
    assert (for_operator.get_data(), "Set-Cookie" in for_operator.headers) == (b"done", False)
    mine = shop.client.get(f"{address}/result")
    assert mine.headers["Set-Cookie"].startswith("seen=yes")
