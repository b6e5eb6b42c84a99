"""What the tests of child processes share."""

import os
from pathlib import Path


def is_alive(process_id: int) -> bool:
    """Whether it runs; one that ended, but that nobody waited for, does not."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process_id}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
