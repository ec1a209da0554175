"""Generates the Python stubs beside their protos; `--check` fails instead when what is committed differs."""

import argparse
import filecmp
import shutil
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
INIT = '"""Generated from the protos of this folder by `make protos`."""\n'


def generate(target: Path) -> None:
    """Writes every stub, and the packages that hold them, under `target`."""
    own = sorted(str(path.relative_to(HERE)) for path in HERE.glob("isthmus/**/*.proto"))
    # protovalidate 2 ships no google.protobuf classes of its rules; the stubs import them.
    vendored = ["buf/validate/validate.proto"]
    well_known = str(resources.files("grpc_tools") / "_proto")
    tools = Path(sys.executable).parent
    plugins = [f"--plugin={name}={tools / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    includes = [f"-I{HERE}", f"-I{HERE / 'third_party'}", f"-I{well_known}"]
    python = [f"--python_out={target}", f"--mypy_out=quiet:{target}"]
    services = [f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}"]
    with_service = [name for name in own if name.endswith("_service.proto")]
    for arguments in ([*python, *own], [*services, *with_service], [*python, *vendored]):
        if protoc.main(["protoc", *plugins, *includes, *arguments]) != 0:
            sys.exit("protoc failed")
    for folder in sorted({path.parent for path in target.rglob("*_pb2.py")}):
        while folder != target:
            (folder / "__init__.py").write_text(INIT)
            (folder / "py.typed").touch()
            folder = folder.parent


def stubs(root: Path) -> set[Path]:
    """The generated files under `root`, relative to it."""
    return {path.relative_to(root) for suffix in ("py", "pyi", "typed") for path in root.rglob(f"*.{suffix}")}


def place(relative: Path) -> Path:
    """Where a generated file is committed."""
    return (HERE / "vendor" if relative.parts[0] == "buf" else HERE) / relative


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a stub differs")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        made = stubs(fresh)
        here = {path for path in stubs(HERE) if path.parts[0] == "isthmus"}
        stale = sorted(str(path) for path in here - made)
        drifted = sorted(
            str(path)
            for path in made
            if not place(path).exists() or not filecmp.cmp(fresh / path, place(path), shallow=False)
        )
        if check and (stale or drifted):
            sys.exit(f"stubs differ from their protos, run `make protos`: {', '.join(drifted + stale)}")
        if not check:
            for name in stale:
                (HERE / name).unlink()
            for path in made:
                place(path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(fresh / path, place(path))


if __name__ == "__main__":
    main()
