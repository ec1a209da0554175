"""`python -m context_store --member ID --listen HOST:PORT`."""

import sys

from context_store.room import ContextStoreRoom
from services.lifecycle import run_room

sys.exit(run_room(ContextStoreRoom))
