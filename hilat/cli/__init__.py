"""The command line: thin commands over the packages. `hilat --help` lists them."""

from __future__ import annotations

import os
import sys

from hilat.admissions import HilatError


def main() -> None:
    """Entry point of the `hilat` script: exit code 0, 1 for a job that failed, 2 for wrong usage."""
    # Threads that wait asleep: on a machine that others use too, waiting in a loop takes over twice as long (measured on
    # two busy cores, 0.27 s a step against 0.11), and on a quiet one a tenth less. Read when torch is first loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from hilat.cli.app import app
    from hilat.cli.console import fail, quiet_libraries

    quiet_libraries()
    try:
        app()
    except HilatError as error:
        fail(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        fail("interrupted; what was finished is kept")
        sys.exit(1)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        fail(f"the system refused{where}: {error.strerror or type(error).__name__}; free space or check permissions")
        sys.exit(1)
    except MemoryError:
        fail("out of memory; lower --batch-size, the number of chunks, or the size of the model")
        sys.exit(1)
    except Exception as error:  # no traceback, which could hold a patient's text, unless it is asked for
        if os.environ.get("HILAT_DEBUG"):
            raise
        place = _place(error)
        fail(
            f"unexpected {type(error).__name__} in {place}; this is a fault of hilat. Run again with HILAT_DEBUG=1 for "
            "the traceback (it may show note text: do not share it) and report the place"
        )
        sys.exit(1)


def _place(error: BaseException) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return f"{frame.tb_frame.f_globals.get('__name__', '?')}:{frame.tb_lineno}" if frame else "an unknown place"
