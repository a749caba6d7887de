"""One run at a time in a results folder."""

import fcntl
import os
import socket
from datetime import datetime
from pathlib import Path
from typing import IO

from flag_st.core.errors import FlagError

NAME = ".running"


def lock(results: str | Path) -> IO[str]:
    """Hold a results folder for as long as the returned file stays open.

    Snakemake's own lock belongs to a working directory, of which two may share a results folder, and
    stays behind when a run is killed. The system drops this one when the process ends, however it ends.

    Raises:
        FlagError: another run holds the folder.
    """
    path = Path(results) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - it stays open
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise FlagError(
            f"another run works in {results} ({file.read().strip() or 'it has just begun'})",
            remedy="wait until it has ended and give the same command again, or give this run another "
            "folder: --config results=DIR",
        ) from None
    except OSError:
        return file  # the file system has no locks
    file.truncate(0)
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    file.write(f"process {os.getpid()} on {socket.gethostname()}, since {now}\n")
    file.flush()
    return file
