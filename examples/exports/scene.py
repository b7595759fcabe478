"""The demo's scene with a slow view: a browser without scripts, and a client of the API."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx

from ..demo import PATIENCE, WrongAnswer, expect, gunicorn

APP = "examples.exports:create_app()"
ORDERS = "customer,amount\n" + "Ada,19.90\nGrace,5\n" * 30
TOTALS = "customer,total\r\nAda,597.00\r\nGrace,150\r\n"
HTML = {"Accept": "text/html"}


def follows_a_slow_view() -> Iterator[str]:
    """A slow view: upload, watch, download, cancel"""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "exports.log")
        settings = {"EXPORTS_STORE": f"sqlite:///{folder}/jobs.db", "EXPORTS_SECRET_KEY": "demo"}
        with (
            gunicorn(log, APP, **settings) as url,
            httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as browser,
            httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as stranger,
        ):
            expect("the form", "<form" in browser.get("/").text, True)
            yield from _watches_and_downloads(browser, stranger)
            yield from _cancels(browser)
            yield from _is_told_what_is_wrong(browser)


def _upload(http: httpx.Client, orders: str, **headers: str) -> httpx.Response:
    return http.post("/exports", files={"orders": ("orders.csv", orders)}, headers=headers)


def _watches_and_downloads(browser: httpx.Client, stranger: httpx.Client) -> Iterator[str]:
    answer = _upload(browser, ORDERS, **HTML)
    page = answer.headers.get("Location", "")
    expect("a browser is sent to", (answer.status_code, page[:6]), (303, "/jobs/"))
    yield "POST /exports      303: the browser goes to the page of its job"
    seen: list[str] = []
    while (shown := browser.get(page, headers=HTML)).status_code == 200:
        found = re.search(r"data-ex-figure>(\d+ %)", shown.text)
        if found and found[1] not in seen:
            seen.append(found[1])
    if not seen:
        raise WrongAnswer("the page showed no progress")
    steps = " ".join((*seen[:2], "...", seen[-1]))
    yield f"GET  /jobs/...     reloaded without a script: {steps}"
    download = browser.get(shown.headers["Location"])
    expect("the file", download.text, TOTALS)
    name = download.headers["Content-Disposition"]
    expect("its name", name, "attachment; filename=totals.csv")
    yield f"GET  .../result    {download.headers['Content-Type']}, {name}"
    expect("another visitor", stranger.get(page).status_code, 404)
    yield "Another visitor who knows the address gets 404."


def _cancels(browser: httpx.Client) -> Iterator[str]:
    answer = _upload(browser, ORDERS)
    expect("the API answers", answer.status_code, 202)
    address = answer.headers["Location"]
    asked = browser.delete(address)
    expect("asked to end", asked.status_code in {200, 202}, True)
    done = browser.get(address, headers={"Prefer": "wait=10"}).json()
    expect("the job", done["status"], "cancelled")
    expect("its result", browser.get(f"{address}/result").status_code, 410)
    yield f"DELETE /jobs/...   {asked.status_code}, and then the job is {done['status']}"


def _is_told_what_is_wrong(browser: httpx.Client) -> Iterator[str]:
    answer = _upload(browser, "name,price\nAda,1\n")
    expect("a wrong file", answer.status_code, 422)
    expect("why", "must name the columns" in answer.text, True)
    yield f"POST /exports      {answer.status_code} for a file without these columns, in time"
