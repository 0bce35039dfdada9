#!/usr/bin/env python3
"""Runs random queries on DuckDB and compares its rows with those of plain DataFusion.

`make differential-duckdb` writes the queries, the answers and the tables (BUZZ_DIFFERENTIAL_WRITE). Buzz agrees with plain
DataFusion on each of them, so that a difference is a fault of DataFusion or DuckDB, or a difference of the dialects.
A query that DuckDB rejects is counted. Ends with 1 if rows differ.
"""
import argparse
import collections
import datetime
import glob
import json
import math
import os
import re
import sys

import duckdb

# Functions that estimate, or whose values the dialects define in different ways.
OTHER_MEANING = re.compile(r"approx_|reverse\(|REGR_|CORR\(")
TOLERANCE = 2e-6


def in_duckdb(sql):
    """Returns the statement in the words of DuckDB."""
    return re.sub(r"\bLEFT (SEMI|ANTI) JOIN\b", r"\1 JOIN", sql).replace("FIRST_VALUE(", "first(")


def text(value):
    """Returns the text of a value as Arrow writes it."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, list):
        return "[" + ", ".join(text(element) for element in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {text(field)}" for key, field in value.items()) + "}"
    return str(value)


def number(cell):
    """Returns the number that a cell holds, if any."""
    try:
        return float(cell)
    except ValueError:
        return {"true": 1.0, "false": 0.0}.get(cell)


def same_number(left, right):
    if math.isnan(left) or math.isnan(right):
        return math.isnan(left) and math.isnan(right)
    return left == right or abs(left - right) <= TOLERANCE * max(abs(left), abs(right), 1.0)


def grouped(rows):
    """Groups rows by their texts; the numbers of each group are sorted."""
    groups = collections.defaultdict(list)
    for row in rows:
        numbers = [number(cell) for cell in row]
        key = tuple(None if value is not None else cell for cell, value in zip(row, numbers))
        groups[key].append([value for value in numbers if value is not None])
    return {key: sorted(numbers, key=place) for key, numbers in groups.items()}


def place(row):
    """Returns the sort key of a row of numbers: rounded, since the last digits may differ, then as they are."""
    exact = [(math.isnan(value), 0.0 if math.isnan(value) else value) for value in row]
    return [(nan, float(f"{value:.6g}")) for nan, value in exact], exact


def difference(found, expected):
    """Describes how two lists of rows differ, as multisets. None if they do not."""
    if len(found) != len(expected):
        return f"{len(expected)} rows in DataFusion, {len(found)} in DuckDB"
    left, right = grouped(found), grouped(expected)
    for key in left.keys() | right.keys():
        ours, theirs = left.get(key, []), right.get(key, [])
        if len(ours) != len(theirs):
            return f"{len(theirs)} rows like {key} in DataFusion, {len(ours)} in DuckDB"
        for one, other in zip(ours, theirs):
            if not all(same_number(a, b) for a, b in zip(one, other)):
                return f"{other} in DataFusion, {one} in DuckDB, in rows like {key}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder of the queries, answers and tables")
    folder = parser.parse_args().folder
    connection = duckdb.connect(config={"threads": 2})
    connection.execute("SET default_null_order = 'NULLS_LAST_ON_ASC_FIRST_ON_DESC'")
    for table in sorted(os.listdir(os.path.join(folder, "tables"))):
        files = os.path.join(folder, "tables", table, "*.parquet")
        connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{files}')")
    counts = collections.Counter()
    for file in sorted(glob.glob(os.path.join(folder, "*.jsonl"))):
        for line in open(file, encoding="utf-8"):
            query = json.loads(line)
            if OTHER_MEANING.search(query["sql"]):
                counts["other meaning"] += 1
                continue
            try:
                rows = connection.execute(in_duckdb(query["sql"])).fetchall()
            except duckdb.Error as error:
                counts["rejected by DuckDB"] += 1
                if os.environ.get("BUZZ_DIFFERENTIAL_VERBOSE"):
                    print(f"seed {query['seed']}: {str(error).splitlines()[0]}")
                continue
            told = difference([[text(cell) for cell in row] for row in rows], query["rows"])
            counts["differ" if told else "agree"] += 1
            if told:
                print(f"seed {query['seed']}: {told}\n  {query['sql']}\n")
    print(", ".join(f"{count} {what}" for what, count in counts.most_common()))
    sys.exit(1 if counts["differ"] else 0)


if __name__ == "__main__":
    main()
