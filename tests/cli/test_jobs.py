"""`jobs` and `webhooks` on a mesh: listed, shown, cancelled, and an endpoint that is told."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from standardwebhooks import Webhook

from tests.cli.conftest import Isthmus, end, read_document
from tests.support.processes import until

FREE = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
OWN = {"ISTHMUS_GATEWAY__WEBHOOKS__PRIVATE_ALLOWED": "true"}


@pytest.fixture(scope="module")
def background_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A mesh whose events may go to this machine."""
    home = tmp_path_factory.mktemp("background") / "home"
    process = Isthmus(OWN).spawn("up", "--json", "--engine", "scripted", "--shards", "1", "--home", str(home), *FREE)
    yield read_document(process)
    end(process)


@pytest.fixture
def isthmus(background_up: Any) -> Isthmus:
    """The command, with that mesh as its home."""
    return Isthmus({"ISTHMUS_HOME": background_up["home"]})


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """A URL, and what came there."""
    got: list[tuple[dict[str, str], bytes]] = []

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((dict(self.headers.items()), body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Taking) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook", got
        server.shutdown()
        thread.join()


def respond(mesh: Any) -> str:
    """A background response's id."""
    body = json.dumps({"input": "hello", "background": True}).encode()
    request = urllib.request.Request(
        f"{mesh['http']}/v1/responses", body, {"content-type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 202
        return str(json.load(answer)["id"])


def test_jobs_are_listed_and_shown(isthmus: Isthmus, background_up: Any) -> None:
    made = respond(background_up)
    job = until(lambda: _done(isthmus, made), 30, "it is done")
    assert job["state"] == "done"
    assert job["response"]["output_text"]
    ended = until(lambda: isthmus("jobs", "list", "--ended", "--json").json["jobs"], 10, "it is put away")
    assert [each["name"] for each in ended] == [job["name"]]
    assert isthmus("jobs", "dead", "--json").json == {"jobs": []}
    assert isthmus("jobs").out.strip() == "no jobs"
    assert made.split("_")[1] in isthmus("jobs", "list", "--ended").out
    assert isthmus("jobs", "cancel", made, "--json").error["reason"] == "TURN_STATE"
    assert isthmus("jobs", "replay", made, "--json").error["reason"] == "NOT_FOUND"
    assert isthmus("jobs", "show", "no job!", "--json").error["reason"] == "USAGE"


def test_an_endpoint_is_added_tested_told_and_removed(
    isthmus: Isthmus, background_up: Any, endpoint: tuple[str, list[tuple[dict[str, str], bytes]]]
) -> None:
    url, got = endpoint
    made = isthmus("webhooks", "add", url, "--event", "response.completed", "--json").json
    listed = isthmus("webhooks", "list", "--json").json["endpoints"]
    assert listed == [made["endpoint"]]
    assert "whsec" not in isthmus("webhooks", "list").out
    identifier = made["endpoint"]["id"]
    assert isthmus("webhooks", "test", identifier, "--json").json["status"] == 204
    response = respond(background_up)
    until(lambda: len(got) == 2, 30, "the event")
    test, told = (Webhook(made["secret"]).verify(body, headers) for headers, body in got)
    assert test["type"] == "webhook.test"
    assert (told["type"], told["data"]["id"]) == ("response.completed", response)
    assert isthmus("webhooks", "dead", "--json").json == {"events": []}
    isthmus("webhooks", "remove", identifier)
    assert isthmus("webhooks", "list", "--json").json["endpoints"] == []
    assert isthmus("webhooks", "remove", identifier, "--json").error["reason"] == "NOT_FOUND"
    assert isthmus("webhooks", "add", "ftp://host", "--json").error["reason"] == "USAGE"


def _done(isthmus: Isthmus, name: str) -> Any:
    job = isthmus("jobs", "show", name, "--json").json["job"]
    return job if job["done"] else None
