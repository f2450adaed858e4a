"""The folder of one local server: one process at a time, and a mark while it runs."""

import fcntl
import os
from pathlib import Path


class DataDirInUse(Exception):
    """Another process serves from this folder; the message names it."""


class DataDir:
    """A folder that this process holds until it closes it.

    `unclean` says that the process before did not stop by itself: its mark was still there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(self._lock, 32).decode().strip() or "unknown"
            os.close(self._lock)
            raise DataDirInUse(f"{path} is in use by process {owner}") from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        self._mark = path / "running"
        self.unclean = self._mark.exists()
        self._mark.write_text(f"{os.getpid()}\n", encoding="utf-8")

    @property
    def store(self) -> Path:
        """Where snapshots are."""
        return self.path / "store"

    def close(self, *, clean: bool) -> None:
        """Let the folder go; `clean` takes the mark away."""
        if clean:
            self._mark.unlink(missing_ok=True)
        os.close(self._lock)
