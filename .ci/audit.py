"""Check the packages installed for an interpreter for known vulnerabilities.

Usage: ``audit.py PYTHON``, with an interpreter that has pip-audit. Exits with 1 if a package is
vulnerable, and with 77 if no advisory database can be reached.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def main(python: str) -> int:
    freeze = [python, "-m", "pip", "freeze", "--exclude", "flask-executor-typed"]
    installed = subprocess.run(freeze, stdout=subprocess.PIPE, text=True, check=True).stdout
    packages = look_up(installed)
    vulnerable = [package for package in packages if package.get("vulns")]
    unknown = [package["name"] for package in packages if "vulns" not in package]
    print(len(packages) - len(unknown), "packages checked")
    if unknown or not packages:
        print("no advisory database can be reached for", *unknown or ["any"])
    for package in vulnerable:
        print(json.dumps(package, indent=2))
    if vulnerable:
        return 1
    return 77 if unknown or not packages else 0


def look_up(installed: str) -> list[dict[str, Any]]:
    """Return pip-audit's report, a dictionary for each package; empty if there is no report."""
    with tempfile.TemporaryDirectory() as folder:
        requirements, report = Path(folder, "requirements.txt"), Path(folder, "report.json")
        requirements.write_text(installed, encoding="utf-8")
        # Its exit code and output do not show whether it has checked everything or nothing.
        options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "20"]
        subprocess.run(
            [
                *(sys.executable, "-m", "pip_audit", "--requirement", str(requirements), *options),
                *("--format", "json", "--output", str(report)),
            ],
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if not report.exists():
            return []
        packages: list[dict[str, Any]] = json.loads(report.read_text("utf-8"))["dependencies"]
        return packages


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
