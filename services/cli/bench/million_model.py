"""The random model of `isthmus bench million`, in the cache folder; the inference room writes it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from services.cli.errors import CliError

_MAKER: Final = "inference.million_model"
# Another shape of the model is another folder.
_FOLDER: Final = "models/million-1"
_SAID_CHARS_MAX: Final = 4_000


def make_model(cache_dir: Path) -> Path:
    """The model's folder, made once. Raises CliError if it cannot be."""
    folder = cache_dir.expanduser() / _FOLDER
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, and renamed: another process sees all of it or nothing.
    fresh = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        _write(fresh, cache_dir)
        fresh.rename(folder)
    except OSError as error:
        # Another process was faster; its model is the same.
        if not folder.exists():
            raise CliError("BENCH_FAILED", f"{folder}: {error}; expected a writable cache folder") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _write(folder: Path, cache_dir: Path) -> None:
    # -P: a folder of the same name in the user's working directory must not stand for the room.
    command = (sys.executable, "-P", "-m", _MAKER, str(folder))
    environment = {**os.environ, "ISTHMUS_INFERENCE__CACHE_DIR": str(cache_dir)}
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        problem = made.stderr[-_SAID_CHARS_MAX:]
        raise CliError("BENCH_FAILED", f"{_MAKER} ended with {made.returncode}; it said: {problem}")
