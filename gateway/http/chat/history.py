"""The messages of a request as a chain of states: each has a digest that says which conversation led to it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from isthmus.session.v1 import message_pb2
from msgspec import UNSET

from gateway.bounds import MESSAGES_BYTES_MAX
from gateway.http.body import refuse_unless
from gateway.http.chat.packed import Packed
from gateway.http.chat.shapes import ChatMessage, CreateChatCompletion
from gateway.http.messages import ROLES_BY_NAME, TEXT_BYTES_MAX, check_text, tool_message
from gateway.http.shapes import MESSAGES_COUNT_MAX
from gateway.tools.calls import Call, canonical, joined
from services.errors import InvalidField

NAME_BYTES_MAX = 256
_DIGEST_BYTES = 16
# No answer was ever longer, so what is can be no part of a conversation, and is not worth its copies.
_TEXT_CHARS_MAX = 4 << 20
_READ = ChatMessage(role="user")
# What an answer carries that is sent back, at values that say nothing.
_NOTHING: dict[str, tuple[object, ...]] = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "refusal": (),
}


@dataclass(frozen=True, slots=True)
class History:
    """Messages in order, the path of each in the request, and of each beginning of them, from none to all: its digest,
    and the UTF-8 bytes of its texts.
    """

    messages: Packed
    paths: Sequence[str]
    states: Sequence[bytes]
    sizes: Sequence[int]

    def answered(self) -> Iterator[int]:
        """How many messages each beginning has that ends with an answer and is not all, the longest first."""
        for count in range(len(self.messages) - 1, 0, -1):
            if self.messages[count - 1].role == message_pb2.ROLE_ASSISTANT:
                yield count

    def after(self, reply: str, tools: message_pb2.ToolUse | None = None) -> bytes:
        """The state in which this answer to the messages leaves their conversation; calls as they are sent back."""
        text = canonical(reply, tools)
        return _next(self.states[-1], message_pb2.Message(role=message_pb2.ROLE_ASSISTANT, text=text))

    def batches(self, begin: int, head: message_pb2.Message | None = None) -> list[Packed]:
        """The messages from `begin` on, in as few parts as the contract takes them in; the last is the turn's own.

        `head` is said before them. InvalidField by the path of one that is too long for it.
        """
        rest = self.messages[begin:]
        messages = rest if head is None else rest.behind(head)
        added = len(messages) - len(rest)
        starts: list[int] = []
        size = 0
        for place in range(len(messages)):
            own = messages.byte_size(place)
            if own > TEXT_BYTES_MAX and place >= added:
                check_text(f"{self.paths[begin + place - added]}.content", messages[place].text)
            size += own
            if not starts or place - starts[-1] == MESSAGES_COUNT_MAX or size > MESSAGES_BYTES_MAX:
                starts.append(place)
                size = own
        return [messages[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


def history(request: CreateChatCompletion) -> History:
    """The request's messages, which it has no more then; InvalidField or Refusal by the path of one that cannot be.

    Assistants that say nothing are left out, as the log has nothing of them either.
    """
    _check_answers(request.messages)
    packed: list[bytes] = []
    paths: list[str] = []
    states, sizes = [_scope(request)], [0]
    for path, message in _taken(request):
        if message.text:
            packed.append(message.SerializeToString())
            paths.append(path)
            states.append(_next(states[-1], message))
            sizes.append(sizes[-1] + len(message.text.encode()))
    if not packed:
        raise InvalidField("messages", "say nothing, expected a text")
    return History(Packed(packed), paths, states, sizes)


def _taken(request: CreateChatCompletion) -> Iterator[tuple[str, message_pb2.Message]]:
    """The messages with their paths. Each is let go of when it was read: together they may be megabytes."""
    sent, request.messages = request.messages, []
    for index, each in enumerate(sent):
        path = f"messages[{index}]"
        yield path, _message(path, each)
        sent[index] = _READ


def _message(path: str, sent: ChatMessage) -> message_pb2.Message:
    for name, harmless in _NOTHING.items():
        raw = getattr(sent, name)
        if raw is not UNSET:
            refuse_unless(f"{path}.{name}", raw, harmless)
    text = sent.content if isinstance(sent.content, str) else "\n".join(part.text for part in sent.content or ())
    if len(text) > _TEXT_CHARS_MAX:
        check_text(f"{path}.content", text)
    if sent.role == "tool":
        return tool_message(f"{path}.content", text, sent.tool_call_id or "")
    if sent.tool_calls:
        text = joined(text, [Call(each.function.name, each.function.arguments) for each in sent.tool_calls])
    if not text and sent.role != "assistant":
        raise InvalidField(f"{path}.content", "is empty, expected a text")
    author = sent.name or ""
    if len(author.encode()) > NAME_BYTES_MAX:
        raise InvalidField(f"{path}.name", f"is {len(author.encode())} bytes long, expected at most {NAME_BYTES_MAX}")
    return message_pb2.Message(role=ROLES_BY_NAME[sent.role], text=text, author=author)


def _check_answers(messages: Sequence[ChatMessage]) -> None:
    """InvalidField by the path of what is said of a call where none can be."""
    open_calls: set[str] = set()
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        if message.tool_calls is not None and message.role != "assistant":
            raise InvalidField(f"{path}.tool_calls", "is of an assistant's message; expected none here")
        if (message.tool_call_id is not None) != (message.role == "tool"):
            expected = "the id of the call that it answers" if message.role == "tool" else "none: it is no tool's"
            state = "is missing" if message.role == "tool" else "is there"
            raise InvalidField(
                f"{path}.tool_call_id", f"{state} in a message of role {message.role}; expected {expected}"
            )
        if message.role == "tool":
            if message.tool_call_id not in open_calls:
                said = f"is {str(message.tool_call_id)[:64]!r}"
                expected = "expected the id of a call in the assistant's message before it"
                raise InvalidField(f"{path}.tool_call_id", f"{said}, {expected}")
        else:
            open_calls = {call.id for call in message.tool_calls or ()}


def _scope(request: CreateChatCompletion) -> bytes:
    """The state before any message: conversations of different callers have none in common."""
    return _digest(
        *((each or "").encode() for each in (request.user, request.safety_identifier, request.prompt_cache_key))
    )


def _next(state: bytes, message: message_pb2.Message) -> bytes:
    return _digest(state, bytes((message.role,)), message.author.encode(), message.text.encode())


def _digest(*parts: bytes) -> bytes:
    """BLAKE2b-128; the lengths come first, so that no part can run into the next."""
    lengths = b"".join(len(part).to_bytes(8, "little") for part in parts)
    return blake2b(b"".join((lengths, *parts)), digest_size=_DIGEST_BYTES).digest()
