"""The agency's API: each view shows one way to use a job."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from flask import Blueprint, abort, g, jsonify, request, url_for
from flask.typing import ResponseReturnValue

from flask_executor_typed import FutureProxy

from .db import get_db
from .jobs import (
    BROCHURE,
    TICKET,
    ask_airline,
    ask_weather,
    book,
    city_names,
    distance,
    executor,
    forecast,
    plan_tour,
    print_brochure,
)

blueprint = Blueprint("trips", __name__)


@blueprint.before_request
def remember_traveller() -> None:
    g.traveller = request.headers.get("X-Traveller", "somebody")  # the jobs find it in their g


# -- a sync view submits, and answers at once ------------------------------------------------------


@blueprint.post("/trips")
def book_trip() -> ResponseReturnValue:
    city: str = request.get_json()["city"]
    if not get_db().execute("SELECT 1 FROM city WHERE name = ?", (city,)).fetchone():
        abort(404)
    future = book.submit(city)
    executor.futures.add(TICKET[future.id], future)
    answer = {"id": future.id, "status": future.status}
    return answer, 202, {"Location": url_for(".trip", future_id=future.id)}


@blueprint.get("/trips/<future_id>")
def trip(future_id: str) -> ResponseReturnValue:
    return state_of(executor.futures.get(TICKET[future_id]))


# -- an async view awaits many jobs at the same time -----------------------------------------------


@blueprint.get("/offers/<city>")
async def offers(city: str) -> ResponseReturnValue:
    airlines = [f"airline {number}" for number in range(request.args.get("airlines", 50, type=int))]
    found = await asyncio.gather(*[ask_airline.submit(airline, city) for airline in airlines])
    return jsonify(count=len(found), cheapest=min(found, key=lambda offer: offer.price))


@blueprint.get("/weather")
async def weather() -> ResponseReturnValue:
    # Flask runs an async view and its teardown functions in different threads, and a SQLite
    # connection works in one only. A job opens, uses and closes its g.db in the same thread.
    cities = await city_names.submit()
    return jsonify(await asyncio.gather(*[forecast.submit(city) for city in cities]))


@blueprint.get("/weather/<city>")
async def weather_in(city: str) -> ResponseReturnValue:
    # No job: with EXECUTOR_ASYNC_VIEWS the view has a loop that lasts, and a client on it.
    return jsonify(await ask_weather(city))


# -- a stored job, started once however often it is asked for, and polled by its key ---------------


@blueprint.put("/brochures/<city>")
def order_brochure(city: str) -> ResponseReturnValue:
    future = print_brochure.using(key=BROCHURE[city], on_duplicate="join").submit(city)
    return {"id": future.id, "status": future.status}, 202


@blueprint.get("/brochures/<city>")
def brochure(city: str) -> ResponseReturnValue:
    return state_of(executor.futures.get(BROCHURE[city]))


# -- a long job, that any server process can watch and cancel --------------------------------------


@blueprint.post("/tours")
def start_tour() -> ResponseReturnValue:
    future = plan_tour.submit(request.args.get("days", 10, type=int))
    return {"id": future.id, "process": os.getpid()}, 202


@blueprint.get("/tours/<job_id>")
def tour(job_id: str) -> ResponseReturnValue:
    record = executor.jobs.get(job_id)
    if record is None:
        abort(404)
    progress = None if record.progress is None else record.progress.done
    return {"status": record.status, "day": progress, "process": os.getpid()}


@blueprint.delete("/tours/<job_id>")
def cancel_tour(job_id: str) -> ResponseReturnValue:
    return {"answer": executor.jobs.cancel(job_id), "process": os.getpid()}


# -- a map -----------------------------------------------------------------------------------------


@blueprint.get("/distances")
def distances() -> ResponseReturnValue:
    """How far each city is; ``times`` asks for all of them so many times over."""
    cities: list[tuple[str, float, float]] = get_db().execute("SELECT * FROM city").fetchall()
    cities *= request.args.get("times", 1, type=int)
    names, lats, lons = zip(*cities, strict=True)
    return jsonify(list(zip(names, distance.map(lats, lons), strict=True)))


def state_of(future: FutureProxy[Any] | None) -> ResponseReturnValue:
    """What somebody who polls wants to know: one answer for every kind of job."""
    if future is None:
        abort(404)
    answer: dict[str, Any] = {"id": future.id, "status": future.status}
    if future.status == "succeeded":
        answer["result"] = future.result()
    elif future.status == "failed":
        answer["error"] = str(future.exception())
    if future.started_at and future.finished_at:
        answer["seconds"] = (future.finished_at - future.started_at).total_seconds()
    return answer
