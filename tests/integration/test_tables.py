"""Parquet written as rows come: the same bytes however they came, and all of the file or none."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.files import sha256_file
from tasks.tables import ROW_GROUP, TableWriter

SCHEMA = pa.schema([pa.field("number", pa.int64(), nullable=False)])
TABLE = pa.table({"number": range(2 * ROW_GROUP + 5)}, schema=SCHEMA)


def write(path: Path, size: int) -> None:
    with TableWriter(path, SCHEMA) as writer:
        for start in range(0, TABLE.num_rows, size):
            writer.write(TABLE.slice(start, size))
    assert writer.rows == TABLE.num_rows


def test_the_size_of_the_parts_does_not_show(tmp_path: Path) -> None:
    sizes = (700, ROW_GROUP, TABLE.num_rows)
    for size in sizes:
        write(tmp_path / str(size), size)
    assert len({sha256_file(tmp_path / str(size)) for size in sizes}) == 1
    assert pq.read_table(tmp_path / "700") == TABLE
    groups = pq.ParquetFile(tmp_path / "700").metadata
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [ROW_GROUP, ROW_GROUP, 5]


def test_no_rows_are_a_file_too(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "empty", SCHEMA):
        pass
    assert pq.read_table(tmp_path / "empty").num_rows == 0


def test_after_an_error_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="schema"), TableWriter(tmp_path / "half", SCHEMA) as writer:
        writer.write(pa.table({"another": ["column"]}))
    assert list(tmp_path.iterdir()) == []
