"""Traces and logs: ids are there without an exporter, and every line says whose it is."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services import logs, telemetry
from services.config import TelemetrySettings


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What has been written to standard error; the process's logging is put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield lambda: capsys.readouterr().err
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_provider_that_is_set_is_kept(spans: InMemorySpanExporter) -> None:
    provider = trace.get_tracer_provider()
    telemetry.configure(TelemetrySettings(), room="gateway", member_id="gateway-0")
    assert trace.get_tracer_provider() is provider
    with telemetry.tracer.start_as_current_span("seen"):
        assert len(telemetry.current_trace_id()) == 32
    assert [span.name for span in spans.get_finished_spans()] == ["seen"]


def test_outside_of_a_trace_there_is_no_id() -> None:
    assert telemetry.current_trace_id() == ""


@pytest.mark.parametrize(
    "header",
    [None, "", "rubbish", f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-{'A' * 32}-00f067aa0ba902b7-01", "00-" + "a" * 60],
)
def test_a_header_that_names_no_trace_begins_one(header: str | None) -> None:
    with telemetry.continued(header):
        trace_id = telemetry.current_trace_id()
        assert int(trace_id, 16)
        handed_on = telemetry.traceparent()
    with telemetry.continued(handed_on):
        assert telemetry.current_trace_id() == trace_id
    assert telemetry.current_trace_id() == ""


def test_a_line_says_who_what_and_in_which_trace(spans: InMemorySpanExporter, lines: Callable[[], str]) -> None:
    logs.configure(TelemetrySettings(), room="gateway", member_id="gateway-0")
    with telemetry.tracer.start_as_current_span("work"):
        structlog.get_logger("rpc").info("opened", turn=4)
        expected = telemetry.current_trace_id()
    line = json.loads(lines())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "opened",
        "turn": 4,
        "level": "info",
        "logger": "rpc",
        "room": "gateway",
        "member": "gateway-0",
        "trace_id": expected,
    }


def test_the_standard_librarys_records_become_equal_lines(lines: Callable[[], str]) -> None:
    logs.configure(TelemetrySettings(), room="gateway", member_id="gateway-0")
    logging.getLogger("library").warning("took %d ms", 7)
    line = json.loads(lines())
    assert (line["event"], line["logger"], line["member"]) == ("took 7 ms", "library", "gateway-0")


def test_an_exception_is_one_line_with_its_traceback(lines: Callable[[], str]) -> None:
    logs.configure(TelemetrySettings(), room="gateway", member_id="gateway-0")
    structlog.get_logger("rpc").error("bug", exc_info=ZeroDivisionError("why"))
    (line,) = lines().splitlines()
    assert "ZeroDivisionError: why" in json.loads(line)["exception"]


def test_lines_below_the_level_are_not_written(lines: Callable[[], str]) -> None:
    logs.configure(TelemetrySettings(log_level="warning"), room="gateway", member_id="gateway-0")
    structlog.get_logger("rpc").info("quiet")
    assert lines() == ""


def test_a_console_gets_readable_lines(lines: Callable[[], str]) -> None:
    logs.configure(TelemetrySettings(log_json=False), room="gateway", member_id="gateway-0")
    structlog.get_logger("rpc").info("opened", turn=4)
    written = lines()
    assert "opened" in written
    assert "turn=4" in written
