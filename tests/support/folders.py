"""Where servers of the tests keep their files: in memory where there is room for them.

They are made by the hundred, none is meant to outlast its test, and a copy of a database takes a tenth of
the time there. Paths are short, because the one of a Unix socket may have 107 bytes.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 4 * 1024**3


def short_folder(prefix: str) -> Path:
    """A new private folder."""
    has_room = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ENOUGH_BYTES
    return Path(tempfile.mkdtemp(prefix=prefix, dir=MEMORY if has_room else Path("/tmp")))
