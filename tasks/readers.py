"""Raw files of any common kind -> one JSON object a row, with its place, streamed: JSONL, JSON, CSV, TSV and Parquet.

The first bytes tell Parquet, packed files and encodings, the name CSV, TSV and JSON. Any may be packed with gzip or Zstandard.
"""

import codecs
import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from tasks.errors import DataError, one_line
from tasks.files import sha256_file
from tasks.formats import MESSAGE_KEYS, split_instances

KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
PACKED = (".gz", ".zst")
MAX_LINE = 64 << 20
"""Bytes of a line above which a file is refused instead of read into memory."""

_GZIP, _ZSTANDARD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_BOMS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_HEAD = 1 << 20
_MAGIC = 64  # bytes; a zero among them is no text, one further on is the fault of its row
_BATCH = 1024
_DELIMITERS = ",;\t|"


class RawLine(NamedTuple):  # crosses to other processes in 2.6 us, a frozen dataclass in 6
    """One row as the bytes of a JSON text. `line` counts from 1: lines in JSONL, CSV and TSV, rows in JSON and Parquet."""

    file: str
    line: int
    data: bytes


def find_raw_files(folder: Path) -> list[Path]:
    """Every file below `folder` whose name ends like one of KINDS, packed or not, sorted by relative POSIX path.

    Raises:
        DataError: the folder is missing, cannot be listed, or holds no such file.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder, wanted the one with the conversations; params.yaml names it as validate.raw")
    names: list[Path] = []
    try:
        for parent, folders, files in os.walk(folder, onerror=_raise):
            folders.sort()
            names += [Path(parent, name) for name in files]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be listed: {error.strerror}; mend its permissions") from None
    found = [path for path in names if is_raw_file(path.name)]
    if not found:
        others = ", ".join(sorted(path.name for path in names)[:5]) or "nothing"
        wanted = ", ".join(f"*{kind}" for kind in KINDS)
        raise DataError(f"{folder}: no file of conversations ({wanted}), found {others}; put them there or change validate.raw")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def is_raw_file(name: str) -> bool:
    """Whether a file of this name is read at all."""
    return _kind(name) in KINDS


def read_rows(path: Path, name: str, digests: dict[str, str]) -> Iterator[RawLine]:
    """The rows of one file in order; when the last one was read, `digests[name]` is the sha256 of the file.

    A line of JSONL comes as it is, whatever is in it, but for one of several instances (`split_instances`), which are a row
    each; a row of the other kinds comes as a JSON object of its columns.

    Raises:
        DataError: the file cannot be read to its end, with the place.
    """
    try:
        with path.open("rb", buffering=_HEAD) as stored, _unpacked(stored) as stream:
            for line, data in _rows(stream, name):
                for row in _split(data) if b'"instances"' in data else (data,):
                    yield RawLine(name, line, row)
        digests[name] = sha256_file(path)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{name}: cannot be read: {reason}; mend or remove it") from None


def _split(data: bytes) -> list[bytes]:
    try:
        rows = split_instances(json.loads(data))
    except (ValueError, RecursionError):
        return [data]
    return [_as_json(row) for row in rows] if len(rows) > 1 or "instances" not in rows[0] else [data]


def _raise(error: OSError) -> None:
    raise error


def _kind(name: str) -> str:
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix in PACKED else path.suffix


def _unpacked(stored: Any) -> IO[bytes]:
    head = stored.peek(4)
    if head.startswith(_GZIP):
        return io.BufferedReader(gzip.GzipFile(fileobj=stored), _HEAD)
    if head.startswith(_ZSTANDARD):
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(stored, "zstd"), _HEAD)
    return cast(IO[bytes], stored)


def _rows(stream: Any, name: str) -> Iterator[tuple[int, bytes]]:
    head = bytes(stream.peek(_HEAD))
    bom = next((mark for mark in _BOMS if head.startswith(mark)), b"")
    encoding = _BOMS.get(bom, "utf-8")
    if head.startswith(_PARQUET):
        return _parquet(stream, name)
    if (zero := head.find(b"\0", 0, _MAGIC)) >= 0 and encoding == "utf-8":
        raise DataError(f"{name}: a binary file, not text (a zero byte at {zero + 1}); save it as UTF-8, or remove it")
    if not head.strip():
        return iter(())
    stream.read(len(bom))
    if encoding != "utf-8":
        stream = _as_utf8(stream, encoding)
    if _kind(name) in (".csv", ".tsv"):
        return _table(stream, name)
    return _json(stream, name) if _is_json(stream, name) else _lines(stream, name)


def _as_utf8(stream: Any, encoding: str) -> io.BufferedReader:
    class Recoded(io.RawIOBase):
        """The same text in UTF-8; what cannot be decoded becomes U+FFFD, which a row rule refuses."""

        def __init__(self) -> None:
            self.decode = codecs.getincrementaldecoder(encoding)("replace").decode
            self.left = b""

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            while not self.left:
                chunk = stream.read(io.DEFAULT_BUFFER_SIZE)
                self.left = self.decode(chunk, final=not chunk).encode("utf-8", "replace")
                if not chunk:
                    break
            taken, self.left = self.left[: len(buffer)], self.left[len(buffer) :]
            buffer[: len(taken)] = taken
            return len(taken)

    return io.BufferedReader(Recoded(), _HEAD)


def _is_json(stream: Any, name: str) -> bool:
    """Whether this is one JSON text rather than one a line: a name tells, unless the first line says otherwise."""
    first, _, rest = bytes(stream.peek(_HEAD)).lstrip().partition(b"\n")
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return _kind(name) == ".json" or first.startswith(b"[")
    return _kind(name) == ".json" and not rest.strip()


def _lines(stream: Any, name: str) -> Iterator[tuple[int, bytes]]:
    number = 0
    while data := stream.readline(MAX_LINE + 1):
        number += 1
        if len(data) > MAX_LINE:
            raise DataError(f"{name}:{number}: a line of more than {MAX_LINE >> 20} MiB; is this one JSON row a line?")
        if data.strip():
            yield number, data.rstrip(b"\r\n")


def _json(stream: Any, name: str) -> Iterator[tuple[int, bytes]]:
    """The elements of every array that lies in no other: `[row, …]`, `{split: [row, …]}`, or deeper; or the one row it is."""
    import ijson

    number = 0
    try:
        for row in _elements(ijson.basic_parse(stream, use_float=True), ijson.ObjectBuilder):
            number += 1
            yield number, _as_json(row)
    except (ijson.JSONError, UnicodeDecodeError, RecursionError) as error:
        reason = one_line(error)[:200]
        raise DataError(f"{name}: not JSON after row {number}: {reason}; mend the file or remove it") from None


def _elements(events: Iterator[tuple[str, Any]], new_builder: Any) -> Iterator[Any]:
    in_array, depth = False, 0
    builder: Any = None
    head = _up_to_an_element(events)
    if _is_one_row(head):
        builder = new_builder()
        for event, value in chain(head, events):
            builder.event(event, value)
        yield builder.value
        return
    for event, value in chain(head, events):
        if not in_array:
            in_array = event == "start_array"
        elif not depth and event == "end_array":
            in_array = False
        else:
            builder = builder if depth else new_builder()
            builder.event(event, value)
            depth += event.startswith("start_") - event.startswith("end_")
            if not depth:
                yield builder.value


def _up_to_an_element(events: Iterator[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """With the first key of the first array's first element, if that is an object."""
    found = []
    for event in events:
        found.append(event)
        if event[0] == "start_array":
            return [*found, *islice(events, 2)]
    return found


def _is_one_row(head: list[tuple[str, Any]]) -> bool:
    """Whether an object is a conversation itself rather than a holder of some: it has no array, or first one of messages."""
    if not head or head[0][0] != "start_map":
        return False
    return ("start_array", None) not in head or head[-1] in [("map_key", key) for key in MESSAGE_KEYS]


def _table(stream: Any, name: str) -> Iterator[tuple[int, bytes]]:
    """Rows below a header line; one with more cells than the header has comes as a list, which a row rule refuses."""
    csv.field_size_limit(MAX_LINE)
    header_line = stream.peek(_HEAD).partition(b"\n")[0].decode("utf-8", "replace")
    delimiter = "\t" if _kind(name) == ".tsv" else max(_DELIMITERS, key=header_line.count)
    lines = (line.decode("utf-8", "surrogateescape") for line in iter(lambda: stream.readline(MAX_LINE), b""))
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        start = rows.line_num + 1
        for cells in rows:
            if cells:
                yield start, _as_json(dict(zip(header, cells, strict=False)) if len(cells) <= len(header) else cells)
            start = rows.line_num + 1
    except csv.Error as error:
        raise DataError(f"{name}:{rows.line_num}: not {_kind(name)[1:].upper()}: {error}; mend the line or remove it") from None


def _parquet(stream: Any, name: str) -> Iterator[tuple[int, bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        table = pq.ParquetFile(stream if stream.seekable() else io.BytesIO(stream.read()))
        for batch in table.iter_batches(_BATCH):
            for row in batch.to_pylist():
                number += 1
                yield number, _as_json(row)
    except pa.ArrowException as error:
        raise DataError(f"{name}: not Parquet after row {number}: {str(error)[:200]}; write it anew or remove it") from None


def _as_json(row: Any) -> bytes:
    return json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
