"""Whatever branch of the authorisation rules is changed, one of their tests fails."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[2]


def test_a_change_of_any_branch_of_the_rules_is_noticed() -> None:
    # A process of its own: the code of the rules is exchanged while it runs.
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "layers" / "homeserver" / "python")])
    run = subprocess.run(
        [sys.executable, "-m", "mutations.event_auth"],
        capture_output=True,
        text=True,
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    changes = int(run.stdout.splitlines()[-1].split()[0])
    assert changes > 500
