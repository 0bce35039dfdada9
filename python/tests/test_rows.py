"""Rows, types and what a result can be converted to."""

import decimal
import re
import sys
import unittest
import warnings
from unittest import mock

import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq

import buzz
from buzz.result import Result, Summary
from support import MANY, Fixture, connection, kinds


def shown(table):
    """Returns a result with the rows of `table`."""
    return Result(table, Summary.from_json({"rows": table.num_rows}), [], "")


class Types(unittest.TestCase):
    def test_each_column_is_what_pyarrow_reads_from_the_file(self):
        expected = pq.read_table(Fixture.shared().folder / "kinds of values.parquet")
        got = connection().sql("SELECT * FROM kinds ORDER BY id").to_arrow()
        self.assertEqual(got.schema.names, expected.schema.names)
        for name in expected.schema.names:
            with self.subTest(name):
                self.assertEqual(got.schema.field(name).type, expected.schema.field(name).type)
                self.assertEqual(got.column(name).to_pylist(), expected.column(name).to_pylist())

    def test_rows_are_dicts_with_exact_values(self):
        self.assertEqual(connection().sql("SELECT * FROM kinds ORDER BY id").to_pylist(), kinds().to_pylist())

    def test_pandas_gets_the_values(self):
        frame = connection().sql("SELECT id, price, name, at_utc, yes FROM kinds ORDER BY id").to_pandas()
        self.assertIsInstance(frame, pandas.DataFrame)
        self.assertEqual(list(frame["id"]), [1, 2, 3])
        self.assertEqual(frame["price"][0], decimal.Decimal("-12345678.90"))
        self.assertEqual(frame["at_utc"][0], pandas.Timestamp("2023-11-14T22:13:20.123456Z"))
        self.assertTrue(frame["price"].isna()[1])

    def test_polars_gets_the_values(self):
        frame = connection().sql("SELECT id, price, name, at_utc, list, pair FROM kinds ORDER BY id").to_polars()
        self.assertIsInstance(frame, polars.DataFrame)
        self.assertEqual(frame["id"].to_list(), [1, 2, 3])
        self.assertEqual(frame["price"][0], decimal.Decimal("-12345678.90"))
        self.assertEqual(frame["list"].to_list(), [[1, None, 3], [], None])
        self.assertEqual(frame["pair"][0], {"a": 1, "b": None})

    def test_other_libraries_take_the_result_itself(self):
        result = connection().sql("SELECT id FROM kinds ORDER BY id")
        self.assertEqual(pa.table(result).column("id").to_pylist(), [1, 2, 3])

    def test_empty_result_has_columns(self):
        result = connection().sql("SELECT id, price FROM kinds WHERE id > 3")
        self.assertEqual(result.schema, pa.schema([("id", pa.int64()), ("price", pa.decimal128(10, 2))]))
        self.assertEqual((result.to_pylist(), len(result.to_pandas()), len(result.to_polars())), ([], 0, 0))
        self.assertIn("| id | price |", repr(result))

    def test_a_million_rows_arrive_complete_and_in_order(self):
        result = connection().sql("SELECT n, text FROM numbers ORDER BY n")
        self.assertEqual(result.summary.rows, MANY)
        self.assertEqual(sum(batch.num_rows for batch in result), MANY)
        self.assertEqual(result.to_arrow().column("n"), pa.chunked_array([pa.array(range(MANY), pa.int64())]))
        self.assertEqual(result.to_arrow().column("text")[MANY - 1].as_py(), str(MANY - 1))

    def test_entry_of_a_table_sets_its_fields(self):
        rows = connection().sql("SELECT a, b FROM semicolons ORDER BY a").to_pylist()
        self.assertEqual(rows, [{"a": 1, "b": "x y"}, {"a": 2, "b": None}])

    def test_two_columns_of_one_name_are_an_error_that_names_it(self):
        result = connection().sql("SELECT * FROM kinds a JOIN kinds b ON a.id = b.id")
        for convert in (result.to_pandas, result.to_polars, result.to_pylist):
            with self.subTest(convert.__name__):
                with self.assertRaisesRegex(buzz.InvalidError, "two columns are called `id`.*AS other_name"):
                    convert()
        self.assertEqual(result.to_arrow().num_columns, 2 * kinds().num_columns)
        repr(result)

    def test_value_that_python_cannot_hold_is_an_error(self):
        result = connection().sql("SELECT CAST('2024-01-01T00:00:00.000000001' AS TIMESTAMP) AS t")
        self.assertEqual(result.to_pylist()[0]["t"].nanosecond, 1)
        beyond = shown(pa.table({"t": pa.array([2**62], pa.timestamp("s"))}))
        with self.assertRaisesRegex(buzz.InvalidError, "cannot be converted to Python.*use to_arrow()"):
            beyond.to_pylist()
        repr(beyond)

    def test_missing_library_is_named_with_the_remedy(self):
        result = connection().sql("SELECT 1 AS a")
        for name in ("pandas", "polars"):
            with mock.patch.dict(sys.modules, {name: None}):
                with self.assertRaisesRegex(buzz.InvalidError, f"pip install {name}"):
                    getattr(result, f"to_{name}")()


class Shown(unittest.TestCase):
    def test_summary_counts_the_work(self):
        result = connection().sql("SELECT SUM(n) AS s FROM numbers")
        self.assertEqual(result.to_pylist(), [{"s": sum(range(MANY))}])
        self.assertEqual((result.summary.rows, result.summary.files_read), (1, 1))
        self.assertGreater(result.summary.bytes_read, 0)
        self.assertGreater(result.summary.seconds, 0)
        self.assertIsNone(result.summary.cost_usd)
        self.assertRegex(str(result.summary), r"^rows: 1, files: 1 of 1, bytes: .*, time: .* s, cost: n/a$")
        self.assertRegex(result.query_id, r"^[0-9a-f-]{36}$")

    def test_table_is_bounded(self):
        wide = shown(pa.table({f"c{number}": ["x" * 1_000_000] * 30 for number in range(30)}))
        for text in (repr(wide), wide._repr_html_()):
            self.assertLess(len(text), 40_000)
            self.assertIn("the first 10 of 30 rows", text)
            self.assertIn("the first 20 of 30 columns", text)
        nested = shown(pa.table({"l": [[list(range(100_000))] * 20], "s": [{"a": list(range(100_000))}]}))
        self.assertLess(len(repr(nested)), 2_000)

    def test_table_has_one_line_per_row(self):
        text = repr(shown(pa.table({"a": ["x\ny\x1b[31m", None], "b": [1, 22]})))
        lines = text.split("\n")
        self.assertEqual(lines[0], "+--------------+----+")
        self.assertEqual(lines[1], "| a            | b  |")
        self.assertEqual(lines[3], "| x\\ny\\x1b[31m | 1  |")
        self.assertEqual(lines[4], "| NULL         | 22 |")
        self.assertTrue(lines[-1].startswith("rows: 2, "))

    def test_html_is_escaped(self):
        text = shown(pa.table({"<script>a": ["<img src=x onerror=alert(1)>&"]}))._repr_html_()
        self.assertNotIn("<script>", text)
        self.assertNotIn("<img", text)
        self.assertIn("&lt;img src=x onerror=alert(1)&gt;&amp;", text)

    def test_values_of_each_type_are_shown(self):
        text = repr(connection().sql("SELECT * FROM kinds ORDER BY id"))
        self.assertIn("-12345678.90", text)
        self.assertEqual(len({len(line) for line in re.findall(r"^[+|].*$", text, re.M)}), 1, text)

    def test_result_without_columns_is_shown(self):
        self.assertTrue(repr(shown(pa.table({}))).startswith("rows: 0"))


class Warned(unittest.TestCase):
    def test_warning_of_a_query_is_a_warning_at_the_caller(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = connection().sql("SELECT 1 AS a", x=1)
        self.assertEqual([warning.category for warning in caught], [buzz.BuzzWarning])
        self.assertIn("parameter `$x` is not used", str(caught[0].message))
        self.assertEqual(caught[0].filename, __file__)
        self.assertEqual(result.warnings, [str(caught[0].message)])

    def test_table_that_cannot_be_opened_is_a_warning_and_the_others_work(self):
        fixture = Fixture.shared()
        tables = {"broken": fixture.folder / "broken.parquet", "kinds": fixture.tables["kinds"]}
        with self.assertWarnsRegex(buzz.BuzzWarning, "broken"):
            own = buzz.connect(tables)
        with own:
            self.assertEqual(own.sql("SELECT COUNT(*) AS n FROM kinds").to_pylist(), [{"n": 3}])
            with self.assertRaises(buzz.DataError):
                own.sql("SELECT * FROM broken")
