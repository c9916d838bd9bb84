"""Linux: OpenBLAS before MLX, whose own BLAS is slow there. M5: no TF32 in place of fp32."""

import ctypes
import os
import sys
import tempfile
from contextlib import suppress

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two processes run the tests
if sys.platform == "linux":
    with suppress(OSError):
        ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
os.environ["MLX_ENABLE_TF32"] = "0"
os.environ["HAPPYHORSE_HOME"] = tempfile.mkdtemp()

import pytest


@pytest.fixture
def case(request):
    from golden_cases import Case

    return Case(request.param)


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
