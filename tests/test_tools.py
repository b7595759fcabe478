"""The tools that break the package still find what they break, after files and lines have moved."""

from __future__ import annotations

import pytest

from .mutation.mutate import PACKAGE, ROOT, TESTS
from .typing.mutate import MUTATIONS, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_signature_that_is_made_wrong_is_there(mutation: Mutation) -> None:
    source = (ROOT / PACKAGE / mutation.file).read_text(encoding="utf-8")
    compile(mutation.apply(source), mutation.file, "exec")


@pytest.mark.parametrize("module", TESTS)
def test_module_that_is_broken_is_there_with_its_tests(module: str) -> None:
    assert (ROOT / PACKAGE / f"{module}.py").is_file()
    for name in TESTS[module].split():
        folder, _, file = name.rpartition("/")
        assert (ROOT / "tests" / folder / f"test_{file}.py").is_file()
