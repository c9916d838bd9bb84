"""OpenBLAS before MLX (its Linux wheel carries a slow BLAS), tiny converted networks for all tests."""

import ctypes
import os
import sys

if sys.platform == "linux":
    try:
        ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        pass
os.environ["MLX_ENABLE_TF32"] = "0"
