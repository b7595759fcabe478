"""Which requests pages of other sites have made."""

from __future__ import annotations

import pytest
from flask import Request
from werkzeug.test import create_environ

from flask_executor_typed.web.origin import comes_from_elsewhere


def asks(host: str = "shop.example", **headers: str) -> bool:
    environ = create_environ(
        method="POST",
        headers={"Host": host} | {name.replace("_", "-"): text for name, text in headers.items()},
    )
    return comes_from_elsewhere(Request(environ), {"https://app.example"})


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_a_request_of_a_page_of_ours_or_of_the_user_is_let_through(site: str) -> None:
    assert not asks(Sec_Fetch_Site=site, Origin="http://shop.example")


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "SAME-ORIGIN"])
def test_a_request_of_any_other_page_is_refused(site: str) -> None:
    assert asks(Sec_Fetch_Site=site, Origin="http://shop.example")


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://shop.example", "shop.example"),
        ("https://shop.example", "shop.example"),  # behind a proxy that ends TLS
        ("http://shop.example:8000", "shop.example:8000"),
    ],
)
def test_without_sec_fetch_site_the_origin_must_be_this_host(origin: str, host: str) -> None:
    assert not asks(host, Origin=origin)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://evil.example",
        "http://shop.example.evil.example",
        "http://shop.example@evil.example",
        "http://shop.example:8000",
        "http://[",
        "shop.example",
    ],
)
def test_another_origin_is_refused(origin: str) -> None:
    assert asks(Origin=origin)


def test_a_client_that_says_neither_is_no_browser() -> None:
    assert not asks()


def test_a_trusted_origin_is_let_through() -> None:
    assert not asks(Sec_Fetch_Site="cross-site", Origin="https://app.example")
    assert asks(Sec_Fetch_Site="cross-site", Origin="http://app.example")
