#!/usr/bin/env python3
"""Makes TPC-DS in a folder: tables as Parquet, the 99 statements, and the answers of DuckDB on these tables.

    tables/NAME/files/*.parquet    the rows, divided into several files
    tables/NAME/turned/*.parquet   the same rows in reverse order
    tables/NAME/mixed/*.parquet    the same rows in random order
    statements/NN.sql              the statements
    answers/NN.json                DuckDB's rows, one text per cell, and the rows without the last LIMIT

DuckDB's extension `tpcds` comes from PyPI. A folder that is complete is left as it is.
"""
import argparse
import glob
import json
import os
import re
import sys

import duckdb
import duckdb_extension_tpcds

FILES = 4
ROWS_OF_SMALL_TABLE = 1000


def connect():
    """Returns a connection with the extension, which sorts nulls as DataFusion does."""
    connection = duckdb.connect(config={"threads": 2})
    folder = os.path.dirname(duckdb_extension_tpcds.__file__)
    (extension,) = glob.glob(os.path.join(folder, "extensions/*/tpcds.duckdb_extension"))
    connection.execute(f"LOAD '{extension}'")
    connection.execute("SET default_null_order = 'NULLS_LAST_ON_ASC_FIRST_ON_DESC'")
    return connection


def write_table(connection, name, folder):
    """Writes the rows of a table three times."""
    (rows,) = connection.execute(f"SELECT count(*) FROM {name}").fetchone()
    files = FILES if rows > ROWS_OF_SMALL_TABLE else 1
    share = max(1, -(-rows // files))
    for way, order, count in [("files", "rowid", files), ("turned", "rowid DESC", 1), ("mixed", "hash(rowid)", 1)]:
        target = os.path.join(folder, "tables", name, way)
        os.makedirs(target, exist_ok=True)
        for part in range(count):
            which = f"WHERE rowid >= {part * share} AND rowid < {(part + 1) * share}" if count > 1 else ""
            select = f"SELECT * FROM {name} {which} ORDER BY {order}"
            file = os.path.join(target, f"part-{part}.parquet")
            connection.execute(f"COPY ({select}) TO '{file}' (FORMAT parquet, ROW_GROUP_SIZE 20480)")


def cell(value):
    """Returns the text of a value."""
    return "NULL" if value is None else str(value)


def rows_of(connection, sql):
    """Runs a statement. Returns its rows as texts."""
    return [[cell(value) for value in row] for row in connection.execute(sql).fetchall()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="folder to make")
    parser.add_argument("--scale", type=float, default=0.1)
    arguments = parser.parse_args()
    folder = arguments.folder
    complete = os.path.join(folder, "complete")
    if os.path.exists(complete):
        return
    print(f"making TPC-DS at scale factor {arguments.scale} in {folder} …", file=sys.stderr)
    connection = connect()
    connection.execute(f"CALL dsdgen(sf = {arguments.scale})")
    for (name,) in connection.execute("SHOW TABLES").fetchall():
        write_table(connection, name, folder)
    for below in ("statements", "answers"):
        os.makedirs(os.path.join(folder, below), exist_ok=True)
    statements = connection.execute("SELECT query_nr, query FROM tpcds_queries() ORDER BY 1").fetchall()
    for number, text in statements:
        sql = text.strip().rstrip(";")
        unlimited = re.sub(r"\bLIMIT\s+\d+\s*$", "", sql, flags=re.IGNORECASE)
        answer = {"rows": rows_of(connection, sql), "all": rows_of(connection, unlimited)}
        with open(os.path.join(folder, "statements", f"{number:02}.sql"), "w", encoding="utf-8") as out:
            out.write(sql)
        with open(os.path.join(folder, "answers", f"{number:02}.json"), "w", encoding="utf-8") as out:
            json.dump(answer, out)
    with open(complete, "w", encoding="utf-8") as out:
        out.write(f"{len(statements)} statements\n")


if __name__ == "__main__":
    main()
