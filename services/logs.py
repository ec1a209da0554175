"""Structured logs: one line an event, as JSON or for a console, each with room, member and trace id."""

from __future__ import annotations

import logging
import sys
from typing import Final

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from services.config import TelemetrySettings
from services.telemetry import current_trace_id

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure(settings: TelemetrySettings, *, room: str, member_id: str) -> None:
    """Sends structlog's and the standard library's records to stderr as one stream of equal lines."""

    def identify(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["room"] = room
        event["member"] = member_id
        if trace_id := current_trace_id():
            event["trace_id"] = trace_id
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        identify,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_render(settings)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[settings.log_level])


def _render(settings: TelemetrySettings) -> list[Processor]:
    finish = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if settings.log_json:
        return [finish, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # A traceback with local variables, which is the default, would put texts of sessions into the log.
    plain = structlog.dev.plain_traceback
    return [finish, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
