"""What vLLM's errors mean to whoever sent the request."""

from __future__ import annotations

from isthmus.errors.v1 import errors_pb2
from vllm.exceptions import GracefulHTTPError, VLLMClientError

from inference.engine import Sampling, engine_failed
from inference.engines.vllm_sampling import FIELDS
from services.errors import InvalidField, IsthmusError, UpstreamUnavailable


def request_error(error: Exception, sampling: Sampling, *, alive: bool) -> IsthmusError:
    """The error of a request in an engine that is `alive`, or is not any more."""
    if isinstance(error, IsthmusError):
        return error
    if isinstance(error, VLLMClientError):
        return InvalidField(_field(error, sampling), " ".join(str(error).split()))
    if not alive:
        # Nothing is wrong with the request: the next process, or another replica, will take it.
        return UpstreamUnavailable("the engine's process ended in the middle of this")
    if isinstance(error, GracefulHTTPError):
        return IsthmusError(errors_pb2.ERROR_REASON_OVERLOADED, str(error))
    return engine_failed(f"the engine failed on this request: {error.__cause__ or error!r}")


def unfinished(reason: str) -> IsthmusError:
    """The error of a reply that vLLM ended before its end."""
    if reason == "abort":
        return UpstreamUnavailable("the engine was stopped in the middle of this")
    return engine_failed(f"the engine ended the reply, and says {reason!r}")


def _field(error: VLLMClientError, sampling: Sampling) -> str:
    """The field that an error is about: where vLLM does not name it, its message begins with it or tells the form."""
    named = str(getattr(error, "parameter", ""))
    if named in FIELDS:
        return FIELDS[named]
    if sampling.structured_output is not None:
        return FIELDS["structured_outputs"]
    if sampling.tools is not None:
        return FIELDS["tools"]
    return next((field for name, field in FIELDS.items() if str(error).startswith(name)), "params")
