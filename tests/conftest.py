"""Linux: OpenBLAS before MLX. M5: no TF32 in place of fp32. Fixtures that several files share."""

import os
import re
import tempfile

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # two processes run the tests

import helpers.openblas  # noqa: F401
import pytest
from xdist.scheduler import LoadScopeScheduling

os.environ["MLX_ENABLE_TF32"] = "0"
os.environ["HAPPYHORSE_HOME"] = tempfile.mkdtemp()

# Tests that share the page's servers.
SERVED = re.compile("tests/test_(demo_api|demo_page|readme|benchmarks.py::test_callers)")


class ByFile(LoadScopeScheduling):
    """Runs a file's tests in one process, for their fixtures, and in the same all that share a server."""

    def _split_scope(self, nodeid):
        return "served" if SERVED.match(nodeid) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)


@pytest.fixture
def case(request):
    from helpers.golden_cases import Case

    return Case(request.param)


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """The published repos at toy size, for tests that do not change them."""
    from helpers import published

    folder = tmp_path_factory.mktemp("hub")
    published.write(folder)
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The page's server, with its tools for programs."""
    pytest.importorskip("gradio")
    from helpers.demo_server import Server, serving

    with serving(Server(tmp_path_factory.mktemp("served"), "--mcp")) as server:
        yield server


@pytest.fixture(scope="session")
def slow(tmp_path_factory):
    """A server with time to look at a run: every layer takes a fifth of a second longer."""
    pytest.importorskip("gradio")
    from helpers.demo_server import Server, serving

    with serving(Server(tmp_path_factory.mktemp("slow"), slow=0.2)) as server:
        yield server
