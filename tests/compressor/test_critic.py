"""Replies audited in the background, through a whole mesh: judged once, counted once, told to their tenant alone."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import grpc.aio
import httpx
import pytest
from isthmus.gateway.v1 import audit_service_pb2
from isthmus.gateway.v1.audit_service_pb2_grpc import AuditServiceStub
from redis.asyncio import Redis

from compressor.critic.audit import without_calls
from compressor.critic.prompt import answered, asked, manifest, schema
from compressor.room import CompressorRoom
from inference.engines.scripted_form import instance
from services.audits.keeper import AuditKeeper
from services.claims.judge import Verdict
from services.cli import audits
from services.cli.target import Target
from services.config import Settings
from services.tool_calls import call
from tests.gateway.client import connected, turn_request
from tests.support.eventually import eventually
from tests.support.mesh import COMPRESSOR, Mesh, changed, running_mesh

VOCABULARY = (
    "The narrow way between two lands carries what has changed and nothing else, so a long story stays where it was "
    "told while each new word crosses on its own and comes back with an answer that knows all of it. "
    "So it is that the narrow way between two lands carries what has changed and else a long story stays where it was "
    "told while each new word crosses on its own and comes back with an answer that knows all of it."
)
Audits = list[audit_service_pb2.Audit]


def audited(settings: Settings, **values: object) -> Settings:
    """Every turn is audited, by quick jobs."""
    settings = changed(settings, "inference", engine="scripted", scripted_output_tokens=24)
    settings = changed(settings, "gateway", validation={"audit_share": 1.0})
    return changed(settings, "compressor", job_retry_ms_min=20, job_retry_ms_max=100, **values)


async def list_audits(mesh: Mesh, count: int) -> Audits:
    """Waits until so many turns are audited; newest first."""
    async with grpc.aio.insecure_channel(mesh.grpc_target) as channel:
        stub = AuditServiceStub(channel)

        async def found() -> Audits:
            listed = await stub.ListAudits(audit_service_pb2.ListAuditsRequest())
            return list(listed.audits) if len(listed.audits) >= count else []

        return await eventually(found, timeout_s=120, message=f"{count} audits")


async def rate(mesh: Mesh, **fields: str) -> audit_service_pb2.HallucinationRate:
    """What is told of the local tenant."""
    async with grpc.aio.insecure_channel(mesh.grpc_target) as channel:
        request = audit_service_pb2.GetHallucinationRateRequest(**fields)
        return await AuditServiceStub(channel).GetHallucinationRate(request)


async def test_replies_are_judged_by_what_their_window_says(
    settings: Settings, valkey: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_mesh(audited(settings), shards=1, compressors=1) as mesh:
        async with connected(mesh.grpc_target) as client:
            await client.create("s1")
            # Of an earlier turn, so that the window has to be read.
            await client.turn(turn_request("s1", VOCABULARY))
            second = await client.turn(turn_request("s1", "Where?"))
            await client.create("s2")
            await client.turn(turn_request("s2", "Entirely otherwise."))
        found = {each.turn: each for each in await list_audits(mesh, 3)}
        kept = found[second.name]
        assert (kept.method, kept.model, kept.fallback) == ("lexical", "scripted", "")
        [claim] = kept.claims
        assert claim.verdict == audit_service_pb2.Claim.VERDICT_SUPPORTED
        assert 0 <= claim.start_byte < claim.end_byte <= len(second.output_text.encode())
        [other] = found["sessions/s2/turns/1"].claims
        assert other.verdict == audit_service_pb2.Claim.VERDICT_UNSUPPORTED

        total = (await rate(mesh)).total
        assert (total.audits, total.claims, total.supported, total.unsupported) == (3, 3, 2, 1)
        assert total.rate == pytest.approx(1 / 3)
        assert not (await rate(mesh, model="another")).rows
        assert not (await rate(mesh, last_day="2020-01-01")).total.HasField("rate")
        with pytest.raises(grpc.aio.AioRpcError, match="first_day"):
            await rate(mesh, first_day="2020-02-31")
        room = mesh.rooms[f"{COMPRESSOR}-0"]
        assert isinstance(room, CompressorRoom)
        async with httpx.AsyncClient() as http:
            metrics = (await http.get(f"http://{room.http_address}/metrics")).text
        assert 'isthmus_audited_claims_total{model="scripted",verdict="unsupported"} 1.0' in metrics
        # Nobody else's.
        keeper = AuditKeeper(valkey, settings.compressor.audits)
        assert await keeper.page("local", "", 10)
        assert await keeper.page("another", "", 10) == []

        target = Target(mesh.grpc_target)
        capsys.readouterr()
        await asyncio.to_thread(audits.rate, "", "", "", target, as_json=True)
        assert json.loads(capsys.readouterr().out)["total"]["audits"] == 3
        await asyncio.to_thread(audits.list_audits, 2, target, as_json=True)
        assert len(json.loads(capsys.readouterr().out)["audits"]) == 2
        await asyncio.to_thread(audits.list_audits, 10, target, as_json=False)
        await asyncio.to_thread(audits.rate, "", "", "", target, as_json=False)
        assert "33.3%" in capsys.readouterr().out


async def test_a_critic_model_judges_and_words_do_where_it_fails(settings: Settings) -> None:
    settings = audited(settings)
    async with running_mesh(settings, shards=1) as mesh, connected(mesh.grpc_target) as client:
        for number, critic in enumerate(("scripted", "nobody"), start=1):
            member = f"{COMPRESSOR}-{number}"
            await mesh.add(CompressorRoom, member, changed(settings, "compressor", audits={"critic": critic}))
            await client.create(f"s{number}")
            await client.turn(turn_request(f"s{number}", "Entirely otherwise."))
            newest = (await list_audits(mesh, number))[0]
            [claim] = newest.claims
            if critic == "scripted":
                # It says what comes first of what it may say.
                assert (newest.method, newest.fallback) == ("model:scripted", "")
                assert claim.verdict == audit_service_pb2.Claim.VERDICT_SUPPORTED
            else:
                assert (newest.method, newest.fallback) == ("lexical", "MODEL_NOT_FOUND")
                assert claim.verdict == audit_service_pb2.Claim.VERDICT_UNSUPPORTED
            await mesh.remove(member, drain=True)


async def test_a_killed_critic_loses_and_doubles_no_verdict(settings: Settings, tmp_path: Path) -> None:
    count = 6
    settings = audited(settings, jobs_concurrent_max=1, job_redelivery_ms=1_000, audits={"critic": "scripted"})
    # A critic that takes its time, so that the kill falls into an audit.
    settings = changed(settings, "inference", scripted_ttft_ms=300)
    async with running_mesh(settings, shards=1) as mesh, connected(mesh.grpc_target) as client:
        for number in range(count):
            await client.create(f"s{number}")
        await asyncio.gather(*(client.turn(turn_request(f"s{number}", "Where?")) for number in range(count)))
        doomed = start_process(settings, tmp_path, "compressor-0")
        try:
            await list_audits(mesh, 2)
        finally:
            doomed.kill()
            doomed.wait()
        heir = start_process(settings, tmp_path, "compressor-1")
        try:
            found = await list_audits(mesh, count)
        finally:
            heir.terminate()
            assert heir.wait() == 0
        assert sorted(each.turn for each in found) == [f"sessions/s{number}/turns/1" for number in range(count)]
        total = (await rate(mesh)).total
        assert (total.audits, total.claims) == (count, sum(len(each.claims) for each in found))


def start_process(settings: Settings, folder: Path, member: str) -> subprocess.Popen[bytes]:
    """A compressor of its own."""
    config = folder / f"{member}.json"
    config.write_text(settings.model_dump_json())
    argv = [sys.executable, "-m", "compressor", "--member", member, "--listen", "127.0.0.1:0"]
    return subprocess.Popen(argv, env={**os.environ, "ISTHMUS_CONFIG": str(config)})


def test_what_the_critic_is_asked_is_bounded_and_its_answer_has_one_form() -> None:
    claims = ["Ä claim of some length."] * 3
    text = asked(claims, [["x" * 10_000, "y"], [], ["z" * 10_000]], 1_024)
    assert len(text.encode()) < 1_200
    assert [f"Claim c{number}" in text for number in (1, 2, 3, 4)] == [True, True, True, False]
    answer = json.dumps(instance(schema(3)))
    assert answered(answer, 3) == [Verdict.SUPPORTED] * 3
    for wrong in ("no", "[]", "{}", '{"c1": "supported", "c2": "maybe", "c3": "supported"}'):
        with pytest.raises(ValueError, match=r".+"):
            answered(wrong, 3)
    window = manifest(text)
    assert window.end.item_count == len(window.new_items) == 2


def test_calls_claim_nothing_and_places_stay() -> None:
    made = call("greet", '{"name": "Ädä"}')
    text = f"Before it. {made} After it."
    blank = without_calls(text)
    assert len(blank) == len(text)
    assert blank.split() == ["Before", "it.", "After", "it."]
    assert without_calls("<tool_call> cut").strip() == ""
