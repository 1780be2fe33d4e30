"""Lays out a libtorch folder for CPU builds from the wheels in WHEELS.

usage: unpack_libtorch.py WHEELS DEST

Takes only what a C++ program needs: the headers and the CPU libraries. The
CUDA parts of the wheel stay behind, so `libtorch.so`, which would pull them
in, is replaced by a linker script that names the CPU libraries alone.
"""

import pathlib
import shutil
import sys
import zipfile

LIBRARIES = {
    "torch/lib/libc10.so": "libc10.so",
    "torch/lib/libtorch_cpu.so": "libtorch_cpu.so",
    "torch/lib/libgomp.so.1": "libgomp.so.1",
}
RUNTIME = ("libcudart.so.13", "libcupti.so.13")


def extract(archive, member, dest):
    dest.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, open(dest, "wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)


def unpack(wheels, dest):
    wanted = set(LIBRARIES.values()) | set(RUNTIME)
    version = None
    for wheel in sorted(wheels.glob("*.whl")):
        is_torch = wheel.name.startswith("torch-")
        if is_torch:
            version = wheel.name.split("-")[1]
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                base = member.rsplit("/", 1)[-1]
                if is_torch and member in LIBRARIES:
                    name = LIBRARIES[member]
                elif is_torch and member.startswith("torch/include/") and base:
                    extract(archive, member, dest / member.removeprefix("torch/"))
                    continue
                elif not is_torch and base in RUNTIME:
                    name = base
                else:
                    continue
                extract(archive, member, dest / "lib" / name)
                wanted.discard(name)
    if version is None or wanted:
        sys.exit(f"error: the wheels in {wheels} lack {sorted(wanted) or 'torch'}")
    (dest / "lib" / "libtorch.so").write_text("INPUT(-ltorch_cpu -lc10)\n")
    (dest / "build-version").write_text(version + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    unpack(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
