"""What a replica shows the mesh: its process's lifecycle, and that it starts while a ready process has no engine."""

from __future__ import annotations

from services.lifecycle import Lifecycle, State, Watcher


class Standing(Lifecycle):
    """The process's lifecycle as servers and announcers are to see it.

    While the engine is away it reads STARTING where the process is READY: rpcs answer NOT_READY, health NOT_SERVING,
    and gateways pass the replica over. The process itself stays ready, and may drain and stop meanwhile.
    """

    def __init__(self, process: Lifecycle) -> None:
        super().__init__()
        self._process = process
        self._has_engine = True
        self._told: list[Watcher] = []
        process.watch(lambda _: self._tell())

    @property
    def state(self) -> State:
        """Where the replica stands now."""
        state = self._process.state
        return State.STARTING if state is State.READY and not self._has_engine else state

    def watch(self, watcher: Watcher) -> None:
        """Calls the watcher with every later state."""
        self._told.append(watcher)

    def move(self, state: State) -> None:
        """Moves the process."""
        self._process.move(state)

    def show_engine(self, *, is_there: bool) -> None:
        """Says whether there is an engine to work with."""
        before, self._has_engine = self.state, is_there
        if self.state is not before:
            self._tell()

    def _tell(self) -> None:
        for watcher in tuple(self._told):
            watcher(self.state)
