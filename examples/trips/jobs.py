"""What the agency does in the background: plain functions in threads, coroutines on a loop.

The sleeps stand for the outside world: an airline's slow system, a printer. Every job runs with
the app, the ``request`` and a copy of the ``g`` that were active where it was submitted.
"""

from __future__ import annotations

import asyncio
import math
import time
import zlib
from dataclasses import dataclass
from typing import TypedDict

import httpx
from flask import current_app, g, request

from flask_executor_typed import Executor, FutureKey, current_job

from .db import get_db

executor = Executor[object]()


class NoFlightError(LookupError):
    """Nobody flies there."""


class Ticket(TypedDict):
    """Plain data, which any server process can read from the job's record."""

    number: int
    traveller: str
    city: str


@dataclass(frozen=True)
class Offer:
    airline: str
    price: int


@dataclass(frozen=True)
class Forecast:
    city: str
    weather: str


# Keys that know what their jobs give: TICKET[id] finds a FutureProxy[Ticket].
TICKET = FutureKey[Ticket]("ticket")
BROCHURE = FutureKey[str]("brochure")


@executor.job
def book(city: str) -> Ticket:
    """Book a flight for the traveller who sent the request."""
    time.sleep(0.3)  # the airline's system
    if city == "Jakarta":
        raise NoFlightError(f"no airline flies to {city} this week")
    db = get_db()  # a connection of this job: the view's is closed by now
    with db:
        statement = "INSERT INTO ticket (traveller, city) VALUES (?, ?)"
        number = db.execute(statement, (g.traveller, city)).lastrowid
    assert number is not None  # there is one after each INSERT
    return Ticket(number=number, traveller=g.traveller, city=city)


@executor.job
def city_names() -> list[str]:
    """Where the agency sends people."""
    return [name for (name,) in get_db().execute("SELECT name FROM city ORDER BY name")]


@executor.job
async def ask_airline(airline: str, city: str) -> Offer:
    """Ask one airline what a flight costs."""
    await asyncio.sleep(0.1)  # it takes its time
    return Offer(airline, 90 + zlib.crc32(f"{airline} to {city}".encode()) % 400)


@executor.job
def print_brochure(city: str) -> str:
    """Print a brochure, five pages at 60 ms each."""
    pages: list[str] = []
    for number in range(1, 6):
        time.sleep(0.06)  # the printer
        pages.append(f"{city}, page {number}, for {g.traveller}")
    return "\n".join(pages)


@executor.job
async def plan_tour(days: int) -> int:
    """Plan a tour day by day, 100 ms each, and say how far it is."""
    for day in range(days):
        current_job.progress(day, days, f"day {day + 1}")
        await asyncio.sleep(0.1)
    return days


@executor.job
def distance(lat: float, lon: float) -> int:
    """Kilometres along the surface from where the request says that the traveller is."""
    here = math.radians(float(request.args["lat"])), math.radians(float(request.args["lon"]))
    there = math.radians(lat), math.radians(lon)
    cosine = math.sin(here[0]) * math.sin(there[0]) + math.cos(here[0]) * math.cos(
        there[0]
    ) * math.cos(there[1] - here[1])
    return round(6371 * math.acos(max(-1.0, min(1.0, cosine))))


def make_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False)  # the service is in our own network


# A client belongs to a loop. Each loop, of jobs and of views, opens its own when it first needs
# one, keeps its connections open from job to job and from request to request, and closes it in
# the end.
clients = executor.loop_resource(make_client)


async def ask_weather(city: str) -> Forecast:
    """Ask the weather service for one city, from a job or from an async view."""
    client = await clients.get()
    response = await client.get(f"{current_app.config['WEATHER_URL']}/{city}")
    return Forecast(city, response.raise_for_status().text)


forecast = executor.job(ask_weather)
