"""Parquet files that are written as rows come, and read as they are wanted."""

import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP = 16_384


class TableWriter:
    """Writes tables one after another in row groups of fixed size, so that equal rows give equal bytes however they came.

    The file is there, whole, when the context ends without an exception; otherwise there is none.
    """

    def __init__(self, path: Path, schema: "pa.Schema") -> None:
        self._path = path
        self._schema = schema
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._waiting: list[pa.Table] = []
        self._n_waiting = 0
        self.rows = 0

    def write(self, table: "pa.Table") -> None:
        """Append rows."""
        self.rows += table.num_rows
        self._n_waiting += table.num_rows
        self._waiting.append(table)
        if self._n_waiting >= ROW_GROUP:
            self._write_groups(ROW_GROUP)

    def _write_groups(self, least: int) -> None:
        """Write groups while at least `least` rows wait."""
        import pyarrow as pa

        table = pa.concat_tables(self._waiting) if self._waiting else self._schema.empty_table()
        start = 0
        while table.num_rows - start >= least:
            self._writer.write_table(table.slice(start, ROW_GROUP))
            start += ROW_GROUP
        self._waiting = [table.slice(start)]
        self._n_waiting = max(table.num_rows - start, 0)

    def __enter__(self) -> Self:
        import pyarrow.parquet as pq

        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(self._temporary, self._schema, compression="zstd")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._write_groups(1)
            self._writer.close()
            if error is None:
                self._temporary.replace(self._path)
        finally:
            self._temporary.unlink(missing_ok=True)
