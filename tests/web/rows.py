"""What the routes of jobs, and slow views, promise to HTTP clients: one function for each row.

They know a client and the gates that jobs wait at, so they hold in one process without a server as
well as behind each server: see test_rows.py, and tests/integration/test_web_servers.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from jsonschema import Draft202012Validator

from flask_executor_typed.web import job_schema, problem_schema

from ..apps.served_rows import LARGE, SCRIPT
from ..apps.served_rows import __file__ as served_file
from ..helpers.answers import found_the_store_busy

__all__ = ("ROWS", "Row", "Site")

HTML = {"Accept": "text/html"}
HTMX = {"HX-Request": "true"}
LATE = {"Prefer": "respond-async"}

SCHEMAS: dict[str, Any] = {
    "application/json": Draft202012Validator(job_schema()),
    "application/problem+json": Draft202012Validator(problem_schema()),
}


@dataclass
class Site:
    """A served app, from outside."""

    http: httpx.Client
    folder: Path
    has_threads: bool = True
    _numbers: count[int] = field(default_factory=count)
    _name: str = field(default_factory=lambda: uuid4().hex)

    def gate(self, *, is_open: bool = False) -> str:
        """Return the name of a gate that no other job waits at."""
        name = f"{self._name}-{next(self._numbers)}"
        if is_open:
            self.open(name)
        return name

    def open(self, gate: str) -> None:
        (self.folder / gate).touch()

    def ask(self, method: str, url: str, **headers: str) -> httpx.Response:
        if method == "GET":
            return self.get(url, _named(headers))
        return self.http.request(method, url, headers=_named(headers))

    def get(self, url: str, headers: dict[str, str] | None = None) -> httpx.Response:
        while True:
            answer = self.http.get(url, headers=headers)
            if not found_the_store_busy(answer):
                return answer

    def in_time(self, url: str, **headers: str) -> httpx.Response:
        """Return the answer of a view that need not wait."""
        return self.get(_at(self.gate(is_open=True), url), _named(headers))

    def late(self, url: str, **headers: str) -> tuple[str, str]:
        """Have a view or job wait; returns its address, and its gate."""
        gate = self.gate()
        answer = self.get(_at(gate, url), {**LATE, **_named(headers)})
        assert answer.status_code == 202, answer.text
        return answer.headers["Location"], gate

    def done(self, url: str, **headers: str) -> str:
        """Return the address of a job, or a late view, that has ended."""
        address, gate = self.late(url, **headers)
        self.open(gate)
        self.end_of(address)
        return address

    def end_of(self, address: str) -> Any:
        """Return a job once it has ended."""
        while True:
            document = document_of(self.get(address, {"Prefer": "wait=10"}))
            if document["done"]:
                return document

    def result(self, url: str, **headers: str) -> httpx.Response:
        """Return what a job, or a late view, has for its user in the end."""
        return self.ask("GET", f"{self.done(url)}/result", **headers)


def _at(gate: str, url: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}gate={gate}"


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): text for name, text in headers.items()}


def document_of(answer: httpx.Response, status: int = 200) -> Any:
    """Return the JSON of an answer with this status, once it is known to fit its schema."""
    assert answer.status_code == status, answer.text
    document = answer.json()
    validator = SCHEMAS[answer.headers["Content-Type"].partition(";")[0]]
    assert [error.message for error in validator.iter_errors(document)] == []
    return document


Row = Callable[[Site], None]
ROWS: list[Row] = []


def row(function: Row) -> Row:
    ROWS.append(function)
    return function


# -- what a view uses ------------------------------------------------------------------------------


@row
def a_session_is_saved_in_time_and_lost_late(site: Site) -> None:
    assert "session=" in site.in_time("/view/session").headers["Set-Cookie"]
    result = site.result("/view/session")
    assert (result.text, "Set-Cookie" in result.headers) == ("in the session", False)


@row
def cookies_are_set_in_time_and_dropped_late(site: Site) -> None:
    assert site.in_time("/view/cookie").headers["Set-Cookie"].startswith("seen=yes")
    assert "Set-Cookie" not in site.result("/view/cookie").headers


@row
def cookies_that_are_kept_are_for_the_user_alone(site: Site) -> None:
    address = site.done("/keeping/cookie")
    assert site.get(f"{address}/result").headers["Set-Cookie"].startswith("seen=yes")
    others = site.get(f"{address}/result?user=root")
    assert (others.text, "Set-Cookie" in others.headers) == ("with a cookie", False)


@row
def g_is_seen_after_the_request_in_time_only(site: Site) -> None:
    assert site.in_time("/view/tenant").headers["X-Tenant"] == "north"
    result = site.result("/view/tenant")
    assert (result.text, result.headers["X-Tenant"]) == ("of a tenant", "None")


@row
def forms_and_uploads_are_read_before_the_job(site: Site) -> None:
    upload: Any = {"data": {"a": "b"}, "files": {"file": ("a.csv", b"x")}}
    expected = {"form": {"a": "b"}, "files": ["a.csv"]}
    gate = site.gate(is_open=True)
    assert site.http.post(f"/view/form?gate={gate}", **upload).json() == expected
    gate = site.gate()
    late = site.http.post(f"/view/form?gate={gate}", headers=LATE, **upload)
    site.open(gate)
    site.end_of(late.headers["Location"])
    assert site.get(f"{late.headers['Location']}/result").json() == expected


@row
def conditions_and_ranges_are_for_the_whole_answer(site: Site) -> None:
    whole = Path(served_file).read_bytes()
    conditions = {"Range": "bytes=4-9", "If_None_Match": "*"}
    part = site.in_time("/view/file", Range="bytes=4-9")
    assert (part.status_code, part.content) == (206, whole[4:10])
    address = site.done("/view/file", **conditions)
    result = site.get(f"{address}/result")
    assert (result.status_code, result.content) == (200, whole)
    assert result.headers["Content-Disposition"] == "attachment; filename=served_rows.py"
    url = f"{address}/result"
    assert site.get(url, {"If-None-Match": result.headers["ETag"]}).status_code == 304
    part = site.get(url, {"Range": "bytes=4-9"})
    assert (part.status_code, part.content) == (206, whole[4:10])
    beyond = site.get(url, {"Range": "bytes=9999999-"})
    assert document_of(beyond, 416)["job"] == address


@row
def answers_of_any_status_are_exactly_the_views(site: Site) -> None:
    for kind, status, name, value in (
        ("plain", 201, "X-Rows", "3"),
        ("redirect", 302, "Location", "/elsewhere"),
        ("empty", 204, "X-Tenant", "None"),
        ("refused", 409, "Content-Type", "text/html; charset=utf-8"),
        ("busy", 429, "Retry-After", "60"),
        ("own", 418, "X-Rows", "2"),
        ("stream", 200, "Content-Type", "text/csv; charset=utf-8"),
    ):
        now, later = site.in_time(f"/view/{kind}"), site.result(f"/view/{kind}")
        for answer in (now, later):
            assert answer.status_code == status, kind
            assert answer.headers[name].endswith(value)  # Werkzeug 2.0 puts the host before a path
        assert now.content == later.content


@row
def an_exception_is_the_apps_own_error(site: Site) -> None:
    now = site.in_time("/view/error")
    assert (now.status_code, "secret" in now.text) == (500, False)
    address = site.done("/view/error")
    document = document_of(site.get(address))
    assert (document["status"], document["error"]["detail"]) == ("failed", None)
    problem = document_of(site.get(f"{address}/result"), 500)
    assert (problem["type"], problem["job"]) == ("urn:flask-executor:failed", address)


@row
def a_large_answer_is_sent_in_time_and_fails_late(site: Site) -> None:
    assert len(site.in_time("/view/large").content) == LARGE
    assert site.result("/view/large").status_code == 500


@row
def an_async_view_is_as_any_other(site: Site) -> None:
    assert site.in_time("/async/plain").text == "plain"
    result = site.result("/async/plain")
    assert (result.status_code, result.text, result.headers["X-Rows"]) == (201, "plain", "3")


# -- Prefer ----------------------------------------------------------------------------------------


@row
def a_client_decides_how_long_it_waits(site: Site) -> None:
    for header, applied in (
        ("respond-async", "respond-async"),
        ("Respond-Async", "respond-async"),
        ("wait=0", "wait=0"),
        ("respond-async, wait=0", "respond-async, wait=0"),
        ("wait=0, wait=9", "wait=0"),
        ("foo; x=y, respond-async", "respond-async"),
    ):
        gate = site.gate()
        late = site.get(f"/view/plain?gate={gate}", {"Prefer": header})
        assert (late.status_code, late.headers["Preference-Applied"]) == (202, applied)
        site.open(gate)
        in_time = site.get(f"/view/plain?gate={gate}", {"Prefer": f"{header}, wait=10"})
        assert set(late.headers["Vary"].split(", ")) == {"Prefer", "Accept", "HX-Request"}
        assert set(in_time.headers["Vary"].split(", ")) == {"Prefer", "Accept", "HX-Request"}


@row
def a_wait_that_is_no_number_or_too_long_is_not_applied(site: Site) -> None:
    for header in ("wait=x", "wait=-1", "wait=1234567", "wait=999999"):
        answer = site.in_time("/view/plain", Prefer=header)
        assert (answer.status_code, "Preference-Applied" in answer.headers) == (201, False)


@row
def a_client_that_prefers_nothing_waits_as_long_as_the_view_says(site: Site) -> None:
    gate = site.gate()
    late = site.get(f"/hasty/plain?gate={gate}")
    assert (late.status_code, "Preference-Applied" in late.headers) == (202, False)
    site.open(gate)
    assert site.end_of(late.headers["Location"])["status"] == "succeeded"


# -- representations -------------------------------------------------------------------------------


@row
def each_client_gets_its_own_form_of_not_yet(site: Site) -> None:
    gate = site.gate()
    url = f"/job/none?gate={gate}"
    for accept in ("*/*", "application/json", "application/json, text/html;q=0.5"):
        late = site.get(url, {"Accept": accept})
        document = document_of(late, 202)
        assert late.headers["Location"] == document["links"]["self"] == f"/jobs/{document['id']}"
        assert (late.headers["Cache-Control"], late.headers["Retry-After"]) == ("no-store", "2")
    browser = site.get(url, HTML)
    assert (browser.status_code, browser.headers["Location"][:6]) == (303, "/jobs/")
    page = site.get(browser.headers["Location"], HTML)
    assert 'role="status"' in page.text
    assert '<meta http-equiv="refresh" content="2">' in page.text
    htmx = site.get(url, HTMX)
    assert (htmx.status_code, 'hx-trigger="every 2s"' in htmx.text) == (202, True)
    assert site.get(url, {**HTMX, "HX-Boosted": "true"}).status_code == 303
    site.open(gate)
    site.end_of(htmx.headers["Location"])
    followed = site.get(f"{htmx.headers['Location']}?follow=1", HTML)
    assert followed.headers["Location"] == f"{htmx.headers['Location']}/result"
    assert "hx-trigger" not in site.get(f"{htmx.headers['Location']}/fragment", HTMX).text


# -- routes ----------------------------------------------------------------------------------------


@row
def a_list_has_the_jobs_of_its_user(site: Site) -> None:
    address, gate = site.late("/job/none?user=lister")
    other = site.get(f"/job/none?gate={gate}&user=other").headers["Location"]
    page = site.get("/jobs/?user=lister").json()
    assert [job["links"]["self"] for job in page["jobs"]] == [address]
    assert sum(page["counts"].values()) == 1
    assert other not in site.get("/jobs/?user=lister", HTML).text
    without_slash = site.get("/jobs?user=lister").json()
    assert [job["id"] for job in without_slash["jobs"]] == [job["id"] for job in page["jobs"]]
    assert document_of(site.get("/jobs/?status=wrong"), 400)["status"] == 400
    assert document_of(site.get("/jobs/?before=unknown"), 404)["status"] == 404
    site.open(gate)


@row
def a_result_is_202_until_the_job_is_done(site: Site) -> None:
    address, gate = site.late("/job/digits")
    assert document_of(site.get(f"{address}/result"), 202)["links"]["self"] == address
    site.open(gate)
    assert site.end_of(address)["links"] == {"self": address, "result": f"{address}/result"}
    result = site.get(f"{address}/result")
    assert result.json() == "0123456789"
    assert set(result.headers["Cache-Control"].split(", ")) == {"private", "no-cache"}
    assert result.headers["X-Content-Type-Options"] == "nosniff"


@row
def values_of_jobs_are_json_bytes_or_markup(site: Site) -> None:
    for kind, mimetype, body in (
        ("text", "application/json", b'"<b>text</b>"'),
        ("none", "application/json", b"null"),
        ("bytes", "application/octet-stream", b"\0\xff"),
        ("markup", "text/html; charset=utf-8", b"<b>bold</b>"),
        ("response", "text/csv; charset=utf-8", b"a;b"),
    ):
        result = site.result(f"/job/{kind}")
        assert (result.headers["Content-Type"], result.content.strip()) == (mimetype, body)
        assert result.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"


@row
def a_job_speaks_to_its_user_by_an_http_exception(site: Site) -> None:
    problem = document_of(site.result("/job/problem"), 422)
    assert problem["detail"] == "The file has no header row."
    assert site.result("/job/busy").headers["Retry-After"] == "60"
    own = site.result("/job/own")
    assert (own.status_code, own.text, own.headers["X-Rows"]) == (418, "sorry", "2")


@row
def users_see_no_tracebacks_and_operators_do(site: Site) -> None:
    address = site.done("/job/error")
    for url in (address, f"{address}/result", f"{address}/fragment", "/jobs/"):
        for headers in ({}, HTML, HTMX):
            assert "secret" not in site.get(url, headers).text
    page = site.get(f"{address}?user=root", HTML).text
    assert "Traceback" in page
    assert "ValueError: secret" in page


@row
def events_are_whole_states_or_refused_where_there_are_no_threads(site: Site) -> None:
    address, gate = site.late("/job/none")
    if not site.has_threads:
        assert "poll" in document_of(site.get(f"{address}/events"), 503)["detail"]
        assert "events" not in site.get(address).json()["links"]
        site.open(gate)
        return
    assert site.get(address).json()["links"]["events"] == f"{address}/events"
    lines: list[str] = []
    with site.http.stream("GET", f"{address}/events") as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert stream.headers["Cache-Control"] == "no-store, no-transform"
        for line in stream.iter_lines():
            lines.append(line)
            if line.startswith("data:"):
                site.open(gate)
    assert lines[0] == "retry: 2000"
    end = lines.index("event: done")
    assert json.loads(lines[end + 2].removeprefix("data: "))["status"] == "succeeded"
    seen = {"Last-Event-ID": lines[end + 1].removeprefix("id: ")}
    assert site.get(f"{address}/events", seen).status_code == 204


@row
def a_job_is_asked_to_end_and_cancelled(site: Site) -> None:
    for method, path in (("DELETE", ""), ("POST", "/cancel")):
        address, _ = site.late("/job/none")
        assert site.ask(method, address + path).status_code in {200, 202}
        assert site.end_of(address)["status"] == "cancelled"
        assert site.ask(method, address + path).status_code == 200
        gone = document_of(site.get(f"{address}/result"), 410)
        assert gone["type"] == "urn:flask-executor:cancelled"
    address, _ = site.late("/job/none")
    browser = site.ask("POST", f"{address}/cancel", Accept="text/html")
    assert (browser.status_code, browser.headers["Location"]) == (303, address)
    assert site.ask("POST", f"{address}/cancel", HX_Request="true").status_code == 200
    over = site.done("/job/none")
    assert document_of(site.ask("DELETE", over), 409)["job"] == over


@row
def head_and_options_are_answered_and_other_methods_refused(site: Site) -> None:
    address = site.done("/job/none")
    for path in ("", "/result", "/fragment"):
        head = site.ask("HEAD", address + path)
        assert (head.status_code, head.content) == (200, b"")
        allowed = set(site.ask("OPTIONS", address + path).headers["Allow"].split(", "))
        assert {"GET", "HEAD", "OPTIONS"} <= allowed
    assert "POST" in site.ask("OPTIONS", f"{address}/cancel").headers["Allow"]
    refused = site.get(f"{address}/cancel")
    assert document_of(refused, 405)["title"] == "Method Not Allowed"
    assert "POST" in refused.headers["Allow"]


@row
def assets_are_kept_for_a_year_and_are_all_that_a_page_loads(site: Site) -> None:
    page = site.get("/jobs/", HTML)
    urls = re.findall(r'(?:src|href)="(/jobs/static/[^"]+)"', page.text)
    assert len(urls) == 2
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    for url in urls:
        assert "max-age=31536000" in site.get(url).headers["Cache-Control"]


# -- who may see what, and attacks -----------------------------------------------------------------


@row
def unknown_and_forbidden_look_the_same(site: Site) -> None:
    address, gate = site.late("/job/none")

    def answers(address: str) -> list[tuple[int, str, str, bytes]]:
        found: list[tuple[int, str, str, bytes]] = []
        for method, path in (
            *(("GET", ""), ("GET", "/result"), ("GET", "/events"), ("GET", "/fragment")),
            *(("DELETE", ""), ("POST", "/cancel")),
        ):
            for headers in ({}, HTML, HTMX):
                answer = site.http.request(method, f"{address}{path}?user=bob", headers=headers)
                kept = [answer.headers.get(name, "") for name in ("Cache-Control", "Vary")]
                found.append((answer.status_code, *kept, answer.content))
        return found

    forbidden = answers(address)
    assert {status for status, *_ in forbidden} == {404, 286}
    assert forbidden == answers("/jobs/AAAAAAAAAAAAAAAAAAAAAA")
    assert site.get(f"{address}?user=root").status_code == 200
    site.open(gate)


@row
def pages_of_other_sites_cannot_cancel(site: Site) -> None:
    address, gate = site.late("/job/none")
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "null"},
        {"Origin": f"{str(site.http.base_url).rstrip('/')}.evil.example"},
    ):
        for method, path in (("DELETE", ""), ("POST", "/cancel")):
            refused = site.http.request(method, address + path, headers=headers)
            assert document_of(refused, 403)["status"] == 403
    assert not document_of(site.get(address))["cancel_requested"]
    site.open(gate)
    assert site.end_of(address)["status"] == "succeeded"


@row
def no_address_has_the_host_of_the_client(site: Site) -> None:
    evil = {"Host": "evil.example"}
    address = site.done("/job/none", **evil)
    for url in (address, f"{address}?follow=//evil.example", "/jobs/", "/jobs"):
        for headers in ({}, HTML):
            answer = site.get(url, {**evil, **headers})
            assert answer.status_code == 200
            assert "evil" not in answer.text + str(answer.headers)
    followed = site.get(f"{address}?follow=1", {**evil, **HTML})
    assert followed.headers["Location"] == f"{address}/result"


@row
def script_in_what_a_job_says_is_escaped(site: Site) -> None:
    address = site.done("/job/script")
    for query in ("", "?user=root", f"?user={SCRIPT}", f"?status={SCRIPT}&before={SCRIPT}"):
        for url in (address, f"{address}/fragment", f"{address}/result", "/jobs/"):
            page = site.get(url + query, HTML)
            assert SCRIPT not in page.text
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]


@row
def wild_progress_is_a_small_valid_document(site: Site) -> None:
    address = site.done("/job/wild")
    assert len(site.get(address).content) < 3000
    assert site.get(f"{address}/result").status_code in {200, 500}
