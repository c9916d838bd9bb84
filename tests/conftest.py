"""Linux: OpenBLAS before MLX. M5: no TF32 in place of fp32."""

import os
import tempfile

import helpers.openblas  # noqa: F401
import pytest

os.environ["MLX_ENABLE_TF32"] = "0"
os.environ["HAPPYHORSE_HOME"] = tempfile.mkdtemp()


@pytest.fixture
def case(request):
    from helpers.golden_cases import Case

    return Case(request.param)


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
