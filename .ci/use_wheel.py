"""Use the package as installed from its wheel, with nothing but its dependencies."""

from __future__ import annotations

import asyncio
from pathlib import Path

import flask

import flask_executor_typed
from flask_executor_typed import Executor

package = Path(flask_executor_typed.__file__).parent
assert "site-packages" in package.parts, package
assert (package / "py.typed").exists()

app = flask.Flask("clean")
executor = Executor(app)


@executor.job
def double(number: int) -> int:
    return 2 * number


@executor.job
async def triple(number: int) -> int:
    await asyncio.sleep(0.01)
    return 3 * number


@app.get("/<int:number>")
async def view(number: int) -> dict[str, list[int]]:
    return {"results": [*await asyncio.gather(double.submit(number), triple.submit(number))]}


with executor:
    answer = app.test_client().get("/7").get_json()
assert answer == {"results": [14, 21]}, answer
print("flask_executor_typed", flask_executor_typed.__version__, "works from its wheel")
