"""Answers of a server that is tested from outside."""

from __future__ import annotations

import httpx

from flask_executor_typed.web.texts import TEXTS


def found_the_store_busy(answer: httpx.Response) -> bool:
    """Return whether the request should be sent again, as the answer asks for.

    A request waits for a busy store a quarter of a second, and this machine may be slow.
    """
    return answer.status_code == 503 and TEXTS["store_down"] in answer.text
