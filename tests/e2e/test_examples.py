"""The examples of the documentation, run as a reader runs them."""

import json
import re
import subprocess
import sys
from pathlib import Path

from e2e.local_run import SERVER_NAME, Server
from infrastructure.local_process import ROOT

README = ROOT / "README.md"


def test_the_example_of_a_client_library_ends_with_a_message_that_was_heard(server: Server) -> None:
    example = ROOT / "docs" / "examples" / "conversation.py"
    done = subprocess.run(
        [sys.executable, str(example), server.url], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    alice, bob, message = done.stdout.splitlines()
    assert re.fullmatch(rf"registered @alice-[0-9a-f]{{6}}:{SERVER_NAME}", alice)
    assert re.fullmatch(rf"registered @bob-[0-9a-f]{{6}}:{SERVER_NAME}", bob)
    assert message == f"Tea: {alice.removeprefix('registered ')} says 'Is there tea?'"


def test_the_conversation_of_the_readme_ends_with_the_message_in_a_waiting_sync(server: Server, tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    conversation = next(block for block in blocks if "API=http://127.0.0.1:8008" in block)
    conversation = conversation.replace("http://127.0.0.1:8008", server.url).replace(":localhost", f":{SERVER_NAME}")
    command = ["bash", "-euc", conversation]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "errcode" not in done.stdout
    [room] = json.loads((tmp_path / "news.json").read_bytes())["rooms"]["join"].values()
    [message] = room["timeline"]["events"]
    assert message["sender"] == f"@alice:{SERVER_NAME}"
    assert message["content"] == {"msgtype": "m.text", "body": "Is there tea?"}
    assert done.stdout.rstrip().endswith("}")
