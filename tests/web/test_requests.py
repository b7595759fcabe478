"""Requests that are wrong, or that no page of ours makes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape

import pytest
from flask import Response, abort, request, session
from flask.typing import ResponseReturnValue
from flask.views import MethodView, View

from flask_executor_typed.web import JobsBlueprint

from ..conftest import TIMEOUT, until
from .shop import HTML, HTMX, Shop, json_of

VARIES = {"Prefer", "Accept", "HX-Request"}


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    shop.app.register_blueprint(shop.jobs)
    yield shop
    shop.go.set()
    shop.executor.shutdown()


# -- addresses and methods -----------------------------------------------------------------------


def test_the_list_without_its_slash_is_no_redirect_to_the_host_that_a_client_sends(
    shop: Shop,
) -> None:
    answer = shop.client.get("/jobs", headers={"Host": "evil.example"})
    assert (answer.status_code, answer.get_json()["jobs"]) == (200, [])
    assert "evil" not in str(answer.headers)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "", {"GET", "HEAD", "OPTIONS", "DELETE"}),
        ("GET", "/cancel", {"POST", "OPTIONS"}),
        ("POST", "/result", {"GET", "HEAD", "OPTIONS"}),
        ("DELETE", "/events", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_method_that_a_route_does_not_have_is_a_problem_in_the_clients_own_form(
    shop: Shop, method: str, path: str, allowed: set[str]
) -> None:
    address = shop.start() + path
    answer = shop.client.open(address, method=method)
    assert "only" in json_of(answer, 405)["detail"]
    assert set(answer.headers["Allow"].split(", ")) == allowed
    page = shop.client.open(address, method=method, headers=HTML)
    assert (page.status_code, page.mimetype) == (405, "text/html")
    assert "All jobs" in page.get_data(as_text=True)


def test_methods_of_the_apps_own_routes_are_the_apps_to_refuse(shop: Shop) -> None:
    @shop.app.get("/mine")
    def mine() -> str:
        return ""

    answer = shop.client.post("/mine")
    assert (answer.status_code, answer.mimetype) == (405, "text/html")
    assert "jobs" not in answer.get_data(as_text=True)


def test_an_error_handler_of_the_app_answers_for_a_wrong_method(shop: Shop) -> None:
    @shop.app.errorhandler(405)
    def sorry(error: object) -> ResponseReturnValue:
        return "sorry", 405

    assert shop.client.put(shop.start()).get_data() == b"sorry"


def test_a_range_beyond_the_end_is_a_problem_that_says_how_long_the_result_is(shop: Shop) -> None:
    address = shop.start("0123456789")
    shop.finish(address)
    url, beyond = f"{address}/result", {"Range": "bytes=99-"}
    answer = shop.client.get(url, headers=beyond)
    assert json_of(answer, 416)["job"] == address
    assert answer.headers["Content-Range"] == "bytes */13"
    page = shop.client.get(url, headers={**beyond, **HTML})
    assert (page.status_code, page.mimetype) == (416, "text/html")


# -- lists ---------------------------------------------------------------------------------------


def test_a_page_that_begins_after_an_unknown_job_is_a_problem(shop: Shop) -> None:
    mine, others = shop.start(), shop.start(query_string={"user": "bob"})
    job_id, other_id = (address.rpartition("/")[2] for address in (mine, others))
    assert shop.client.get(f"/jobs/?before={job_id}").get_json()["jobs"] == []
    unknown = shop.client.get("/jobs/?before=AAAAAAAAAAAAAAAAAAAAAA")
    assert "first page" in json_of(unknown, 404)["detail"]
    forbidden = shop.client.get(f"/jobs/?before={other_id}")
    assert (forbidden.status_code, forbidden.get_data()) == (404, unknown.get_data())
    assert shop.client.get(f"/jobs/?before={other_id}&user=root").status_code == 404
    page = shop.client.get("/jobs/?before=unknown", headers=HTML)
    assert (page.status_code, page.mimetype) == (404, "text/html")


def test_each_failure_that_an_operator_sees_counted_leads_to_the_jobs_that_it_counts() -> None:
    shop = Shop(operator=lambda: True)
    shop.app.register_blueprint(shop.jobs)
    with shop.executor:
        failed = [shop.start(ValueError("wrong")) for _ in range(2)]
        fine = shop.start()
        for address in (*failed, fine):
            shop.finish(address)
        page = shop.client.get("/jobs/", headers=HTML).get_data(as_text=True)
        urls = [unescape(url) for url in re.findall(r'class="ex-heat" href="([^"]+)">2<', page)]
        assert len(urls) == 5  # spans, each with its own
        assert len(set(urls)) == 5
        for url in urls:
            jobs = shop.client.get(url).get_json()["jobs"]
            assert {job["links"]["self"] for job in jobs} == set(failed)
            narrowed = shop.client.get(url, headers=HTML).get_data(as_text=True)
            assert "failed within" in narrowed
        wrong = shop.client.get("/jobs/?failed=soon")
        assert json_of(wrong, 400)["detail"] == "failed must be one of: 1 h, 3 h, 1 d, 3 d, 7 d."


# -- links ---------------------------------------------------------------------------------------


def test_links_are_those_that_work(shop: Shop) -> None:
    app, threads = shop.app, {"wsgi.multithread": True}
    streaming = JobsBlueprint(shop.executor, name="streaming", url_prefix="/s", streams=1)
    app.register_blueprint(streaming)
    address = shop.start()
    streamed = address.replace("/jobs/", "/s/")

    def links(url: str, *, has_threads: bool) -> set[str]:
        environ = threads if has_threads else {}
        return set(shop.client.get(url, environ_overrides=environ).get_json()["links"])

    assert links(streamed, has_threads=True) == {"self", "cancel", "events"}
    assert links(streamed, has_threads=False) == {"self", "cancel"}
    assert links(address, has_threads=True) == {"self", "cancel"}
    page = shop.client.get(streamed, headers=HTML)
    assert "data-ex-events" not in page.get_data(as_text=True)


# -- respond_async -------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", ["", "full", "large", "broken", "abort", "late"])
def test_every_answer_of_a_slow_view_names_the_headers_that_it_depends_on(
    shop: Shop, fails: str
) -> None:
    shop.app.config["MAX_CONTENT_LENGTH"] = 10

    @shop.app.post("/view")
    @shop.jobs.respond_async(wait=None)
    def view() -> str:
        if fails == "broken":
            raise ValueError("wrong")
        if fails == "abort":
            abort(409)
        if fails == "late":
            assert shop.go.wait(TIMEOUT)
        return ""

    if fails == "full":
        shop.app.config.from_mapping(EXECUTOR_MAX_WORKERS=1, EXECUTOR_MAX_PENDING=1)
        shop.executor.init_app(shop.app)
        running = shop.start()
        until(lambda: shop.client.get(running).get_json()["status"] == "running")
        shop.start()
    headers = {"Prefer": "respond-async"} if fails == "late" else {}
    data = {"a": "x" * (11 if fails == "large" else 1)}
    answer = shop.client.post("/view", data=data, headers=headers)
    statuses = {"": 200, "full": 503, "large": 413, "broken": 500, "abort": 409, "late": 202}
    assert answer.status_code == statuses[fails]
    assert set(answer.headers["Vary"].split(", ")) == VARIES


def test_what_a_view_says_that_its_answer_depends_on_is_kept(shop: Shop) -> None:
    @shop.app.get("/view")
    @shop.jobs.respond_async(wait=None)
    def view() -> Response:
        session["seen"] = True
        return Response("", headers={"Vary": "Accept-Language"})

    answer = shop.client.get("/view")
    assert set(answer.headers["Vary"].split(", ")) == {*VARIES, "Accept-Language", "Cookie"}


@pytest.mark.parametrize("how", ["above", "decorators", "methods"])
def test_a_view_class_runs_in_the_background_under_the_name_of_its_view(
    shop: Shop, how: str
) -> None:
    decorate = shop.jobs.respond_async(wait=0)

    class Report(View):
        decorators = [decorate] if how == "decorators" else []

        def dispatch_request(self, **values: str) -> ResponseReturnValue:
            assert shop.go.wait(TIMEOUT)
            return {"month": values["month"], "q": request.args["q"]}

    class Reports(MethodView):
        decorators = [decorate]  # noqa: RUF012

        async def get(self, month: str) -> ResponseReturnValue:
            assert shop.go.wait(TIMEOUT)
            return {"month": month, "q": request.args["q"]}

    view = (Reports if how == "methods" else Report).as_view("monthly_report")
    shop.app.add_url_rule("/report/<month>", view_func=decorate(view) if how == "above" else view)
    late = shop.client.get("/report/may?q=x")
    assert json_of(late, 202)["name"] == "monthly_report"
    address = late.headers["Location"]
    assert shop.finish(address)["status"] == "succeeded"
    assert shop.client.get(f"{address}/result").get_json() == {"month": "may", "q": "x"}
    assert shop.client.post("/report/may").status_code == 405
    assert "Monthly report" in shop.client.get(address, headers=HTMX | HTML).get_data(as_text=True)
