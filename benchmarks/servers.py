"""The peers as processes: the stub behind them, LiteLLM's proxy, and vllm-router, each on a free port."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.stub import MODEL
from services.supervisor import launch

ROOT: Final = Path(__file__).resolve().parent.parent
BENCH_BIN: Final = ROOT / ".bench" / "bin"
STUB: Final = (sys.executable, "-m", "benchmarks.stub")
_START_S_MAX: Final = 120
_STOP_S_MAX: Final = 10
_POLL_S: Final = 0.1
_LOG_CHARS_MAX: Final = 4_000


@dataclass(frozen=True, slots=True)
class Server:
    """A process that serves `/v1/chat/completions` on this port, to who shows the key if it wants one."""

    name: str
    port: int
    pid: int
    key: str = ""


@contextlib.contextmanager
def stub(folder: Path, delay_ms: float = 0.0) -> Iterator[Server]:
    """The model server that answers at once, or after a delay."""
    port = free_port()
    with process(
        "stub", [*STUB, "--port", str(port), "--delay-ms", str(delay_ms)], port, "/v1/models", folder
    ) as server:
        yield server


@contextlib.contextmanager
def litellm(model_port: int, folder: Path) -> Iterator[Server]:
    """LiteLLM's proxy with one worker in front of the model server; no database, no logging of requests.

    It does not start without a key, so it gets one for this run.
    """
    key = f"sk-{secrets.token_hex(16)}"
    deployment = {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{model_port}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": deployment}],
        "litellm_settings": {"telemetry": False, "set_verbose": False},
    }
    path = folder / "litellm.json"
    path.write_text(json.dumps(config))
    port = free_port()
    command = [BENCH_BIN / "litellm", "--config", path, "--host", "127.0.0.1", "--port", port, "--num_workers", 1]
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MASTER_KEY": key,
        "LITELLM_MODE": "PRODUCTION",
    }
    with process("litellm", list(map(str, command)), port, "/health/readiness", folder, environment) as server:
        yield replace(server, key=key)


@contextlib.contextmanager
def vllm_router(model_port: int, folder: Path) -> Iterator[Server]:
    """vllm-router as it comes (its policy is cache_aware) with the model server as its one worker."""
    port, metrics_port = free_port(), free_port()
    flags: dict[str, object] = {
        "--host": "127.0.0.1",
        "--port": port,
        "--worker-urls": f"http://127.0.0.1:{model_port}",
        "--prometheus-port": metrics_port,
        "--log-level": "error",
    }
    command = [str(BENCH_BIN / "vllm-router"), *(str(part) for flag in flags.items() for part in flag)]
    with process("vllm-router", command, port, "/v1/models", folder) as server:
        yield server


def free_port() -> int:
    """A port on the loopback address that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def process(
    name: str,
    command: Sequence[str],
    port: int,
    ready_path: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A process that is ready once `ready_path` answers, and its end, which is at the latest that of this process.

    Raises RuntimeError, with its output, if it never is ready.
    """
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        started = subprocess.Popen(
            [sys.executable, launch.__file__, str(os.getpid()), *command],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        if problem := _wait_ready(started, port, ready_path):
            raise RuntimeError(f"{name}: {problem}; it said:\n{log.read_text(errors='replace')[-_LOG_CHARS_MAX:]}")
        yield Server(name, port, started.pid)
    finally:
        _end(started)


def _wait_ready(process: subprocess.Popen[bytes], port: int, path: str) -> str:
    """What went wrong, or nothing once the process answers."""
    deadline = time.monotonic() + _START_S_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return f"ended with {process.returncode} while it started"
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_STOP_S_MAX)
            with contextlib.closing(connection):
                connection.request("GET", path)
                if connection.getresponse().status == http.client.OK:
                    return ""
        time.sleep(_POLL_S)
    return f"not ready after {_START_S_MAX} s"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and what it started: its session is its own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S_MAX)
            return
