"""Linux: OpenBLAS before MLX, whose own BLAS is slow there."""

import ctypes
import sys
from contextlib import suppress

if sys.platform == "linux":
    with suppress(OSError):
        ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
