"""Values of parameters."""

import datetime
import decimal
import math
import random
import unittest
import uuid

import numpy
import pandas

import buzz
from buzz._parameters import parameters, placeholders
from support import connection

ATTACKS = ["'; DROP TABLE kinds; --", "' OR '1'='1", "$x", "\\", "a\x01b", "☃", "", "null", "1", "%s {0}", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")]


class Bound(unittest.TestCase):
    def value(self, sql, **params):
        [row] = connection().sql(f"SELECT {sql} AS v", **params).to_pylist()
        return row["v"]

    def test_values_keep_their_types(self):
        for value in (True, False, 0, -(2**63), 2**63 - 1, 0.1, -1.5, "text", None):
            with self.subTest(value):
                got = self.value("$x", x=value)
                self.assertEqual((got, type(got)), (value, type(value)))

    def test_floats_of_17_digits_arrive_exactly(self):
        draw = random.Random(1)
        values = [draw.uniform(-1, 1) * 10.0 ** draw.randrange(-300, 300) for _ in range(300)]
        columns = ", ".join(f"${number} AS c{number}" for number in range(1, len(values) + 1))
        [row] = connection().sql(f"SELECT {columns}", values).to_pylist()
        self.assertEqual(list(row.values()), values)

    def test_text_of_a_parameter_is_never_sql(self):
        for text in ATTACKS:
            with self.subTest(text):
                self.assertEqual(self.value("$x", x=text), text)
                found = connection().sql("SELECT id FROM kinds WHERE name = $x", x=text).to_pylist()
                self.assertEqual(found, [{"id": 2}] if text == "" else [])

    def test_dates_and_times_are_compared_as_such(self):
        day = datetime.date(9999, 12, 31)
        at = datetime.datetime(1, 1, 1, 0, 0, 0, 1)
        utc = datetime.datetime(2023, 11, 14, 22, 13, 20, 123456, datetime.timezone.utc)
        elsewhere = utc.astimezone(datetime.timezone(datetime.timedelta(hours=5, minutes=30)))
        cases = [
            ("day", day), ("at", at), ("at_utc", utc), ("at_utc", elsewhere), ("at_utc", pandas.Timestamp(utc)),
            ("clock", datetime.time(23, 59, 59, 999999)), ("at_ns", datetime.datetime(2023, 11, 14, 22, 13, 20, 123456)),
        ]  # fmt: skip
        for column, value in cases:
            with self.subTest(column, value=value):
                rows = connection().sql(f"SELECT id FROM kinds WHERE {column} = $x", x=value).to_pylist()
                self.assertEqual(rows, [{"id": 1}])

    def test_lists_number_their_values(self):
        self.assertEqual(connection().sql("SELECT $1 - $2 AS v", [5, 3]).to_pylist(), [{"v": 2}])
        self.assertEqual(connection().sql("SELECT $1 - $b AS v", {1: 5, "$b": 3}).to_pylist(), [{"v": 2}])
        self.assertEqual(connection().sql("SELECT $sql AS v", {"sql": 5}).to_pylist(), [{"v": 5}])

    def test_values_of_numpy_are_taken(self):
        self.assertIs(self.value("$x", x=numpy.bool_(True)), True)
        self.assertEqual(self.value("$x", x=numpy.int32(-7)), -7)
        self.assertEqual(self.value("$x", x=numpy.float64(0.1)), 0.1)

    def test_values_of_types_that_json_lacks_are_exact(self):
        for value in (
            decimal.Decimal("-12345678.90"), decimal.Decimal("0.00"), decimal.Decimal("1E+3"), decimal.Decimal("-0.001"),
            decimal.Decimal("12345678901234567890123456789.123456789"), decimal.Decimal(10**75 + 1),
        ):  # fmt: skip
            with self.subTest(value):
                self.assertEqual(self.value("$x", x=value), value)
        for value in (2**63, -(2**63) - 1, 2**200 + 1):
            self.assertEqual(self.value("$x", x=value), value)
        self.assertTrue(math.isnan(self.value("$x", x=math.nan)))
        self.assertEqual(self.value("$x", x=-math.inf), -math.inf)
        for column, value in (("price", decimal.Decimal("-12345678.90")), ("u64", 2**64 - 1)):
            found = connection().sql(f"SELECT id FROM kinds WHERE {column} = $x", x=value).to_pylist()
            self.assertEqual(found, [{"id": 1}])

    def test_datetime_beside_a_date_keeps_its_time_of_day(self):
        day = "CAST('2009-01-05' AS DATE)"
        at = datetime.datetime(2009, 1, 5, 10)
        self.assertEqual(self.value(f"[{day} = $x, {day} < $x, {day} = $y]", x=at, y=at.date()), [False, True, True])
        nanosecond = "CAST('2009-01-05 10:00:00.000000001' AS TIMESTAMP)"
        exact = pandas.Timestamp("2009-01-05 10:00:00.000000001")
        self.assertEqual(self.value(f"[{nanosecond} = $x, {nanosecond} > $x, {nanosecond} = $y]", x=at, y=exact), [False, True, True])

    def test_missing_value_is_an_error_that_names_it(self):
        with self.assertRaisesRegex(buzz.InvalidError, r"parameter `\$y` has no value"):
            connection().sql("SELECT $y", x=1)


class Refused(unittest.TestCase):
    def test_values_without_an_exact_form_are_errors_that_name_the_parameter(self):
        cases = [
            (10**76, "77 digits"), (decimal.Decimal("1e-77"), "77 digits"), (decimal.Decimal("NaN"), "DECIMAL"), (b"x", "bytes"), ([1], "list"), ({"a": 1}, "dict"), (1j, "complex"),
            (object(), "object"), (pandas.NaT, "None for null"), (numpy.datetime64(1, "ns"), "datetime64"),
            (numpy.timedelta64(1, "ns"), "timedelta64"), (datetime.timedelta(1), "timedelta"),
            (datetime.time(1, tzinfo=datetime.timezone.utc), "zone"), (pandas.NA, "NA"),
        ]  # fmt: skip
        for value, message in cases:
            with self.subTest(repr(value)):
                with self.assertRaisesRegex(buzz.InvalidError, rf"parameter `\$x`.*{message}"):
                    parameters(None, {"x": value})

    def test_wrong_containers_are_errors(self):
        for params, named, message in (
            ("text", {}, "`params`"), (5, {}, "`params`"), ({None: 1}, {}, "name of a parameter"), ({"": 1}, {}, "name of"),
            ({True: 1}, {}, "name of"), ({"x": 1}, {"x": 2}, "two values"),
        ):  # fmt: skip
            with self.subTest(repr(params)):
                with self.assertRaisesRegex(buzz.InvalidError, message):
                    parameters(params, named)

    def test_uuid_is_a_text(self):
        value = uuid.UUID(int=5)
        self.assertEqual(parameters(None, {"x": value}), {"x": str(value)})


class Placeholders(unittest.TestCase):
    def test_names_in_texts_and_comments_are_none(self):
        sql = "SELECT '$a''$b', \"$c\", $d, $e_1 -- $f\n, /* $g\n */ $d, $1"
        self.assertEqual(placeholders(sql), ["d", "e_1", "1"])
