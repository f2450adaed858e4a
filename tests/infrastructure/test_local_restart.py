"""What a local run keeps: over a stop, over kill -9, over a crash at a named point."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from infrastructure.local_process import FIXTURE, ROOT, LocalProcess

pytestmark = pytest.mark.e2e


def test_a_restart_brings_everything_back(tmp_path):
    with LocalProcess(tmp_path) as server:
        server.note("kept", "1")
        server.until("/notes/kept", {"seen": {"N": "1"}})
        server.ask("POST", "/notes/work", "kept", {"Content-Type": "text/plain"})
        server.until("/notes/kept", {"worked": {"N": "1"}})
        assert server.stop() == 0
        assert server.lines[-1] == f"saved to {tmp_path / 'store'}"
    with LocalProcess(tmp_path) as server:
        assert server.json("GET", "/notes/kept") == {
            "head": {"N": "1"},
            "row": {"N": "1"},
            "seen": {"N": "1"},
            "worked": {"N": "1"},
        }
        # Nothing changed and the end was clean: the custom resource is left alone, the stream goes on.
        assert server.json("GET", "/notes/setup") == {"Create": {"N": "1"}}
        server.note("kept", "2")
        server.until("/notes/kept", {"seen": {"N": "2"}})


def test_after_kill_9_the_saved_part_is_there_and_the_setup_hears_of_it(tmp_path):
    with LocalProcess(tmp_path, SAVE_SECONDS="0.2") as server:
        server.note("early", "1")
        server.until("/notes/early", {"seen": {"N": "1"}})
        generation = newest(tmp_path)
        server.note("early", "2")
        server.until("/notes/early", {"seen": {"N": "2"}})
        while newest(tmp_path) <= generation + 1:
            server.note("other", "1")
        assert server.kill() == -9
    with LocalProcess(tmp_path) as server:
        assert server.json("GET", "/notes/early")["head"] == {"N": "2"}
        assert server.json("GET", "/notes/setup") == {"Create": {"N": "1"}, "Update-unclean": {"N": "1"}}
        server.stop()
    with LocalProcess(tmp_path) as server:
        assert server.json("GET", "/notes/setup") == {"Create": {"N": "1"}, "Update-unclean": {"N": "1"}}


def newest(data_dir):
    return json.loads((data_dir / "store/manifest.json").read_text())["generation"]


def test_a_crash_between_commit_and_answer_keeps_the_commit_and_its_follower_catches_up(tmp_path):
    with LocalProcess(tmp_path, CRASH_AT="after-commit:2", CRASH_SAVES="1") as server:
        server.note("first", "1")
        with pytest.raises((ConnectionError, OSError)):
            server.note("second", "2")
        assert server.wait() == 137
    with LocalProcess(tmp_path) as server:
        assert server.until("/notes/second", {"seen": {"N": "2"}})["row"] == {"N": "2"}
        server.until("/notes/first", {"seen": {"N": "1"}})


def test_a_crash_without_a_save_loses_the_unsaved_whole(tmp_path):
    with LocalProcess(tmp_path, CRASH_AT="after-commit") as server:
        with pytest.raises((ConnectionError, OSError)):
            server.note("lost", "1")
        assert server.wait() == 137
    with LocalProcess(tmp_path) as server:
        assert server.json("GET", "/notes/lost") == {}


def test_a_start_under_another_name_is_refused(tmp_path):
    with LocalProcess(tmp_path, SERVER_NAME="one.test") as server:
        server.stop()
    refused = LocalProcess(tmp_path, SERVER_NAME="two.test")
    assert refused.wait() == 1
    assert refused.lines[-1] == "cannot start: Identity: the name is fixed"
    refused.__exit__()
    with LocalProcess(tmp_path, SERVER_NAME="one.test") as server:
        assert server.json("GET", "/notes/setup") == {"Create": {"N": "1"}}


def test_a_stop_does_not_wait_for_waiting_requests(tmp_path):
    with LocalProcess(tmp_path) as server, socket.create_connection(("127.0.0.1", server.port)) as waiting:
        waiting.sendall(b"GET /notes/slow?seconds=60 HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.3)
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 8
        assert server.lines[-1] == f"saved to {tmp_path / 'store'}"
    with LocalProcess(tmp_path) as server:
        assert "Update-unclean" not in server.json("GET", "/notes/setup")


def test_it_stops_and_saves_when_nobody_reads_what_it_says_any_more(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'infra'}:{ROOT / 'layers/homeserver/python'}:{ROOT / 'tests'}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "local"],
        cwd=FIXTURE.parent,
        env=environment | {"DATA_DIR": str(tmp_path), "PORT": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert any(line.startswith("listening on ") for line in process.stdout)
        process.stdout.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
    assert (tmp_path / "store").exists()
    assert not (tmp_path / "running").exists()


def test_two_processes_cannot_serve_from_one_folder(tmp_path):
    with LocalProcess(tmp_path) as server:
        second = LocalProcess(tmp_path)
        assert second.wait() == 1
        assert second.lines == [f"cannot start: {tmp_path} is in use by process {server.process.pid}"]
        second.__exit__()
        assert server.ask("GET", "/nowhere")[0] == 404


def test_a_template_that_is_missing_is_named(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "local"],
        env={
            "PYTHONPATH": f"{ROOT / 'infra'}:{ROOT / 'layers/homeserver/python'}",
            "TEMPLATE": str(FIXTURE.parent / "none.yaml"),
            "DATA_DIR": str(tmp_path),
            "PORT": "0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "none.yaml" in result.stderr
