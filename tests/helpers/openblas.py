"""Linux: OpenBLAS before MLX, whose own BLAS is slow there."""

import ctypes
import os
import sys
from contextlib import suppress

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two processes run the tests
if sys.platform == "linux":
    with suppress(OSError):
        ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
