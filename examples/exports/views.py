"""A form, and the slow view that it is sent to."""

from __future__ import annotations

import csv
import secrets
import time
from collections import defaultdict
from decimal import Decimal, InvalidOperation
from io import BytesIO, StringIO

from flask import Blueprint, Response, render_template, request, send_file, session
from werkzeug.exceptions import UnprocessableEntity

from flask_executor_typed import Executor, current_job, track
from flask_executor_typed.web import JobsBlueprint

COLUMNS = {"customer", "amount"}

blueprint = Blueprint("exports", __name__, template_folder="templates")


def visitor() -> str:
    """Return whose the jobs of this request are: there is no login, so a browser's session's."""
    name: str = session.setdefault("visitor", secrets.token_urlsafe(16))
    return name


# An executor that does nothing else: a view that waits for a worker is late.
executor = Executor[object](name="views", user=visitor)
jobs = JobsBlueprint(executor, streams=2)


@blueprint.get("/")
def form() -> str:
    visitor()  # so that the browser has its cookie before it starts a job
    return render_template("exports/form.html")


@blueprint.post("/exports")
@jobs.respond_async(wait=0.2)
def export() -> Response:
    upload = request.files["orders"]
    text = totals_of(orders_in(upload.read()))
    return send_file(
        BytesIO(text.encode()), "text/csv", as_attachment=True, download_name="totals.csv"
    )


def orders_in(content: bytes) -> list[dict[str, str]]:
    """Read the rows of a file.

    Raises:
        UnprocessableEntity: it is not what was asked for; its description is shown to the user.
    """
    try:
        rows = csv.DictReader(StringIO(content.decode("utf-8-sig")))
        if not COLUMNS.issubset(rows.fieldnames or ()):
            raise UnprocessableEntity("The first line must name the columns customer and amount.")
        return list(rows)
    except (UnicodeDecodeError, csv.Error):
        raise UnprocessableEntity("This is not a CSV file in UTF-8.") from None


def totals_of(orders: list[dict[str, str]]) -> str:
    """Return a CSV of what each customer has ordered, the highest total first."""
    totals: defaultdict[str, Decimal] = defaultdict(Decimal)
    for number, order in enumerate(track(orders, message="Adding up the orders"), start=2):
        current_job.raise_if_cancelled()
        time.sleep(0.02)  # a slow service, which is asked about each order
        try:
            totals[order["customer"]] += Decimal(order["amount"])
        except (InvalidOperation, TypeError):
            raise UnprocessableEntity(f"The amount in line {number} is not a number.") from None
    highest_first = sorted(totals.items(), key=lambda item: item[1], reverse=True)
    file = StringIO()
    writer = csv.writer(file)
    writer.writerow(("customer", "total"))
    writer.writerows(highest_first)
    return file.getvalue()
