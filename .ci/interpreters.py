"""Find Python interpreters, on the path and among those of pyenv."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ("find_python",)

PROBE = """
import ensurepip, sys, sysconfig  # without ensurepip, it cannot create virtual environments
free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
print("%d.%d" % sys.version_info[:2] + "t" * free_threaded)
"""


def find_python(version: str) -> Path | None:
    """Return an interpreter of a version: "3.14", or "3.14t" for a free-threaded build.

    A free-threaded build may have the name of a normal one, so each candidate is asked.
    """
    return next((path for path in _candidates(version) if _version_of(path) == version), None)


def _candidates(version: str) -> Iterator[Path]:
    number = version.removesuffix("t")
    for name in (f"python{version}", f"python{number}"):
        if found := shutil.which(name):
            yield Path(found)
    if shutil.which("pyenv"):
        asked = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=False)
        yield from sorted(Path(asked.stdout.strip(), "versions").glob(f"{number}.*/bin/python"))


def _version_of(python: Path) -> str:
    try:
        asked = subprocess.run(
            [python, "-c", PROBE], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""
