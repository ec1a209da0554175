"""Whatever a client makes of its history, the turn runs on what the client sent: nothing more, nothing less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI

from tests.gateway.client import Client, connected
from tests.http.chats import Answered, ask, assistant, conversation, moved
from tests.support.mesh import Mesh

# Few enough that conversations meet, in one example and in another.
texts = st.one_of(st.sampled_from(["a", "b", "a\nb", "é" * 40_000]), st.text(min_size=1, max_size=6))
numbers = st.integers(min_value=0, max_value=63)
step = st.one_of(
    st.tuples(st.just("say"), texts),
    st.tuples(st.just("say"), texts),
    st.tuples(st.just("anew"), st.none()),
    st.tuples(st.just("edit"), numbers, texts),
    st.tuples(st.just("alter"), numbers, texts),
    st.tuples(st.just("cut"), numbers),
    st.tuples(st.just("forget"), numbers),
    st.tuples(st.just("key"), texts),
)


@dataclass
class Chat:
    """A client's own copy of a conversation. Whatever it does, the last message is the user's in the end."""

    messages: list[dict[str, Any]]

    def take(self, what: str, *args: Any) -> None:
        """One step of its user's."""
        places = [place for place, each in enumerate(self.messages) if each["role"] == "user"]
        if what in ("say", "key"):
            self.messages.append({"role": "user", "content": args[0]})
        elif what == "anew":
            del self.messages[places[-1] + 1 :]
        elif what == "edit":
            place = places[args[0] % len(places)]
            self.messages[place:] = [{"role": "user", "content": args[1]}]
        elif what == "cut":
            del self.messages[places[args[0] % len(places)] + 1 :]
        elif what == "forget":
            # As one does whose window is small: the oldest go, and the question stays.
            del self.messages[places[-1] + 1 :]
            del self.messages[: args[0] % (len(self.messages))]
        else:
            del self.messages[places[-1] + 1 :]
            self.messages[args[0] % len(self.messages)]["content"] = args[1]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.sampled_from([None, "be brief", "a"]), texts, st.lists(step, max_size=7), st.booleans())
async def test_a_turn_runs_on_the_messages_that_were_sent(
    mesh: Mesh, sdk: AsyncOpenAI, system: str | None, first: str, steps: list[Any], with_seeds: bool
) -> None:
    opening = [{"role": "system", "content": system}] if system else []
    chat = Chat([*opening, {"role": "user", "content": first}])
    async with connected(mesh.grpc_target) as client:
        await _checked(sdk, client, chat, {})
        for number, (what, *args) in enumerate(steps):
            is_said = what == "say"
            chat.take(what, *args)
            fields: dict[str, Any] = {"seed": number} if with_seeds else {}
            if what == "key":
                fields["extra_headers"] = {"Idempotency-Key": uuid4().hex}
            answer = await _checked(sdk, client, chat, fields)
            assert not is_said or await moved(client, answer) == 1


async def _checked(sdk: AsyncOpenAI, client: Client, chat: Chat, fields: dict[str, Any]) -> Answered:
    answer = await ask(sdk, chat.messages, **fields)
    chat.messages.append(assistant(answer.text))
    assert await conversation(client, answer) == chat.messages
    assert answer.receipt["window"]["left_out"] == []
    return answer
