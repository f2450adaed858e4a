"""`python -m local`: run the homeserver on this machine, from the folder that holds template.yaml."""

import logging
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path


def main() -> int:
    """Serve until stopped; the exit status is 1 when it could not start."""
    root = Path(os.environ.get("TEMPLATE") or "template.yaml").resolve()
    for folder in ("infra", "functions", "layers/homeserver/python"):
        path = str(root.parent / folder)
        if path not in sys.path:
            sys.path.insert(0, path)
    # Each waiting request holds a socket, and its thread an event loop with three descriptors.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")

    from local.custom_resources import CustomResourceError  # noqa: PLC0415 - the paths above come first
    from local.data_dir import DataDirInUse  # noqa: PLC0415
    from local.server import LocalRun  # noqa: PLC0415
    from local.snapshot import SnapshotError  # noqa: PLC0415
    from local.template import TemplateError  # noqa: PLC0415

    def say(text: str) -> None:
        # Whoever started us may be gone and its end of the pipe with it: stopping and saving must go on.
        with suppress(BrokenPipeError):
            print(text, flush=True)

    try:
        run = LocalRun(root, os.environ, say)
    except (TemplateError, DataDirInUse, SnapshotError, CustomResourceError, OSError) as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 1
    run.serve()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    # All is saved. Threads of requests that still wait for something would hold the process up.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
