"""The pages of jobs in Chromium: with and without JavaScript, and for everybody."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..helpers.services import axe_core_path, chromium_path, skip_without
from .conftest import PATIENCE, Server, ServerFactory

pytest.importorskip("playwright", reason="the browser is driven by playwright")

from playwright.sync_api import BrowserContext, Page, Route, expect, sync_playwright

skip_without("chromium")

OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
MILLISECONDS = PATIENCE * 1000


@pytest.fixture
def server(serve: ServerFactory) -> Server:
    options = ("--workers", "1", "--threads", "8")
    return serve(*options, module="tests.apps.served_jobs")


@contextmanager
def browser(**options: Any) -> Generator[BrowserContext]:
    """Open a browser that remembers nothing, and fail if a page shows a dialog."""
    dialogs: list[str] = []
    expect.set_options(timeout=MILLISECONDS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path(), args=OPTIONS)
        context = chromium.new_context(**options)
        context.set_default_timeout(MILLISECONDS)
        context.on("dialog", lambda dialog: dialogs.append(dialog.message))
        try:
            yield context
        finally:
            context.close()
            chromium.close()
    assert dialogs == []


def start(page: Page, server: Server) -> None:
    page.goto(server.url)
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/jobs/*")  # the click alone does not wait for the next page


def open_gate(page: Page, server: Server) -> None:
    page.request.post(f"{server.url}/open/a")


def test_a_page_shows_progress_without_reloading_and_opens_the_result(server: Server) -> None:
    with browser() as context:
        page = context.new_page()
        start(page, server)
        expect(page.locator("[data-ex-figure]")).to_have_text("40 %")
        expect(page.get_by_role("progressbar")).to_have_attribute("value", "40")
        expect(page.get_by_role("status")).to_have_text("Running, 40 %")
        page.evaluate("window.isSame = true")
        page.get_by_role("button", name="Cancel").focus()
        assert page.evaluate("window.isSame && document.activeElement.textContent") == "Cancel"
        open_gate(page, server)
        page.wait_for_url("**/result")
        expect(page.locator("body")).to_contain_text('"gate"')


def test_cancelling_keeps_the_page_and_moves_the_focus_to_the_job(server: Server) -> None:
    with browser() as context:
        page = context.new_page()
        start(page, server)
        page.evaluate("window.isSame = true")
        page.get_by_role("button", name="Cancel").press("Enter")
        expect(page.get_by_role("status")).to_have_text("Cancelled")
        expect(page.get_by_role("button")).to_have_count(0)
        assert page.evaluate("window.isSame && document.activeElement.tagName") == "SECTION"


def test_without_scripts_the_page_reloads_itself_until_the_result(server: Server) -> None:
    with browser(java_script_enabled=False) as context:
        page = context.new_page()
        start(page, server)
        expect(page.locator("noscript, .ex-note").first).to_be_attached()
        open_gate(page, server)
        page.wait_for_url("**/result")
        start(page, server)
        page.get_by_role("button", name="Cancel").click()
        page.wait_for_url("**/jobs/*")
        expect(page.locator(".ex-state")).to_have_text("Cancelled")


def test_a_phone_needs_no_sideways_scrolling(server: Server) -> None:
    with browser(viewport={"width": 375, "height": 700}) as context:
        page = context.new_page()
        start(page, server)
        for url in (page.url, f"{server.url}/jobs/?root"):
            page.goto(url)
            assert page.evaluate("document.documentElement.scrollWidth") == 375
        open_gate(page, server)


@pytest.mark.parametrize("status", [404, 302])
def test_a_page_says_that_its_job_is_gone_and_asks_no_more(server: Server, status: int) -> None:
    asked: list[str] = []

    def answer(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(status=status, headers={"Location": "/"})

    with browser() as context:
        page = context.new_page()
        page.route("**/events", lambda route: route.fulfill(status=503))
        start(page, server)
        expect(page.locator("[data-ex-figure]")).to_have_text("40 %")
        page.get_by_role("button", name="Cancel").focus()
        page.route("**/jobs/*", answer)
        gone = "This job is no longer known here."
        expect(page.locator(".ex-job")).to_have_text(gone)
        expect(page.get_by_role("status")).to_have_text(gone)
        assert page.title() == "<script>alert(1)</script>"
        assert page.evaluate("document.activeElement.tagName") == "SECTION"
        page.evaluate("document.dispatchEvent(new Event('ex-look'))")  # wakes what still waits
        assert len(asked) == 1
        open_gate(page, server)


def test_nothing_moves_for_readers_who_want_less_motion(server: Server) -> None:
    with browser(reduced_motion="reduce") as context:
        page = context.new_page()
        start(page, server)
        expect(page.locator(".ex-running")).to_be_visible()
        for element, part in ((".ex-state", "::before"), (".ex-bar", "")):
            style = f"getComputedStyle(document.querySelector('{element}'), '{part}')"
            assert page.evaluate(f"{style}.animationName") == "none"
        open_gate(page, server)


def test_four_processes_show_one_job(
    serve: ServerFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECORDED_FOLDER", str(tmp_path))
    monkeypatch.setenv("RECORDED_STORE", "sqlite:///jobs.db")
    server = serve("--workers", "4", "--threads", "8", module="tests.apps.shared_jobs")
    with browser() as context:
        page = context.new_page()
        start(page, server)
        expect(page.locator("[data-ex-figure]")).to_have_text("40 %")
        (tmp_path / "a-may-end").touch()
        page.wait_for_url("**/result")
        expect(page.locator("body")).to_contain_text('"gate"')
        (tmp_path / "a-may-end").unlink()
        start(page, server)
        page.get_by_role("button", name="Cancel").press("Enter")
        expect(page.get_by_role("status")).to_have_text("Cancelled")
        page.get_by_role("link", name="All jobs").click()
        expect(page.locator("tbody tr")).to_have_count(2)


def test_script_in_what_a_job_says_of_itself_does_not_run(server: Server) -> None:
    with browser() as context:
        page = context.new_page()
        page.request.post(f"{server.url}/attack")
        for query in ("", "?root"):
            page.goto(f"{server.url}/jobs/{query}")
            expect(page.locator(".ex-rows tbody")).to_contain_text("<script>")
            page.locator(".ex-rows tbody a").first.click()
            page.goto(page.url + query)
            expect(page.get_by_role("heading").first).to_contain_text("<img")
            expect(page.locator("main")).to_contain_text("</script>")
        expect(page.locator("main")).to_contain_text("onload")  # the operator's traceback
        expect(page.get_by_role("region", name="Last lines of its log")).to_contain_text(
            "WARNING jobs: log <script>"
        )
        assert page.evaluate("window.attacked") is None
    # browser() fails on a dialog


SUBMIT_A_FORM = """url => {
  const form = document.createElement("form");
  Object.assign(form, { method: "post", action: url });
  document.body.append(form);
  form.submit();
}"""


def test_a_form_of_another_site_cannot_cancel_a_job(server: Server) -> None:
    with browser() as context:
        page = context.new_page()
        address = page.request.post(f"{server.url}/start/a").headers["location"]
        for host, status in (("localhost", 403), ("127.0.0.1", 200)):
            page.goto(server.url.replace("127.0.0.1", host))
            with page.expect_navigation() as navigation:
                page.evaluate(SUBMIT_A_FORM, f"{server.url}{address}/cancel")
            assert navigation.value.status == status
            job = page.request.get(f"{server.url}{address}").json()
            assert job["cancel_requested"] is (status == 200)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_that_keeps_people_out(server: Server, scheme: Any) -> None:
    script = axe_core_path().read_text("utf-8")
    with browser(color_scheme=scheme, bypass_csp=True) as context:
        page = context.new_page()
        page.request.post(f"{server.url}/attack")  # a failure, and a time, for operators
        ended = page.request.post(f"{server.url}/start/b").headers["location"]
        page.request.post(f"{server.url}/open/b")
        page.request.get(f"{server.url}{ended}", headers={"Prefer": "wait=10"})
        start(page, server)
        for url in (page.url, f"{server.url}/jobs/", f"{server.url}/jobs/?root"):
            page.goto(url)
            page.evaluate(script)
            violations = page.evaluate("axe.run().then(result => result.violations)")
            found = [(each["id"], [node["html"] for node in each["nodes"]]) for each in violations]
            assert found == []
        open_gate(page, server)
