"""Print how far every network, loop and whole run is from the reference's numbers.

python benchmarks/golden_errors.py [OPTIONS OF PYTEST]   (HAPPYHORSE_GOLDEN names another folder of cases)
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

TESTS = Path(__file__).parents[1] / "tests"

Numbers = mx.array | np.ndarray


class Printer:
    """Shows the distances that the golden tests measure, as they measure them."""

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        print(f"\n{item.name}: ", end="")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        from helpers import golden_cases

        measure = golden_cases.distance

        def shown(ours: Numbers, reference: Numbers) -> float:
            error = measure(ours, reference)
            print(f"{error:.1e} ", end="")
            return error

        modules = {item.module for item in session.items if isinstance(item, pytest.Function)}
        for module in {golden_cases, *modules}:
            module.distance = shown  # type: ignore[attr-defined]


def main(arguments: list[str] | None = None) -> int:
    files = sorted(str(path) for path in TESTS.glob("test_golden_*.py"))
    options = ["-s", "-o", "addopts=", "-p", "no:terminal", *(arguments or sys.argv[1:])]
    return int(pytest.main([*options, *files], plugins=[Printer()]))


if __name__ == "__main__":
    sys.exit(main())
