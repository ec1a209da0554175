"""What Prometheus reads of a replica: the conventions' histograms, and the queue as it stands."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from isthmus.inference.v1 import inference_service_pb2 as contract

from inference.metrics import InferenceMetrics
from inference.room import InferenceRoom
from services.config import Settings
from services.lifecycle import RoomContext
from tests.inference.items import item, manifest
from tests.inference.replica import Replica, error_of
from tests.support.eventually import eventually

LOCAL = '{engine="scripted",model="scripted"}'
CHAT = 'gen_ai_operation_name="chat",gen_ai_provider_name="scripted",gen_ai_request_model="scripted"'
WINDOW = manifest([item("What has changed?")])


class Scraped(Replica):
    """A replica whose metrics can be read."""

    async def metrics(self) -> dict[str, float]:
        """Each sample's value by its name and labels."""
        async with httpx.AsyncClient() as http:
            answer = await http.get(f"http://{self.room.metrics_address}/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        lines = [line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#")]
        assert len({name for name, _, _ in lines}) == len(lines), "no sample comes twice"
        return {name: float(value) for name, _, value in lines}


@asynccontextmanager
async def scraped(settings: Settings, cache_dir: Path, **inference: Any) -> AsyncIterator[Scraped]:
    section = settings.inference.model_copy(update={"engine": "scripted", "cache_dir": cache_dir, **inference})
    changed = settings.model_copy(update={"inference": section})
    context = RoomContext(changed, "replica-1", "127.0.0.1:0", "127.0.0.1:0")
    room = InferenceRoom(context)
    try:
        await room.start()
        async with grpc.aio.insecure_channel(room.address) as channel:
            yield Scraped(room, context, channel)
    finally:
        await room.stop()


def buckets(samples: dict[str, float], name: str) -> list[float]:
    edges = [re.search(r'le="([^"]+)"', sample) for sample in samples if sample.startswith(f"{name}_bucket{{")]
    return sorted({float(edge[1]) for edge in edges if edge is not None and edge[1] != "+Inf"})


async def test_a_reply_is_in_the_conventions_histograms(settings: Settings, cache_dir: Path) -> None:
    # At a pace: of a reply that is there at once no token takes any time.
    async with scraped(settings, cache_dir, scripted_tokens_per_s=1_000) as replica:
        first = await replica.generate(WINDOW)
        again = await replica.generate(WINDOW)
        samples = await replica.metrics()
    window_tokens = first.started.window_tokens
    assert samples[f'gen_ai_server_request_duration_seconds_count{{error_type="",{CHAT}}}'] == 2
    assert samples[f"gen_ai_server_time_to_first_token_seconds_count{{{CHAT}}}"] == 2
    assert samples[f"gen_ai_server_time_per_output_token_seconds_count{{{CHAT}}}"] == 2
    assert samples[f'gen_ai_client_token_usage_sum{{{CHAT},gen_ai_token_type="input"}}'] == 2 * window_tokens
    assert samples[f'gen_ai_client_token_usage_sum{{{CHAT},gen_ai_token_type="output"}}'] == 2 * 64
    cached = again.finished.cached_tokens / window_tokens
    assert cached > 0.5
    assert samples[f"isthmus_inference_cached_ratio_sum{LOCAL}"] == pytest.approx(cached)
    assert samples[f"isthmus_inference_queue_seconds_count{LOCAL}"] == 2
    assert samples[f"isthmus_inference_engine_restarts_total{LOCAL}"] == 0
    assert samples["process_open_fds"] > 0
    first_token_s, decode_s, request_s = (
        samples[f"gen_ai_server_{name}_seconds_sum{{{labels}}}"]
        for name, labels in (
            ("time_to_first_token", CHAT),
            ("time_per_output_token", CHAT),
            ("request_duration", f'error_type="",{CHAT}'),
        )
    )
    assert 0 < first_token_s < request_s
    assert 0 < decode_s < request_s


async def test_the_buckets_are_the_conventions(settings: Settings, cache_dir: Path) -> None:
    async with scraped(settings, cache_dir) as replica:
        await replica.generate(WINDOW)
        samples = await replica.metrics()
    seconds = buckets(samples, "gen_ai_server_request_duration_seconds")
    assert seconds == pytest.approx(
        [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
    )
    assert buckets(samples, "gen_ai_server_time_to_first_token_seconds") == [
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    ]  # fmt: skip
    assert buckets(samples, "gen_ai_server_time_per_output_token_seconds") == [
        0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
    ]  # fmt: skip
    assert buckets(samples, "gen_ai_client_token_usage") == [
        1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864,
    ]  # fmt: skip


async def test_what_waits_is_what_to_scale_by(settings: Settings, cache_dir: Path) -> None:
    bounds = {"requests_running_max": 1, "scripted_tokens_per_s": 20}
    async with scraped(settings, cache_dir, **bounds) as replica:
        running = replica.call(WINDOW, "a", max_output_tokens=100)
        started = (await running.read()).started
        waiting = [replica.call(WINDOW, session) for session in ("b", "c")]
        await eventually(lambda: replica.room.admission.queue.engine.waiting == 2)
        samples = await replica.metrics()
        assert samples[f"isthmus_inference_waiting_requests{LOCAL}"] == 2
        assert samples[f"isthmus_inference_waiting_tokens{LOCAL}"] == 2 * started.new_tokens > 0
        assert samples[f"isthmus_inference_running_requests{LOCAL}"] == 1
        assert samples[f"isthmus_inference_running_tokens{LOCAL}"] == started.window_tokens + 100
        assert samples[f"isthmus_inference_accepted_requests{LOCAL}"] == 3
        for call in (running, *waiting):
            call.cancel()
        await eventually(lambda: not replica.room.admission.queue.accepted)
        samples = await replica.metrics()
        assert samples[f"isthmus_inference_waiting_tokens{LOCAL}"] == 0
        assert samples[f'gen_ai_server_request_duration_seconds_count{{error_type="caller_gone",{CHAT}}}'] == 3


async def test_no_caller_makes_labels(settings: Settings, cache_dir: Path) -> None:
    async with scraped(settings, cache_dir) as replica:
        await replica.generate(WINDOW)
        before = set(await replica.metrics())
        request = contract.GenerateRequest(tenant="t", session="s", manifest=WINDOW, model="invented")
        await error_of(replica.stub.Generate(request).read())
        await error_of(replica.generate(WINDOW, max_output_tokens=5_000_000))
        new = set(await replica.metrics()) - before
    assert {name for name in new if "gen_ai_server_request_duration_seconds" not in name} == set()
    assert all('error_type="invalid_field"' in name for name in new)


async def test_only_metrics_are_served_and_only_where_they_are_asked_for(settings: Settings, cache_dir: Path) -> None:
    async with scraped(settings, cache_dir) as replica, httpx.AsyncClient() as http:
        url = f"http://{replica.room.metrics_address}"
        for method, path, status in (("GET", "/", 404), ("POST", "/metrics", 404), ("HEAD", "/metrics", 200)):
            assert (await http.request(method, url + path)).status_code == status
        # An idle connection does not hold up the stop.
    with pytest.raises(httpx.ConnectError):
        async with httpx.AsyncClient() as http:
            await http.get(f"{url}/metrics")


class Sessions:
    count = 3
    tokens = 4_200


class TellingEngine:
    """An engine that tells more than it must."""

    def kv_use(self) -> float:
        return 0.25

    def residents(self) -> Sessions:
        return Sessions()


def test_an_engine_may_tell_of_its_cache_and_its_residents() -> None:
    metrics = InferenceMetrics("m", "openai:http://10.0.0.7:8000/v1")
    metrics.watch_engine(TellingEngine())
    labels = {"model": "m", "engine": "openai"}
    for name, value in (("kv_use_ratio", 0.25), ("resident_sessions", 3), ("resident_tokens", 4_200)):
        assert metrics.registry.get_sample_value(f"isthmus_inference_{name}", labels) == value
    assert b"10.0.0.7" not in metrics.exposition()
    silent = InferenceMetrics("m", "local")
    silent.watch_engine(object())
    assert b"isthmus_inference_kv_use_ratio" not in silent.exposition()


async def test_a_scrape_beyond_the_bound_is_refused(settings: Settings, cache_dir: Path) -> None:
    async with scraped(settings, cache_dir) as replica:
        host, _, port = replica.room.metrics_address.rpartition(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(8)]
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"http://{host}:{port}/metrics")).status_code == 503
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()
