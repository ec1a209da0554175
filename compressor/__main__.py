"""`python -m compressor --member ID --listen HOST:PORT`."""

import sys

from compressor.room import CompressorRoom
from services.lifecycle import run_room

sys.exit(run_room(CompressorRoom))
