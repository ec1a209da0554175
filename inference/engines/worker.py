"""The process that steps openvino-genai's pipeline: `python -m inference.engines.worker FD`.

A step holds Python's interpreter lock from its begin to its end, seconds for a long prompt. In the room's own process
it would stop heartbeats, streams and cancellations for as long; here it stops nobody. The worker ends with its socket.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import threading
from typing import Any

import numpy as np
import openvino
import openvino_genai
from isthmus.session.v1 import turn_pb2

from inference.engines.wire import Add, Cancel, Output, Ready, Setup, Stepped, ToWorker, pack, receive


class Worker:
    """The pipeline and the requests in it. Whatever fails ends the process, and the engine starts another one."""

    def __init__(self, connection: socket.socket, setup: Setup) -> None:
        self._connection = connection
        self._end_ids = frozenset(setup.end_ids)
        # One addition and one cancellation a request; beyond that the engine has to wait.
        self._inbox: queue.Queue[ToWorker] = queue.Queue(maxsize=2 * setup.requests_max)
        self._handles: dict[int, Any] = {}
        # Requests whose grammar has not been read yet: the pipeline does so in one of its steps.
        self._unread: set[int] = set()
        self._outputs: list[Output] = []
        self._pipeline = _load(setup)

    def run(self) -> None:
        """Serves for as long as the process lives."""
        threading.Thread(target=self._receive, name="inbox", daemon=True).start()
        self._connection.sendall(pack(Ready()))
        while True:
            self._admit()
            self._step()
            for number in tuple(self._handles):
                self._collect(number, self._handles[number])
            # After each step, outputs or none: the engine's side tells by it that the worker is not stuck.
            self._connection.sendall(pack(Stepped(tuple(self._outputs))))
            self._outputs = []

    def _step(self) -> None:
        """One step. A grammar that cannot be read fails it, and after that the pipeline cannot go on."""
        try:
            self._pipeline.step()
        except RuntimeError as error:
            said = f"the engine cannot keep to its form: {error}"
            self._outputs += [Output(number, error=said, is_refused=True) for number in self._unread]
            self._connection.sendall(pack(Stepped(tuple(self._outputs))))
            raise

    def _receive(self) -> None:
        while (message := receive(self._connection)) is not None:
            self._inbox.put(message)
        # The room has gone. There is nothing to save, and taking the pipeline down in order would take seconds.
        os._exit(0)

    def _admit(self) -> None:
        """Takes what has come, and waits when there is nothing to step."""
        while not self._handles or not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, Add):
                self._add(message)
            elif isinstance(message, Cancel) and message.number in self._handles:
                # The pipeline lets go of it in its next step.
                self._handles[message.number].cancel()

    def _add(self, request: Add) -> None:
        ids = np.frombuffer(request.prompt, dtype="<i4").astype(np.int64)
        config = _generation_config(request, self._end_ids)
        if request.tag:
            self._unread.add(request.number)
        self._handles[request.number] = self._pipeline.add_request(
            request.number, openvino.Tensor(ids[np.newaxis, :]), config
        )

    def _collect(self, number: int, handle: Any) -> None:
        finish = turn_pb2.FINISH_REASON_UNSPECIFIED
        while handle.can_read():
            for output in handle.read().values():
                finish = _finish_reason(output.finish_reason)
                ids = tuple(token for token in output.generated_ids if token not in self._end_ids)
                self._unread.discard(number)
                if ids or finish:
                    self._outputs.append(Output(number, ids, finish))
        running = handle.get_status() == openvino_genai.GenerationStatus.RUNNING
        if not running and not finish:
            self._outputs.append(Output(number, error="dropped: cancelled, or no room in the KV cache for its window"))
        if not running or finish:
            self._unread.discard(number)
            del self._handles[number]


def _load(setup: Setup) -> Any:
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.enable_prefix_caching = True
    scheduler.cache_size = setup.kv_cache_gib
    scheduler.max_num_batched_tokens = setup.batch_tokens_max
    scheduler.max_num_seqs = setup.requests_max
    properties = {"INFERENCE_NUM_THREADS": setup.threads_count} if setup.threads_count else {}
    return openvino_genai.ContinuousBatchingPipeline(setup.weights, scheduler, "CPU", properties)


def _generation_config(request: Add, end_ids: frozenset[int]) -> Any:
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = request.output_tokens_max
    config.min_new_tokens = request.output_tokens_min
    config.stop_token_ids = set(end_ids)
    config.do_sample = request.temperature > 0
    if config.do_sample:
        config.temperature = request.temperature
        config.top_p = request.top_p
        config.rng_seed = request.seed
    if request.tag:
        config.structured_output_config = openvino_genai.StructuredOutputConfig(structural_tags_config=request.tag)
    return config


def _finish_reason(reason: Any) -> turn_pb2.FinishReason.ValueType:
    if reason == openvino_genai.GenerationFinishReason.LENGTH:
        return turn_pb2.FINISH_REASON_LENGTH
    if reason == openvino_genai.GenerationFinishReason.NONE:
        return turn_pb2.FINISH_REASON_UNSPECIFIED
    return turn_pb2.FINISH_REASON_STOP


def main() -> None:
    # A signal to the whole process group must not end what the room is still draining: only the socket does.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        setup = receive(connection)
        if isinstance(setup, Setup):
            Worker(connection, setup).run()


if __name__ == "__main__":
    main()
