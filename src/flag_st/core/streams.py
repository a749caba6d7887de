"""Messages on screens whose locale does not know every letter."""

import sys


def keep_messages() -> None:
    """Write letters that the locale does not know, such as µ, as escapes, so that no message is lost."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
