"""The critic model: a replica that is asked for verdicts on claims, in a session that nobody sees."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import grpc
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2 as contract
from isthmus.inference.v1 import inference_service_pb2_grpc
from isthmus.session.v1 import message_pb2

from compressor.critic.prompt import answered, asked, manifest, schema
from services.claims.judge import Verdict
from services.config import AuditSettings
from services.errors import IsthmusError, UpstreamUnavailable, from_rpc_error
from services.router import INFERENCE, Router

# Behind turns, as far as the contract goes.
_PRIORITY: Final = 100
_FORGET_S_MAX: Final = 5.0


class CriticModel:
    """Asks a model that `audits.critic` names. Raises IsthmusError where it has no verdict to give."""

    def __init__(self, router: Router, settings: AuditSettings) -> None:
        self._router = router
        self._settings = settings

    async def verdicts(
        self, tenant: str, turn: str, claims: Sequence[str], passages: Sequence[Sequence[str]]
    ) -> list[Verdict]:
        """One verdict for each claim, by the passages nearest to it."""
        size = self._settings.claims_per_call_max
        found: list[Verdict] = []
        for begin in range(0, len(claims), size):
            some = slice(begin, begin + size)
            found += await self._ask(tenant, f"{turn}/{begin}", claims[some], passages[some])
        return found

    async def _ask(
        self, tenant: str, name: str, claims: Sequence[str], passages: Sequence[Sequence[str]]
    ) -> list[Verdict]:
        settings = self._settings
        # Of the tenant, so that nothing of it is in a cache that another one's windows may hit.
        session = f"critic-{blake2b(name.encode(), digest_size=16).hexdigest()}"
        form = message_pb2.StructuredOutput(json_schema=schema(len(claims)))
        request = contract.GenerateRequest(
            tenant=tenant,
            session=session,
            manifest=manifest(asked(claims, passages, settings.evidence_bytes_max)),
            params=message_pb2.SamplingParams(
                temperature=0, max_output_tokens=settings.verdict_tokens_max, structured_output=form
            ),
            model=settings.critic,
            priority=_PRIORITY,
        )
        member, channel = self._router.inference(tenant, session, {}, settings.critic)
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        try:
            async with asyncio.timeout(settings.critic_ms_max / 1000):
                text = "".join([event.delta.text async for event in stub.Generate(request)])
        except TimeoutError:
            raise UpstreamUnavailable(f"the critic said nothing in {settings.critic_ms_max} ms") from None
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self._router.suspect(INFERENCE, member.id)
            raise from_rpc_error(error) from error
        finally:
            forgetting = contract.ForgetSessionRequest(tenant=tenant, session=session)
            with contextlib.suppress(grpc.aio.AioRpcError):
                await stub.ForgetSession(forgetting, timeout=_FORGET_S_MAX)
        try:
            return answered(text, len(claims))
        except ValueError as error:
            raise IsthmusError(errors_pb2.ERROR_REASON_OUTPUT_INVALID, f"the critic's answer {error}") from None
