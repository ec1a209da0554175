"""What `up` prints: where the mesh listens, the turn it shows, examples to go on with, and its log while it runs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, Final

from isthmus.session.v1 import turn_pb2
from rich.text import Text

from services.cli.errors import CliError
from services.cli.output import console, print_json, receipt_lines, receipt_table, stream, turn_document
from services.supervisor.logline import LogLine
from services.supervisor.logmux import OWN_NAME
from services.supervisor.state import MeshState

_LOUD: Final = {"warning": "yellow", "error": "red"}
_COLOURS: Final = ("cyan", "magenta", "blue", "green", "bright_cyan", "bright_magenta", "bright_blue")


class Greeting:
    """The output of one `up`. With `as_json` it prints one document, when the turn is over."""

    def __init__(self, *, once: bool, as_json: bool) -> None:
        self._once = once
        self._as_json = as_json
        self._mesh: dict[str, Any] = {}
        self._key_file: Path | None = None
        self._log = None if as_json or not sys.stderr.isatty() else console(stderr=True)
        self._colours: dict[str, str] = {}

    def echo(self, name: str, line: LogLine) -> None:
        """On a terminal: what the supervisor does, and whatever a process warns of."""
        if self._log is None or (name != OWN_NAME and line.level not in _LOUD):
            return
        colour = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
        first = line.text.partition("\n")[0]
        self._log.print(Text.assemble((f"{name:<16} ", colour), (first, _LOUD.get(line.level, "dim"))))

    def ready(self, mesh: MeshState, ready_ms: int) -> None:
        """The mesh is up, `ready_ms` after the command began."""
        self._mesh = {
            "home": mesh.home,
            "grpc": mesh.grpc,
            "http": mesh.http,
            "valkey": mesh.valkey,
            "log": mesh.log,
            "pid": mesh.pid,
            "ready_ms": ready_ms,
        }
        if self._as_json:
            return
        out = console()
        out.print(f"\nIsthmus is up after {ready_ms / 1_000:.1f} s, {len(mesh.processes)} processes", style="bold")
        out.print(f"  HTTP  {mesh.http}/v1\n  gRPC  {mesh.grpc}", markup=False)
        out.print(f"  home  {mesh.home}\n  log   {mesh.log}\n", markup=False)

    def key(self, file: Path, made: str | None) -> None:
        """The mesh wants API keys. Its first one is in the file; `made` is that key if this start has made it."""
        self._key_file = file
        self._mesh |= {"api_key_file": str(file)} | ({"api_key": made} if made else {})
        if made and not self._as_json:
            console().print(f"  key   {made}\n        shown once, and kept in {file}\n", markup=False)

    def not_asked(self) -> None:
        """The mesh lets in tokens alone, so there is no turn to show."""
        if self._as_json:
            print_json(self._mesh)
        else:
            console().print("  Calls need a token of the issuer (gateway.access.jwt); no turn is shown.", markup=False)

    def asked(self, question: str) -> None:
        """The turn begins."""
        if not self._as_json:
            console().print(f"> {question}", style="bold", markup=False)

    def text(self, text: str) -> None:
        """A piece of the reply."""
        if not self._as_json:
            stream(text)

    def answered(self, session: str, turn: turn_pb2.Turn) -> None:
        """The turn is over."""
        if self._as_json:
            print_json(self._mesh | turn_document(session, turn))
            return
        out = console()
        out.print("\n")
        out.print(receipt_table(turn.receipt))
        for line in receipt_lines(turn.receipt):
            out.print(line, style="dim", markup=False)

    def failed(self, error: CliError) -> None:
        """The turn failed, and the mesh goes on."""
        if self._as_json:
            print_json(self._mesh | {"error": {"reason": error.reason, "message": str(error)}})
        else:
            console(stderr=True).print(f"\nthe turn failed: {error}", style="red", markup=False)

    def examples(self, mesh: MeshState) -> None:
        """How to go on."""
        if self._as_json:
            return
        home = "" if Path(mesh.home) == Path.home() / ".isthmus" else f" --home {shlex.quote(mesh.home)}"
        out = console()
        header, key = "", '"none"'
        if self._key_file is not None:
            quoted = shlex.quote(str(self._key_file))
            header, key = f'-H "authorization: Bearer $(cat {quoted})" ', f'open("{self._key_file}").read().strip()'
        out.print("\nGo on with", style="bold")
        out.print(
            f"  isthmus chat{home}\n"
            f"  isthmus ingest FILE --session book{home}\n"
            f"  curl -s {mesh.http}/v1/responses {header}-H 'content-type: application/json' "
            '-d \'{"input": "Name three isthmuses."}\'\n'
            f"  python -c 'from openai import OpenAI; "
            f'print(OpenAI(base_url="{mesh.http}/v1", api_key={key})'
            '.responses.create(input="Name three isthmuses.").output_text)\'\n'
            "Ctrl-C stops the mesh.",
            markup=False,
        )
