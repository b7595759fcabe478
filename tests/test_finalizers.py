"""The end of the interpreter: what is freed last, when modules have lost their names, is silent."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import flask_executor_typed

from .helpers.scripts import run_script

SCRIPT = """
import importlib, io
from flask import request
from asgiref.sync import sync_to_async

app.config["EXECUTOR_ASYNC_VIEWS"] = True
executor.init_app(app)
kept = []


@app.post("/upload")
def upload():
    file = request.files["file"]
    future = executor.submit(lambda file: len(file.read()), file)
    kept.append((file, future, request._get_current_object()))
    executor.after_response().submit(double, 1)
    return str(future.result())


@app.get("/async")
async def view():
    return str(await executor.submit(double_async, 1))


async def leave_one():
    async for future in executor.as_completed([executor.submit(double_async, 1) for _ in "abc"]):
        return future


async def sensitive():
    return await sync_to_async(threading.current_thread)()


client = app.test_client()
with client.post("/upload", data={"file": (io.BytesIO(b"x" * 1_000_000), "large.bin")}) as answer:
    print(answer.get_data(as_text=True))
kept.append(client.get("/async"))
results = executor.map(double, range(5))
next(results)
as_completed = executor.as_completed([executor.submit(double_async, 1) for _ in "abc"])
kept += [results, as_completed, asyncio.run(leave_one()), executor.submit(sensitive).result()]

# Calls that wait for what never comes: the end of a request, and a commit.
context = app.test_request_context("/")
context.push()
kept += [context, executor.after_response().submit(double, 1)]
try:
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session
except ImportError:
    pass
else:
    session = Session(create_engine("sqlite://"))
    kept += [session, executor.after_commit(session).submit(double, 1)]

importlib.import_module({module!r}).kept_to_the_end = kept
del context, kept  # the thread keeps the context
"""


@pytest.mark.parametrize("module", ["__main__", "builtins", "flask_executor_typed.map"])
def test_nothing_is_printed_when_what_is_left_is_freed_at_the_end(module: str) -> None:
    ended = run_script(SCRIPT.replace("{module!r}", repr(module)), "-X", "dev")
    assert ended.stdout == "1000000\n"
    assert "Exception ignored" not in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.status == 0


def test_finalizers_do_nothing_once_modules_lose_their_names() -> None:
    unprotected: list[str] = []
    for path in Path(flask_executor_typed.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name == "__del__":
                decorators = [ast.unparse(each) for each in node.decorator_list]
                if decorators != ["unless_ending"]:
                    unprotected.append(f"{path.name}:{node.lineno}")
    # The one in exit.py is the protection. That of DaemonPool uses no name of its module, and that
    # of a descriptor has bound the only one.
    names = sorted(name.partition(":")[0] for name in unprotected)
    assert names == ["exit.py", "threads.py", "uploads.py"]


def test_the_exit_waits_for_jobs_although_something_else_cannot_be_closed() -> None:
    ended = run_script(
        """
        from flask_executor_typed.runtime.exit import AtExit, close_at_exit

        class Broken:
            def close(self, *, cancel_pending):
                raise LookupError("it is broken")
            def runs_here(self):
                return False
            def wait(self, end):
                return True

        broken = Broken()
        close_at_exit(broken, AtExit())  # before the executor, which the first job opens
        executor.submit(lambda: (time.sleep(0.3), print("the job is over", flush=True)))
        """
    )
    assert ended.stdout == "the job is over\n"
    assert "Broken object" in ended.stderr
    assert "cannot be closed" in ended.stderr
