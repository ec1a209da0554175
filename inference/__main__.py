"""`python -m inference --member ID --listen HOST:PORT`: one model replica."""

from inference.room import InferenceRoom
from services.lifecycle import run_room

if __name__ == "__main__":
    raise SystemExit(run_room(InferenceRoom))
