"""Every Python example of the documentation and the README runs; what they claim is checked.

The blocks of a page run one after the other, as one module. In reStructuredText they are
``.. code-block:: python`` (or ``pycon``, for a session with its output), in Markdown fences with
these names. A block with the option ``:caption: NAME.py`` is a module of that name, which later
blocks import. Three kinds of comments are for the tests alone; in Markdown, ``<!-- ... -->``:

- ``.. hidden-code-block: python``, with an indented block: runs, and is not shown. It prepares
  what an example needs, and checks what the example does.
- ``.. requires: NAME``: the next block runs only where module ``NAME`` can be imported.
- ``.. not-run: REASON``: the next block is not run.

A page with a comment ``.. apart: NAME`` is about a library that changes the process it is used in:
it runs in a process of its own, and only where module ``NAME`` can be imported.
"""

from __future__ import annotations

import ast
import doctest
import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from weakref import ref

import pytest

import flask_executor_typed
from flask_executor_typed import Executor, testing
from flask_executor_typed.config import ExecutorConfig

from .typing.check import CHECKERS, read_rows

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.rst")), *ROOT.glob("README.md")]

_BLOCKS = {
    ".rst": re.compile(
        r"""
        ^(?P<mark>[ ]*)[.][.][ ](?:code-block::[ ](?:python|pycon)|hidden-code-block:[ ]python)\n
        (?P<options>(?:(?P=mark)[ ]+:.*\n)*)
        (?P<code>(?:[ ]*\n|(?P=mark)[ ]+\S.*(?:\n|\Z))+)  # all that is indented more
        |^[ ]*[.][.][ ](?P<how>requires|not-run):[ ](?P<why>.+)\n
        """,
        re.MULTILINE | re.VERBOSE,
    ),
    ".md": re.compile(
        r"""
        ^[ ]*```(?:python|pycon)\n(?P<code>(?:.*\n)*?)[ ]*```$
        |^<!--[ ]hidden-code-block:[ ]python\n(?P<hidden>(?:.*\n)*?)-->$
        |^<!--[ ](?P<how>requires|not-run):[ ](?P<why>.+)[ ]-->\n
        """,
        re.MULTILINE | re.VERBOSE,
    ),
}


@dataclass(frozen=True)
class Block:
    line: int
    """The line of the page that its first line is on, from 1."""
    code: str
    caption: str = ""
    how: str = ""
    """``requires`` or ``not-run``, if a comment said so."""
    why: str = ""

    @property
    def is_to_run(self) -> bool:
        if self.how == "requires":
            return importlib.util.find_spec(self.why) is not None
        return self.how != "not-run"


def blocks_of(text: str, kind: str) -> Iterator[Block]:
    how = why = ""
    for match in _BLOCKS[kind].finditer(text):
        if match["how"]:
            how, why = match["how"], match["why"]
            continue
        group = "code" if match["code"] is not None else "hidden"
        line = text.count("\n", 0, match.start(group)) + 1
        caption = re.search(r":caption: (.+)", match.groupdict().get("options") or "")
        code = textwrap.dedent(match[group])
        yield Block(line, code, caption[1] if caption else "", how, why)
        how = why = ""


def run(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Block]:
    """Run the blocks of a page as one module, and return those that ran."""
    modules: list[str] = []
    ran: list[Block] = []
    module = ModuleType(f"page_{path.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys, "path", [os.getcwd(), *sys.path])
    monkeypatch.setattr(module, "__file__", os.path.join(os.getcwd(), "page.py"), raising=False)
    try:
        for block in blocks_of(path.read_text(encoding="utf-8"), path.suffix):
            if not block.is_to_run:
                continue
            if block.caption.endswith(".py"):
                modules.append(block.caption[:-3])
                Path(block.caption).write_text(block.code, encoding="utf-8")
            elif block.code.lstrip().startswith(">>>"):
                _run_session(block, path, module)
            else:
                # Lines before it, so that a traceback names the line of the page.
                code = "\n" * (block.line - 1) + block.code
                exec(compile(code, str(path), "exec", dont_inherit=True), vars(module))
            ran.append(block)
    finally:
        for value in list(vars(module).values()):
            if isinstance(value, Executor):
                value.shutdown()
        _disconnect_all()
        for name in modules:
            sys.modules.pop(name, None)
    return ran


_SIGNAL = re.compile(r"job_\w+")


def _disconnect_all() -> None:
    """Receivers of a page must not hear of the jobs of other tests."""
    for name in filter(_SIGNAL.fullmatch, flask_executor_typed.__all__):
        signal = getattr(flask_executor_typed, name)
        for reference in list(signal.receivers.values()):
            signal.disconnect(reference() if isinstance(reference, ref) else reference)


def _run_session(block: Block, path: Path, module: ModuleType) -> None:
    test = doctest.DocTestParser().get_doctest(
        block.code, {}, path.name, str(path), lineno=block.line - 1
    )
    test.globs = vars(module)  # itself and not a copy: the next block sees what this one sets
    report: list[str] = []
    # A long line of output may be wrapped on the page.
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    results = doctest.DocTestRunner(optionflags=flags).run(
        test, out=report.append, clear_globs=False
    )
    assert not results.failed, "".join(report)


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a directory of its own: examples may make files."""
    monkeypatch.chdir(tmp_path)


_RUNS_APART = "FLASK_EXECUTOR_TYPED_PAGE_APART"


def run_apart(path: Path) -> None:
    """Run the test below for a page that changes the process that it runs in."""
    test = f"{__file__}::test_the_examples_of_the_page_run[{path.name}]"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
        cwd=ROOT,
        env={**os.environ, _RUNS_APART: path.name, "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_examples_of_the_page_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apart = re.search(r"^\.\. apart: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    if apart and _RUNS_APART not in os.environ:
        pytest.importorskip(apart[1])
        run_apart(path)
        return
    blocks = blocks_of(path.read_text(encoding="utf-8"), path.suffix)
    assert run(path, monkeypatch) == [block for block in blocks if block.is_to_run]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_example_of_the_page_is_overlooked(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    blocks = list(blocks_of(text, path.suffix))
    looks_like_a_block = re.compile(r"(?:code-block:+[ ]*|```)(?:python|pycon)", re.IGNORECASE)
    assert len(blocks) == len(looks_like_a_block.findall(text))
    assert text.count(">>>") == sum(block.code.count(">>>") for block in blocks)
    for block in blocks:
        if ">>>" not in block.code:
            ast.parse(block.code)


@pytest.mark.parametrize(
    "example",
    [
        ".. code-block:: python\n\n    assert 1 == 2\n",
        ".. code-block:: python\n    :emphasize-lines: 1\n\n    assert 1 == 2",
        "- item\n\n  .. code-block:: python\n\n      assert 1 == 2\n\n  more\n",
        ".. hidden-code-block: python\n\n    a = 1\n\n.. code-block:: python\n\n    assert a < 1\n",
        ".. code-block:: pycon\n\n    >>> 1 + 1\n    3\n",
        ".. requires: flask\n\n.. code-block:: pycon\n\n    >>> 1 + 1\n    3\n",
    ],
)
def test_a_wrong_example_fails(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.rst"
    page.write_text(f"Title\n=====\n\nText\n\n{example}")
    with pytest.raises(AssertionError):
        run(page, monkeypatch)


@pytest.mark.parametrize(
    "example",
    [
        "Text:\n\n```python\nassert 1 == 2\n```\n",
        "<!-- hidden-code-block: python\na = 1\n-->\n\n```python\nassert a == 2\n```\n",
        "```pycon\n>>> 1 + 1\n3\n\n```\n",
    ],
)
def test_a_wrong_example_in_markdown_fails(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(example)
    with pytest.raises(AssertionError):
        run(page, monkeypatch)


def test_what_is_not_to_run_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.rst"
    wrong = ".. code-block:: python\n\n    assert 1 == 2\n"
    page.write_text(f".. not-run: it is wrong\n\n{wrong}\n.. requires: no_such_module\n\n{wrong}")
    assert run(page, monkeypatch) == []


def test_a_failing_example_is_reported_with_the_line_of_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.rst"
    page.write_text("Title\n=====\n\n.. code-block:: python\n\n    a = 1\n    1 / 0\n")
    with pytest.raises(ZeroDivisionError) as caught:
        run(page, monkeypatch)
    last = caught.traceback[-1]
    assert (str(last.path), last.lineno + 1) == (str(page), 7)


@pytest.mark.parametrize("field", fields(ExecutorConfig), ids=lambda field: field.name)
def test_every_setting_is_documented_with_its_default(field: object) -> None:
    name, default = getattr(field, "name"), getattr(field, "default")  # noqa: B009  # Field[Any]
    text = (DOCS / "configuration.rst").read_text(encoding="utf-8")
    entry = rf"\.\. confval:: EXECUTOR_{name.upper()}\n    :type: .+\n    :default: ``(.+)``\n"
    match = re.search(entry, text)
    assert match is not None
    assert match[1] == repr(default)


def test_each_promise_of_the_typing_page_is_a_case_of_its_checkers() -> None:
    text = (DOCS / "typing.rst").read_text(encoding="utf-8").replace("``", "")
    promised: dict[str, set[str]] = {}
    for row, cells in re.findall(r"^    \* - (\w.+)\n((?:      - .+\n){4})", text, re.MULTILINE):
        found = zip(CHECKERS, re.findall(r"- (.+)", cells), strict=True)
        promised[row] = {checker for checker, cell in found if cell not in {"exact", "error"}}
    cased: dict[str, set[str]] = {}
    for file in sorted((ROOT / "tests/typing/cases").glob("*.py")):
        for row, exempt in read_rows(file):
            cased.setdefault(row, set()).update(exempt)
    assert cased == promised


def test_the_reference_has_every_public_name_and_no_other() -> None:
    text = (DOCS / "api.rst").read_text(encoding="utf-8")
    names = re.findall(r"^\.\. (?:auto\w+|data):: (\w+)(?:\(\))?$", text, re.MULTILINE)
    of_engines = ("Engine", "Message", "Route", "run_message")
    public = [*flask_executor_typed.__all__, *testing.__all__, *of_engines]
    assert sorted(names) == sorted(public)


def test_the_changelog_begins_with_the_current_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)", text, re.MULTILINE)[0] == flask_executor_typed.__version__


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-n", "--keep-going", "-b", "html"]
    built = subprocess.run(
        [*command, str(DOCS), str(tmp_path / "site")], capture_output=True, text=True, check=False
    )
    assert (built.returncode, built.stderr) == (0, "")
    assert "Unreleased" in (tmp_path / "site/changelog.html").read_text(encoding="utf-8")


# What is promised


PROMISES = (DOCS / "promises.rst").read_text(encoding="utf-8")


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(
    "promise",
    re.split(r"^- ", PROMISES, flags=re.MULTILINE)[1:],
    ids=lambda promise: promise.partition("\n")[0],
)
def test_each_promise_names_tests_that_there_are(promise: str) -> None:
    named = re.findall(r"``(tests/\S+)::(test_\w+)``", promise)
    assert named
    assert promise.count("``tests/") == len(named)
    for file, name in named:
        assert name in functions_of(ROOT / file)
