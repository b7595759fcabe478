"""The mechanism of .ci/run: lanes, limits, what is printed, and that everything is ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from .conftest import TIMEOUT, until

CI = Path(__file__).resolve().parents[1] / ".ci"
PATIENCE = 6 * TIMEOUT

pytestmark = pytest.mark.skipif(os.name == "nt", reason="bash and process groups")

PRELUDE = """
import sys
from pathlib import Path
sys.path.insert(0, {ci!r})
from lanes import Limits, Shell, Skipped, Step, run_steps

def shell(script, **options):
    return lambda shell: shell.run("sh", "-c", script, **options)

def run(*steps, command=60, total=60, kill_after=60, heartbeat=60):
    sys.exit(run_steps(steps, Limits(command, total, kill_after, heartbeat), Path("logs")))
"""


def start(program: str, folder: Path) -> subprocess.Popen[str]:
    """Start a program of steps in a folder; it is killed if it does not end."""
    code = PRELUDE.format(ci=str(CI)) + textwrap.dedent(program)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(program: str, folder: Path) -> tuple[int, str]:
    """Run a program of steps; return its exit code and all that it printed."""
    process = start(program, folder)
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, output


def without_times(output: str) -> str:
    return re.sub(r" +\d+ s\b", " 0 s", output)


def test_output_of_a_step_is_kept_together_and_the_outcomes_are_summed_up(tmp_path: Path) -> None:
    # Each waits in the middle of its output until the other has begun.
    code, output = run(
        """
        def half(own, other):
            wait = f"until [ -e {other} ]; do sleep 0.01; done"
            return shell(f"echo {own} 1; touch {own}; {wait}; echo {own} 2 >&2; exit 1")

        run(
            Step("One", (half("one", "two"),)),
            Step("Two", (half("two", "one"),)),
            Step("Nothing to do", (shell("exit 77"),)),
            Step("Good", (shell("echo a"), shell("printf b"))),
        )
        """,
        tmp_path,
    )
    text = without_times(output)
    assert code == 1
    assert "\n=== One\none 1\none 2\n--- One: FAILED (0 s): exit code 1 from sh -c " in text
    assert "\n=== Two\ntwo 1\ntwo 2\n--- Two: FAILED (0 s): exit code 1 from sh -c " in text
    assert "\n=== Nothing to do\n--- Nothing to do: skipped (0 s)\n" in text
    assert "\n=== Good\na\nb\n--- Good: passed (0 s)\n" in text
    summary, _, again = text.partition("\n=== Summary, after 0 s\n")[2].partition("\n=== The last")
    assert sorted(re.findall(r"^(\S+) 0 s  ([^:\n]+)", summary, re.MULTILINE)) == [
        ("FAILED", "One"),
        ("FAILED", "Two"),
        ("passed", "Good"),
        ("skipped", "Nothing to do"),
    ]
    assert " lines of: One\none 1\none 2\n" in again
    assert " lines of: Two\ntwo 1\ntwo 2\n" in again
    assert text.endswith("\n\n1 passed, 2 failed, 1 skipped\n")


def test_exit_code_is_0_if_no_step_failed(tmp_path: Path) -> None:
    program = """
        def nothing(shell):
            raise Skipped("no such interpreter here")

        run(Step("Good", (shell("exit 0"),)), Step("Other", (nothing,)))
        """
    code, output = run(program, tmp_path)
    assert code == 0
    assert "Other: no such interpreter here\n" in output
    assert output.endswith("\n1 passed, 0 failed, 1 skipped\n")


def test_step_begins_when_those_before_it_have_ended_and_not_more_than_two_at_once(
    tmp_path: Path,
) -> None:
    code, _ = run(
        """
        def logged(name, code=0):
            return shell(f"echo +{name} >> log; sleep 0.1; echo -{name} >> log; exit {code}")

        first = Step("first", (logged("first", 1),))
        second = Step("second", (logged("second"),), (first,))
        run(second, first, *(Step(f"more{n}", (logged(f"more{n}"),)) for n in range(4)))
        """,
        tmp_path,
    )
    assert code == 1
    log = (tmp_path / "log").read_text().split()
    assert log.index("-first") < log.index("+second")
    at_once = [sum(1 if line[0] == "+" else -1 for line in log[:n]) for n in range(len(log) + 1)]
    assert max(at_once) == 2
    assert at_once[-1] == 0


def test_command_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    code, output = run(
        """
        hangs = "sleep 600 & echo $! > same; setsid sleep 600 & echo $! > other; wait"
        run(Step("Hangs", (shell(hangs),)), command=1)
        """,
        tmp_path,
    )
    assert code == 1
    assert "Hangs: FAILED (1 s): took longer than 1 s: sh -c " in output
    assert not is_alive(tmp_path / "same")
    assert not is_alive(tmp_path / "other") or not Path("/proc").exists()


def test_command_that_ignores_a_request_to_end_is_killed(tmp_path: Path) -> None:
    program = """
        run(Step("Stubborn", (shell("trap '' TERM; while :; do sleep 0.1; done"),)),
            command=0.5, kill_after=0.5)
        """
    code, output = run(program, tmp_path)
    assert code == 1
    assert "took longer" in output


def test_step_leaves_no_process_to_the_next_one(tmp_path: Path) -> None:
    program = """
        left = Step("Leaves", (shell("sleep 600 & echo $! > same"),))
        runs = "grep -q 'State:.[^Z]' /proc/$(cat same)/status"  # Z: only its exit code is left
        waits = shell(f"while {runs}; do sleep 0.01; done")
        run(left, Step("Next", (waits,), (left,)), command=30)
        """
    code, output = run(program, tmp_path)
    assert code == 0, output


def test_what_has_not_begun_within_the_limit_of_all_fails_at_once(tmp_path: Path) -> None:
    program = """
        run(*(Step(f"{n}", (shell(f"touch {n}; sleep 600"),)) for n in range(4)), total=1)
        """
    code, output = run(program, tmp_path)
    assert code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "logs"]
    assert "3: FAILED (0 s): out of time: 1 s are over\n" in output
    assert output.endswith("\n0 passed, 4 failed, 0 skipped\n")


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_run_that_is_ended_ends_its_steps_and_prints_their_output(
    tmp_path: Path, by: signal.Signals
) -> None:
    process = start(
        """
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)
        hangs = "sleep 600 & echo $! > same; setsid sleep 600 & echo $! > other; wait"
        run(
            Step("Hangs", (shell("echo it hangs"), shell(hangs))),
            Step("Next", (shell("sleep 600"),)),
            Step("Last", ()),
        )
        """,
        tmp_path,
    )
    try:
        other = tmp_path / "other"
        until(lambda: other.exists() and other.read_text(), PATIENCE)
        process.send_signal(by)
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 128 + by
    assert "=== Hangs\nit hangs\n--- Hangs: FAILED" in output
    assert not is_alive(tmp_path / "same")
    assert not is_alive(tmp_path / "other") or not Path("/proc").exists()
    assert "Last" not in output


def test_sign_of_life_names_what_runs(tmp_path: Path) -> None:
    program = """
        waits = "until [ -e go ]; do sleep 0.01; done"
        run(Step("Waits", (shell(waits),)), heartbeat=0.01)
        """
    process = start(program, tmp_path)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        assert process.stdout.readline() == "... after 0 s: Waits (0 s)\n"
        (tmp_path / "go").touch()
        process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0


def test_error_of_a_step_itself_is_a_failure(tmp_path: Path) -> None:
    code, output = run('run(Step("Wrong", (lambda shell: 1 / 0,)))', tmp_path)
    assert code == 1
    assert "Wrong: FAILED (0 s): ZeroDivisionError('division by zero')\n" in output


def test_steps_that_wait_for_each_other_are_an_error(tmp_path: Path) -> None:
    code, output = run('run(Step("One", (), (Step("Not in the list", ()),)))', tmp_path)
    assert code == 1
    assert "ValueError: steps that wait for each other" in output


def is_alive(file: Path) -> bool:
    """Whether the process runs whose id is in the file; it may have been killed a moment ago."""
    pid = int(file.read_text())
    limit = time.monotonic() + TIMEOUT
    while time.monotonic() < limit:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        state = Path(f"/proc/{pid}/stat")
        if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
            return False  # and its parent has not noticed
        time.sleep(0.01)
    return True


# -- interpreters ----------------------------------------------------------------------------------


def interpreter(folder: Path, name: str, free_threaded: bool) -> Path:
    """Put this interpreter on a path by another name; it says how it was built."""
    settings = folder / f"{name}-settings"
    settings.mkdir(parents=True)
    (settings / "sitecustomize.py").write_text(
        "import sysconfig\n"
        "known = sysconfig.get_config_var\n"
        f"answers = {{'Py_GIL_DISABLED': {int(free_threaded)}}}\n"
        "sysconfig.get_config_var = lambda name: answers.get(name) or known(name)\n"
    )
    program = folder / name
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH="{settings}" exec "{os.path.realpath(sys.executable)}" "$@"\n'
    )
    program.chmod(0o755)
    return program


def test_free_threaded_build_is_not_taken_for_the_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(CI)  # pyright: ignore[reportUnknownMemberType]
    from interpreters import find_python

    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), "/bin"]))  # without pyenv
    misnamed = interpreter(tmp_path, f"python{version}", free_threaded=True)
    interpreter(tmp_path, f"python{version}t", free_threaded=False)
    assert find_python(version) is None
    assert find_python(f"{version}t") == misnamed


def test_no_interpreter_is_found_where_none_is_of_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(CI)  # pyright: ignore[reportUnknownMemberType]
    from interpreters import find_python

    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), "/bin"]))
    interpreter(tmp_path, "python3.99", free_threaded=False)
    assert find_python("3.99") is None
