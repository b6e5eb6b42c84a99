"""Whether a command may take the memory that it needs at all."""

from __future__ import annotations

import importlib.util

from ..errors import OutOfMemoryError

GIB = 2**30
# Loading numpy, scipy, SimpleITK and ONNX Runtime takes 0.7 GiB of addresses.
LEAST_GIB = 1


def require_address_space() -> None:
    """Raise where the system limits the process (`ulimit -v`) to less than the libraries take.

    The linear algebra of numpy and scipy does not fail there: it asks again and again, for ever.

    Raises:
        OutOfMemoryError: The limit is too low.
    """
    if importlib.util.find_spec("resource") is None:  # Windows has no such limit
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_GIB * GIB:
        raise OutOfMemoryError(
            f"The process must be allowed {LEAST_GIB} GiB of memory, but is limited to {limit / GIB:.1f} GiB. "
            "Raise the limit (ulimit -v)."
        )
