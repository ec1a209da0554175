"""What clients do beside turns: write, erase, summarise, freeze, fork and delete."""

from __future__ import annotations

from hashlib import blake2b
from random import Random

from google.protobuf.message import Message
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1 import summary_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import deletion_pb2, document_pb2, message_pb2, session_pb2, turn_pb2

from services.digest import source_digest
from services.errors import IsthmusError
from tests.simulation.caller import ROUNDS_MAX, TENANT, TOKENIZER, Caller, key_of
from tests.simulation.driver import answered
from tests.simulation.history import Written
from tests.simulation.plan import Op, child_of, is_child


class Errands:
    """One client's."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def append(self, op: Op, caller: str, random: Random) -> None:
        began = self._caller.history.begin(op.key)
        self._caller.history.requests[op.key] = op.texts
        messages = [message_pb2.Message(role=message_pb2.ROLE_USER, text=text) for text in op.texts]
        request = api.AppendMessagesRequest(key=key_of(op.session), request_id=op.key, messages=messages)
        said = await self._caller.ask(f"{op.key}{caller}", "AppendMessages", request, api.AppendMessagesResponse)
        if isinstance(said, IsthmusError):
            self._caller.refused(op.key, "AppendMessages", op.session, said)
            return
        sequences = tuple(fragment.sequence for fragment in said.fragments)
        if not sequences:
            return
        self._caller.history.written.append(Written(op.session, op.key, sequences, began, self._caller.history.tick()))

    async def cancel(self, op: Op, caller: str, random: Random) -> None:
        known = [one for one in self._caller.history.opened if one.session == op.session]
        if not known:
            return
        number, began = known[-1].turn, self._caller.history.tick()
        request = api.CancelTurnRequest(key=key_of(op.session), turn=number)
        said = await self._caller.ask(f"{op.key}{caller}", "CancelTurn", request, turn_pb2.Turn)
        if not isinstance(said, IsthmusError):
            answered(self._caller, op, said, began)
        elif said.reason != errors_pb2.ERROR_REASON_TURN_STATE:
            self._caller.refused(op.key, "CancelTurn", op.session, said)

    async def erase(self, op: Op, caller: str, random: Random) -> None:
        who = f"{op.key}{caller}"
        shown = await self._shown(op.session, who)
        if isinstance(shown, IsthmusError) or not shown.revision:
            return
        place = (op.session, random.randint(1, shown.revision))
        began = self._caller.history.tick()
        self._caller.history.erasing.add(place)
        request = api.DeleteFragmentRequest(key=key_of(op.session), sequence=place[1])
        said = await self._caller.ask(who, "DeleteFragment", request, Message)
        if not isinstance(said, IsthmusError):
            self._caller.history.erased[place] = began
        elif said.reason != errors_pb2.ERROR_REASON_NOT_FOUND:
            # The end of the log that was shown may have been lost since.
            self._caller.refused(who, "DeleteFragment", op.session, said)

    async def summarise(self, op: Op, caller: str, random: Random) -> None:
        who = f"{op.key}{caller}"
        request = api.ListFragmentsRequest(key=key_of(op.session), page_size=1_000)
        page = await self._caller.ask(who, "ListFragments", request, api.ListFragmentsResponse)
        if isinstance(page, IsthmusError) or not page.fragments:
            return
        first = random.randrange(len(page.fragments))
        span = page.fragments[first : first + random.randint(1, 6)]
        summary = summary_pb2.Summary(
            first_sequence=span[0].sequence,
            last_sequence=span[-1].sequence,
            level=1,
            method=op.key,
            version=1,
            sentences=[summary_pb2.Summary.Sentence(text=f"of {op.key}", sequence=span[0].sequence)],
            tokenizer=TOKENIZER,
        )
        counts = [summary_pb2.TokenCount(sequence=one.sequence, tokens=random.randint(1, 30)) for one in span]
        commit = api.CommitSummaryRequest(
            key=key_of(op.session),
            summary=summary,
            source_digest=source_digest(one.digest for one in span),
            counts=counts,
        )
        said = await self._caller.ask(who, "CommitSummary", commit, api.CommitSummaryResponse)
        if isinstance(said, IsthmusError) and said.reason != errors_pb2.ERROR_REASON_SUMMARY_SOURCE_CHANGED:
            self._caller.refused(who, "CommitSummary", op.session, said)

    async def freeze(self, op: Op, caller: str, random: Random) -> None:
        """Once, whatever comes of it: the janitor tries again when it looks again."""
        request = api.GetSessionRequest(key=key_of(op.session))
        await self._caller.try_once(f"{op.key}{caller}", "Freeze", request, random.uniform(0.1, 1.0))

    async def document(self, op: Op, caller: str, random: Random) -> None:
        began = self._caller.history.begin(op.key)
        data = " ".join(op.texts).encode()
        self._caller.history.documents[op.key] = data.decode()
        offset = 0
        for _ in range(ROUNDS_MAX):
            said = await self._caller.ask(
                f"{op.key}{caller}", "WriteDocument", _stream(op, data, offset), document_pb2.Document
            )
            if not isinstance(said, IsthmusError):
                sequences = (said.first_sequence, said.last_sequence)
                self._caller.history.written.append(
                    Written(op.session, op.key, sequences, began, self._caller.history.tick())
                )
                return
            if said.reason != errors_pb2.ERROR_REASON_DOCUMENT_OFFSET:
                self._caller.refused(op.key, "WriteDocument", op.session, said)
                return
            offset = int(said.metadata["committed_bytes"])
        self._caller.history.violate(f"{op.key}: no end after {ROUNDS_MAX} rounds")

    async def fork(self, op: Op, caller: str, random: Random) -> None:
        """A session that goes on where its parent is now."""
        child = child_of(op)
        fork_id = blake2b(op.key.encode(), digest_size=8).digest()
        request = api.ForkSessionRequest(key=key_of(op.session), session_id=child, fork_id=fork_id)
        said = await self._caller.ask(f"{op.key}{caller}", "ForkSession", request, session_pb2.Session)
        if isinstance(said, IsthmusError):
            self._caller.refused(op.key, "ForkSession", op.session, said)
        else:
            self._caller.history.forked.add(child)

    async def delete(self, op: Op, caller: str, random: Random) -> None:
        """Deletes what it has seen, and makes a session of the same name, but where it was a fork."""
        who = f"{op.key}{caller}"
        shown = await self._shown(op.session, who)
        if not isinstance(shown, IsthmusError):
            await self._deleted(op.session, who, shown.etag)
        if is_child(op.session):
            return
        request = api.CreateSessionRequest(tenant=TENANT, session_id=op.session)
        said = await self._caller.ask(who, "CreateSession", request, session_pb2.Session)
        if isinstance(said, IsthmusError) and said.reason != errors_pb2.ERROR_REASON_ALREADY_EXISTS:
            # Made, and deleted by another before it was shown.
            self._caller.refused(who, "CreateSession", op.session, said)

    async def _shown(self, session: str, who: str) -> session_pb2.Session | IsthmusError:
        request = api.GetSessionRequest(key=key_of(session))
        return await self._caller.ask(who, "GetSession", request, session_pb2.Session)

    async def _deleted(self, session: str, who: str, etag: str) -> None:
        history = self._caller.history
        request = api.DeleteSessionRequest(key=key_of(session), etag=etag)
        with history.deletion(session):
            said = await self._caller.ask(who, "DeleteSession", request, deletion_pb2.DeletionReceipt)
        if not isinstance(said, IsthmusError):
            history.deleted.add((session, etag))
        elif said.reason != errors_pb2.ERROR_REASON_ETAG_MISMATCH:
            self._caller.refused(who, "DeleteSession", session, said)


def _stream(op: Op, data: bytes, offset: int) -> list[Message]:
    header = document_pb2.DocumentPart.Header(document_id=op.key, display_name=op.key)
    chunk = document_pb2.DocumentPart.Chunk(offset=offset, data=data[offset:])
    end = document_pb2.DocumentPart.End(size_bytes=len(data))
    parts = [document_pb2.DocumentPart(header=header)]
    if offset < len(data):
        parts.append(document_pb2.DocumentPart(chunk=chunk))
    parts.append(document_pb2.DocumentPart(end=end))
    return [api.WriteDocumentRequest(key=key_of(op.session), part=part) for part in parts]
