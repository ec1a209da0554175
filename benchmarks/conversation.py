"""A conversation as an OpenAI client has to send it: all of it, every turn."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from benchmarks.stub import MODEL, REPLY

_TIMEOUT_S: Final = 120
_SENTENCES_PER_MESSAGE: Final = 125


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn through a peer: what the client waited less what the model server took, and bytes of the bodies."""

    overhead_ms: float
    client_bytes: int
    model_bytes: int


class Conversation:
    """The request bodies of one history that grows with every turn.

    The history comes as messages of about 2,000 tokens, whose speakers take turns. It is kept encoded as JSON: what is
    measured begins when the body is ready, so a client's own encoding, which real ones pay each turn, is not counted.
    """

    def __init__(self, history: str) -> None:
        self._body = bytearray(f'{{"model":"{MODEL}","messages":[{{"role":"system","content":"Answer."}}'.encode())
        sentences = history.splitlines(keepends=True)
        for start in range(0, len(sentences), _SENTENCES_PER_MESSAGE):
            role = "assistant" if start // _SENTENCES_PER_MESSAGE % 2 else "user"
            self._append(role, "".join(sentences[start : start + _SENTENCES_PER_MESSAGE]))

    def say(self, text: str) -> bytes:
        """The body of the next turn."""
        self._append("user", text)
        return bytes(self._body) + b"]}"

    def hear(self, text: str) -> None:
        """Takes the reply into the history."""
        self._append("assistant", text)

    def _append(self, role: str, text: str) -> None:
        self._body += b"," + json.dumps({"role": role, "content": text}).encode()


class Client:
    """A connection to a peer that stays open, and one to the stub, to ask for the last turn's own time."""

    def __init__(self, port: int, stub_port: int, key: str = "") -> None:
        self._headers = {"content-type": "application/json", "authorization": f"Bearer {key or 'none'}"}
        self._peer = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        self._stub = http.client.HTTPConnection("127.0.0.1", stub_port, timeout=_TIMEOUT_S)

    def __enter__(self) -> Self:
        self._peer.connect()
        self._stub.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._peer.close()
        self._stub.close()

    def turn(self, conversation: Conversation, text: str) -> Sample:
        """Runs one turn. Raises RuntimeError unless the stub's reply came through."""
        body = conversation.say(text)
        started = time.perf_counter()
        self._peer.request("POST", "/v1/chat/completions", body, self._headers)
        response = self._peer.getresponse()
        answer = response.read()
        wall_ms = (time.perf_counter() - started) * 1_000
        if response.status != http.client.OK:
            raise RuntimeError(f"HTTP {response.status} to a body of {len(body)} bytes: {answer[:500]!r}")
        reply = json.loads(answer)["choices"][0]["message"]["content"]
        if reply != REPLY:
            raise RuntimeError(f"reply: expected {REPLY!r}, got {reply!r}")
        conversation.hear(reply)
        last = self._last()
        return Sample(wall_ms - last["own_ms"], len(body) + len(answer), int(last["request_bytes"]))

    def _last(self) -> dict[str, float]:
        self._stub.request("GET", "/last")
        last: dict[str, float] = json.loads(self._stub.getresponse().read())
        return last
