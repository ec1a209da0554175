"""`python -m gateway --member ID --listen HOST:PORT [--http HOST:PORT]`: the mesh's door."""

from gateway.room import GatewayRoom
from services.lifecycle import run_room

if __name__ == "__main__":
    raise SystemExit(run_room(GatewayRoom))
