"""A journal without room, under load: nothing is answered that is not recorded, and it heals by itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from assay.decision.v1 import decision_service_pb2 as pb
from engine.record.keys import request_key
from engine.record.reader import JournalReader
from tests.support.applications import consumer
from tests.support.errors import failure_of
from tests.support.served_commands import assert_journal_is_whole
from tests.support.served_load import TIMEOUT_S, Kind, Load, applications_of, as_given
from tests.support.server import Client, running

CALLS: tuple[Kind, ...] = ("decide", "decide", "batch", "stream")
DEVICE = "the-device"
_BOUND = 64 << 20


def make() -> pb.DecideRequest:
    request = consumer()
    for entity in request.application.entities:
        if entity.entity == "device":
            entity.id = DEVICE
    return request


@contextlib.contextmanager
def small_file_system(directory: Path) -> Iterator[None]:
    """Mounts one; skips the test, loudly, where that is not to be had."""
    if os.geteuid() != 0:
        pytest.skip("SKIPPED: a full file system under a served journal: mounting one needs root")
    directory.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(directory)]
    mount = subprocess.run(words, capture_output=True, text=True, check=False)
    if mount.returncode != 0:
        pytest.skip(f"SKIPPED: a full file system under a served journal: no tmpfs here: {mount.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(filler: Path) -> None:
    """Takes all room that there is, up to the bound."""
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while filler.stat().st_size < _BOUND:
            file.write(b"x" * 4096)


def exhaust(filler: Path, load: Load) -> None:
    """Takes the room until there is only failure. A record that had no room gives back what it had taken of it, where
    a smaller one may then find room, and rightly be answered."""
    for _ in range(50):
        fill(filler)
        given = len(load.told)
        load.wait_failed(30)
        if len(load.told) == given:
            return
    raise AssertionError("it goes on answering without room for records")


def assert_given_again(client: Client, load: Load) -> None:
    """Every decision that was given is found, and given again for its request."""
    for told in list(load.told):
        expected = as_given(told.decision, replayed=True)
        wanted = pb.GetDecisionRequest(decision_id=told.decision.decision_id)
        assert client.stub.GetDecision(wanted, timeout=TIMEOUT_S).decision == expected
        assert client.stub.Decide(told.request, timeout=TIMEOUT_S).decision == expected


@pytest.mark.parametrize("bound", ["disk", "setting"])
def test_without_room_no_answer_is_given_and_with_room_it_goes_on(bound: str, tmp_path: Path) -> None:
    journal, filler = tmp_path / "decisions", tmp_path / "decisions" / "filler"
    settings = {"ASSAY_RECORD_SEGMENT_BYTES": "131072"}
    with contextlib.ExitStack() as stack:
        if bound == "disk":
            stack.enter_context(small_file_system(journal))
        else:
            settings["ASSAY_RECORD_BYTES_MAX"] = str(_BOUND)
        with running(tmp_path, settings=settings) as (server, client):
            with Load(server.address, make, CALLS, rest_s=0.01) as load:
                load.wait(10, CALLS)
                for _ in range(2):
                    exhaust(filler, load)
                    with pytest.raises(grpc.RpcError) as refused:
                        client.stub.Decide(make(), timeout=TIMEOUT_S)
                    assert failure_of(refused.value).reason == "RECORD_FAILED"
                    told = load.told[-1]
                    again = client.stub.Decide(told.request, timeout=TIMEOUT_S).decision
                    assert again == as_given(told.decision, replayed=True)
                    filler.unlink()
                    # Nobody touches the server: it goes on by itself.
                    load.wait(10, CALLS)
            assert server.process.poll() is None
            for failure, _ in load.failed:
                assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "RECORD_FAILED"), failure
            assert_given_again(client, load)
            # Who was refused asks again: decided now, once.
            left = {request.request_id: request for _, requests in load.failed for request in requests}
            for request in list(left.values())[:40]:
                decision = client.stub.Decide(request, timeout=TIMEOUT_S).decision
                assert not decision.replayed
                assert client.stub.Decide(request, timeout=TIMEOUT_S).decision == as_given(decision, replayed=True)
            assert "Traceback" not in server.output.replace("the journal failed", ""), server.output
            server.stop(signal.SIGKILL)
        with running(tmp_path, settings=settings) as (server, client):
            assert_given_again(client, load)
            stored = list(JournalReader(journal).decisions())
            assert applications_of(client, DEVICE) == len(stored)
            assert server.stop() == 0
        keys = [one.request_key for one in stored]
        assert len(keys) == len(set(keys)) == len({one.decision_id for one in stored})
        assert len(keys) == len(load.told) + min(len(left), 40)
        assert {request_key("", one.request.request_id) for one in load.told} <= set(keys)
        assert_journal_is_whole(tmp_path)
