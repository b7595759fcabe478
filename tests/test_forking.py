"""Processes that are forked while jobs run: each has its own threads, and its own outcomes.

More of it, for an executor alone, is in test_threads.py; for worker processes in test_workers.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import dedent

import pytest

from .helpers.scripts import IN_THE_CHILD, PRELUDE, Ended, run_python, run_script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")

FORKS = 200


def test_200_forks_from_a_thread_while_jobs_run_leave_every_process_working() -> None:
    ended = run_script(
        IN_THE_CHILD
        + dedent(f"""
        from collections import Counter
        from concurrent.futures import wait

        time_out(150)
        stop = threading.Event()
        counts = Counter()

        def keep_busy():
            while not stop.is_set():
                futures = [executor.submit(kind, 4) for kind in (double, double_async) * 5]
                executor.using(key=len(counts), on_duplicate="replace").submit(double, 4)
                wait(futures)
                counts.update(future.result() for future in futures)

        def fork():
            for _ in range({FORKS}):
                pid = os.fork()
                if pid == 0:
                    time_out(20)
                    status = 1
                    try:
                        assert executor.submit(double, 21).result(15) == 42
                        assert executor.submit(double_async, 21).result(15) == 42
                        executor.submit_stored("key", double, 21)
                        executor.shutdown()
                        status = 0
                    finally:
                        os._exit(status)
                statuses[os.waitpid(pid, 0)[1]] += 1

        statuses = Counter()
        busy = [threading.Thread(target=keep_busy) for _ in range(2)]
        forking = threading.Thread(target=fork)
        for thread in (*busy, forking):
            thread.start()
        forking.join()
        stop.set()
        for thread in busy:
            thread.join()
        print(dict(statuses), list(counts) == [8], counts[8] > 0)
        check("parent")
        """)
    )
    assert ended == Ended(0, f"{{0: {FORKS}}} True True\nparent\n", "")


def test_fork_waits_for_the_import_of_uvloop_that_it_would_cut_in_two(tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text(
        dedent("""
        import __main__, time
        from asyncio import new_event_loop

        __main__.importing.set()
        assert __main__.at_fork.wait(10)
        time.sleep(0.2)  # as long as it takes; the fork would be over by now
        """)
    )
    ended = run_script(
        IN_THE_CHILD
        + dedent(f"""
        sys.path.insert(0, {str(tmp_path)!r})
        importing, at_fork = threading.Event(), threading.Event()
        os.register_at_fork(before=at_fork.set)  # which is called before those of the package
        first = threading.Thread(target=check, args=("first",))
        first.start()
        assert importing.wait(10)
        fork_and_check()
        first.join()
        """)
    )
    assert (ended.status, ended.stderr) == (0, "")
    assert sorted(ended.stdout.split()) == ["child", "first", "parent"]


LOOK = """
import concurrent.futures, traceback
from queue import SimpleQueue
from flask_executor_typed import ForkedFutureError


def refused(fn):
    try:
        fn()
    except ForkedFutureError as error:
        return str(error)


async def awaited(future):
    return await future


async def wrapped(future):
    return await asyncio.wrap_future(future)


def in_a_fork(fn):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        time_out(20)
        status = 1
        try:
            fn()
            sys.stdout.flush()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0

"""


def test_other_thread_of_a_child_can_start_its_first_loop() -> None:
    """The thread that forked has the lock of imports; the child needs one that nobody has."""
    ended = run_script(
        IN_THE_CHILD
        + LOOK
        + dedent("""
        def child():
            thread = threading.Thread(target=check, args=("child",))
            thread.start()
            thread.join()

        in_a_fork(child)
        """)
    )
    assert ended == Ended(0, "child\n", "")


@pytest.mark.parametrize("state", ["pending", "running", "on a loop"])
def test_child_that_waits_for_a_call_of_its_parent_gets_an_error_and_cannot_touch_it(
    state: str,
) -> None:
    ended = run_script(
        IN_THE_CHILD
        + LOOK
        + dedent(f"""
        app.config["EXECUTOR_MAX_WORKERS"] = 1
        executor.init_app(app)
        release = threading.Event()
        futures = {{}}
        futures["running"] = executor.submit(release.wait, 20)
        futures["pending"] = executor.submit_stored("key", double, 1)
        begun = threading.Event()

        async def wait():
            begun.set()
            while not release.is_set():
                await asyncio.sleep(0.01)
            return True

        futures["on a loop"] = executor.submit(wait)
        begun.wait(10)
        future = futures[{state!r}]
        status = future.status
        told = SimpleQueue()
        future.add_done_callback(lambda future: told.put((future.result(), os.getpid() == main)))
        main = os.getpid()

        def child():
            print(refused(future.result))
            waits = (
                lambda: future.exception(5),
                lambda: asyncio.run(awaited(future)),
                lambda: asyncio.run(wrapped(future)),
                lambda: future.add_done_callback(print),
                lambda: concurrent.futures.wait([future]),
                lambda: list(concurrent.futures.as_completed([future])),
                lambda: executor.submit(lambda: future).result(10),
                lambda: executor.submit(future.result).result(10),
            )
            print(len([wait for wait in waits if refused(wait)]), "of", len(waits))
            print(future.cancel(), future.cancel(kill=True), future.status == status, future.done())
            joins = executor.using(key="key", on_duplicate="join")
            print(joins.submit(double, 21).result(10))

        try:
            in_a_fork(child)
        finally:
            release.set()
        print("told", *told.get(timeout=10))
        print(*(future.result(10) for future in futures.values()))
        """)
    )
    name = {"pending": "double", "running": "Event.wait", "on a loop": "wait"}[state]
    error = (
        f"{name} was submitted before this process was forked, and runs in the parent; "
        "submit it here, or wait for it there"
    )
    result = 2 if state == "pending" else True
    assert ended.stdout.splitlines() == [
        error,
        "8 of 8",
        "False False True False",
        "42",
        f"told {result} True",
        "True 2 True",
    ], ended.stderr
    assert ended.status == 0


def test_job_that_returns_in_a_fork_as_well_settles_nothing_there() -> None:
    ended = run_script(
        IN_THE_CHILD
        + dedent("""
        app.config["EXECUTOR_MAX_WORKERS"] = 1
        executor.init_app(app)
        main, queued = os.getpid(), threading.Event()

        def fork():
            queued.wait(10)
            pid = os.fork()
            if pid:
                assert os.waitpid(pid, 0)[1] == 0
            else:
                # This thread goes on as a worker does, until nothing is in its queue any more.
                threading.Timer(0.5, os._exit, [0]).start()

        def tell(future):
            os.write(1, f"done {os.getpid() == main}\\n".encode())

        def run():
            os.write(1, f"run {os.getpid() == main}\\n".encode())

        forking = executor.submit(fork)
        forking.add_done_callback(tell)
        pending = executor.submit(run)
        queued.set()
        assert forking.result(20) is None
        assert pending.result(20) is None
        """)
    )
    assert ended == Ended(0, "done True\nrun True\n", "")


def test_done_future_can_be_waited_for_in_a_fork_though_a_thread_held_its_lock() -> None:
    ended = run_script(
        IN_THE_CHILD
        + LOOK
        + dedent("""
        future = executor.submit(double, 21)
        concurrent.futures.wait([future])
        held, release = threading.Event(), threading.Event()

        def hold():
            with future._condition:
                held.set()
                release.wait(20)

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(10)

        def child():
            done, _ = concurrent.futures.wait([future], 10)
            print(done == {future}, future.result(), asyncio.run(awaited(future)))
            future.add_done_callback(lambda future: print("called back"))

        in_a_fork(child)
        release.set()
        holder.join()
        """)
    )
    assert ended == Ended(0, "True 42 42\ncalled back\n", "")


def test_future_has_an_id_in_a_fork_though_a_thread_held_the_lock_of_all_futures() -> None:
    ended = run_script(
        IN_THE_CHILD
        + LOOK
        + dedent("""
        from flask_executor_typed.futures.base import shared_lock

        future = executor.submit(double, 21)
        held, release = threading.Event(), threading.Event()

        def hold():
            with shared_lock():
                held.set()
                release.wait(20)

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(10)
        in_a_fork(lambda: print(len(future.id)))
        release.set()
        holder.join()
        """)
    )
    assert ended == Ended(0, "22\n", "")


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_children_of_multiprocessing_have_threads_loops_and_worker_processes_of_their_own(
    tmp_path: Path, method: str
) -> None:
    script = tmp_path / "script.py"  # multiprocessing wants a module that can be found again
    script.write_text(
        PRELUDE
        + dedent(f"""
        import multiprocessing

        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
        app.config["CRUNCH_EXECUTOR_TYPE"] = "process"
        app.config["CRUNCH_EXECUTOR_MAX_WORKERS"] = 1
        crunch = Executor(app, name="crunch")

        def use():
            results = [executor.submit(kind, 21).result(10) for kind in (double, double_async)]
            return results, crunch.submit(os.getpid).result(20)

        def child(queue):
            time_out(25)
            queue.put(use())
            # What it accepted is done when it exits.
            executor.submit(time.sleep, 0.1).add_done_callback(lambda f: queue.put(f.status))

        if __name__ == "__main__":
            time_out(60)
            before = use()
            context = multiprocessing.get_context({method!r})
            queues = [context.SimpleQueue() for _ in range(3)]
            processes = [context.Process(target=child, args=(queue,)) for queue in queues]
            for process in processes:
                process.start()
            answers = [queue.get() for queue in queues]
            statuses = [queue.get() for queue in queues]
            for process in processes:
                process.join()
            after = use()
            print([process.exitcode for process in processes], statuses)
            print([results for results, _ in (before, *answers, after)] == [[42, 42]] * 5)
            print(before == after, len({{before[1], *(worker for _, worker in answers)}}))
        """)
    )
    ended = run_python(str(script))
    assert ended == Ended(0, f"{[0] * 3} {['succeeded'] * 3}\nTrue\nTrue 4\n", "")
