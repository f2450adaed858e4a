"""What a running server sends to others, and keeps for them over a restart; its rights: test_permissions."""

from pathlib import Path

import pytest

from e2e.local_run import Server
from e2e.sent_to_servers import live_with_a_server_that_does_not_answer

pytestmark = pytest.mark.slow


def test_a_server_that_does_not_answer_catches_up_over_a_restart(tmp_path: Path) -> None:
    folders = list(live_with_a_server_that_does_not_answer(tmp_path, Server, str))
    assert folders == [str(tmp_path / "sending")] * 2
