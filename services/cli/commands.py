"""What every command that speaks to a gateway shares."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from isthmus.errors.v1 import errors_pb2

from services.cli.client import Client
from services.cli.errors import CliError
from services.cli.target import Target
from services.errors import IsthmusError, reason_name


@contextlib.contextmanager
def friendly(target: str) -> Iterator[None]:
    """The gateway's errors as the command's own: one line, with what to do where we know it."""
    try:
        yield
    except IsthmusError as error:
        raise explain(error, target) from None


@contextlib.contextmanager
def calling(target: Target) -> Iterator[Client]:
    """A client of the gateway, whose errors are the command's own."""
    with friendly(target.grpc), Client(target.grpc, api_key=target.api_key) as client:
        yield client


def explain(error: IsthmusError, target: str) -> CliError:
    """One error of the gateway at `target`, for a person or a program."""
    message = error.message
    if error.fields and all(each.description not in message for each in error.fields):
        message += ": " + "; ".join(f"{each.field}: {each.description}" for each in error.fields)
    if error.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE:
        message = f"the gateway at {target} cannot serve this now: {message}"
    return CliError(reason_name(error.reason), message.replace("\n", " "), metadata=error.metadata)
