"""An engine without a model: text made from the window's digest, at a set pace. For load and failure tests.

The same window, seed and settings give the same reply, on any replica. A form that is asked for is kept to.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator
from hashlib import blake2b
from typing import Final

from isthmus.session.v1 import turn_pb2

from inference.engine import EngineContext, EngineOutput, EngineRequest
from inference.engines.scripted_form import scripted_form

_CONTEXT_TOKENS_MAX: Final = 4_000_000
_TEXT: Final = (
    "the narrow way between two lands carries what has changed and nothing else so a long story stays where it was "
    "told while each new word crosses on its own and comes back with an answer that knows all of it"
)


class ScriptedEngine:
    """Answers after `scripted_ttft_ms` with `scripted_output_tokens` tokens at `scripted_tokens_per_s`, 0 for at once.

    Its prefix cache is a list of the windows seen last, by digest and salt: it reports as cached what the longest of
    them shares with the prompt.
    """

    def __init__(self, context: EngineContext) -> None:
        settings = context.settings
        self.model = settings.model or "scripted"
        self.context_tokens_max = settings.context_tokens_max or _CONTEXT_TOKENS_MAX
        self.adapters: tuple[str, ...] = ()
        self.samples = frozenset({"structured_output", "tools", "min_output_tokens"})
        self.steps = 0
        self.is_loading = False
        self._settings = settings
        self._tokenizer = context.tokenizer
        self._seen: OrderedDict[tuple[str, bytes], int] = OrderedDict()
        self._running = 0
        # Their ids, within a text and at its beginning.
        self._words: list[list[int]] = []
        self._first_words: list[list[int]] = []

    @property
    def running(self) -> int:
        return self._running

    async def start(self) -> None:
        self._words = [self._tokenizer.encode(f" {word}").tolist() for word in _TEXT.split()]
        self._first_words = [self._tokenizer.encode(word).tolist() for word in _TEXT.split()]

    async def stop(self) -> None:
        self._seen.clear()

    async def forget(self, session: str) -> int:
        return 0

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        self._running += 1
        try:
            cached = self._cached_tokens(request)
            ids = self._script(request)
            finish = turn_pb2.FINISH_REASON_STOP
            # What another replica has begun is the beginning of the same script.
            ids_max = len(request.emitted) + request.sampling.output_tokens_max
            if len(ids) > ids_max:
                ids, finish = ids[:ids_max], turn_pb2.FINISH_REASON_LENGTH
            await asyncio.sleep(self._settings.scripted_ttft_ms / 1000)
            started = time.monotonic()
            begun = sent = min(len(request.emitted), len(ids))
            if sent == len(ids):
                yield EngineOutput((), finish, cached)
            while sent < len(ids):
                until = begun + await self._next(sent - begun, started)
                self.steps += 1
                last = until >= len(ids)
                yield EngineOutput(
                    tuple(ids[sent:until]), finish if last else turn_pb2.FINISH_REASON_UNSPECIFIED, cached
                )
                sent = until
        finally:
            self._running -= 1

    async def _next(self, sent: int, started: float) -> int:
        """Waits until another token is due; how many are due by then."""
        rate = self._settings.scripted_tokens_per_s
        if not rate:
            await asyncio.sleep(0)
            return sent + self._settings.batch_tokens_max
        await asyncio.sleep(max(0.0, started + sent / rate - time.monotonic()))
        return max(sent + 1, int((time.monotonic() - started) * rate))

    def _script(self, request: EngineRequest) -> list[int]:
        """`scripted_output_tokens` ids of words drawn by a hash of digest and seed, or those of the form asked for."""
        form = scripted_form(request.sampling.structured_output, request.sampling.tools)
        if form is not None:
            ids: list[int] = self._tokenizer.encode(form).tolist()
            return ids
        count = max(self._settings.scripted_output_tokens, len(request.emitted) + request.sampling.output_tokens_min)
        key = request.points[0].digest + repr(request.sampling.seed).encode()
        ids = []
        drawn = 0
        while len(ids) < count:
            for byte in blake2b(drawn.to_bytes(8) + key, digest_size=64).digest():
                words = self._words if ids else self._first_words
                ids += words[byte % len(words)]
            drawn += 1
        return ids[:count]

    def _cached_tokens(self, request: EngineRequest) -> int:
        keys = [(request.cache_salt, point.digest) for point in request.points]
        cached = max((self._seen.get(key, 0) for key in keys), default=0)
        self._seen[keys[0]] = request.points[0].tokens
        self._seen.move_to_end(keys[0])
        while len(self._seen) > self._settings.scripted_prefixes_count_max:
            self._seen.popitem(last=False)
        return cached
