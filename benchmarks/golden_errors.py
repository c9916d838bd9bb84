"""Prints how far every network, loop and whole run is from the reference's numbers.

python benchmarks/golden_errors.py   (HAPPYHORSE_GOLDEN names another folder of cases)
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1] / "tests"


class Printer:
    """Shows the distances that the golden tests measure, as they measure them."""

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        print(f"\n{item.name}: ", end="")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        from helpers import golden_cases

        measure = golden_cases.distance

        def shown(ours: object, reference: object) -> float:
            error = measure(ours, reference)
            print(f"{error:.1e} ", end="")
            return error

        for module in {golden_cases, *(item.module for item in session.items)}:
            module.distance = shown


if __name__ == "__main__":
    files = sorted(str(path) for path in TESTS.glob("test_golden_*.py"))
    sys.exit(pytest.main(["-s", "-o", "addopts=", "-p", "no:terminal", *files], plugins=[Printer()]))
