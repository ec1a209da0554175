"""Chats as tests hold them: what the client sends, and what the log says the turn ran on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from isthmus.session.v1 import fragment_pb2, message_pb2, session_service_pb2
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from tests.gateway.client import Client

MODEL = "scripted"
ROLES = {
    message_pb2.ROLE_SYSTEM: "system",
    message_pb2.ROLE_USER: "user",
    message_pb2.ROLE_ASSISTANT: "assistant",
}


@dataclass(frozen=True)
class Answered:
    """An answer, and where its turn ran."""

    text: str
    session: str
    turn: int
    receipt: dict[str, Any]


def user(text: str) -> dict[str, Any]:
    """A message of the user."""
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    """A message of the assistant."""
    return {"role": "assistant", "content": text}


async def ask(sdk: AsyncOpenAI, messages: list[dict[str, Any]], **fields: Any) -> Answered:
    """Sends the messages, as they are."""
    sent: Any = messages
    return answered(await sdk.chat.completions.create(model=MODEL, messages=sent, **fields))


def answered(made: ChatCompletion) -> Answered:
    """What a completion says of itself."""
    session, _, turn = made.id.removeprefix("chatcmpl-").rpartition("_")
    extra = made.model_extra or {}
    return Answered(made.choices[0].message.content or "", session, int(turn), extra["isthmus"]["receipt"])


async def log_of(client: Client, session: str) -> list[fragment_pb2.Fragment]:
    """The session's log, without what came to nothing."""
    found: list[fragment_pb2.Fragment] = []
    request = session_service_pb2.ListFragmentsRequest(parent=f"sessions/{session}", page_size=1_000)
    while True:
        page = await client.stub.ListFragments(request)
        found += page.fragments
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def conversation(client: Client, answer: Answered) -> list[dict[str, Any]]:
    """The messages and answers up to this one, as the log has them; pieces of one text are one again."""
    messages: list[dict[str, Any]] = []
    for fragment in await log_of(client, answer.session):
        if fragment.part:
            messages[-1]["content"] += fragment.text
        elif fragment.turn <= answer.turn:
            messages.append({"role": ROLES[fragment.role], "content": fragment.text})
    return messages


async def moved(client: Client, answer: Answered) -> int:
    """How many messages the answer's own turn brought along."""
    log = await log_of(client, answer.session)
    own = [each for each in log if each.turn == answer.turn and each.kind == fragment_pb2.FRAGMENT_KIND_MESSAGE]
    return sum(each.part == 0 for each in own)


async def sessions(client: Client) -> list[str]:
    """The sessions that a caller sees."""
    listed = await client.stub.ListSessions(session_service_pb2.ListSessionsRequest(page_size=1_000))
    return [each.name.removeprefix("sessions/") for each in listed.sessions]
