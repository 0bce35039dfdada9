"""The magics of a notebook."""

import contextlib
import io
import tempfile
import unittest
import unittest.mock

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import buzz
from support import Fixture, connection, key_of


class Notebook(unittest.TestCase):
    def setUp(self):
        # Nothing of the user's own notebooks is read or written.
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        config = Config()
        config.HistoryManager.enabled = False
        with unittest.mock.patch.dict("os.environ", {"IPYTHONDIR": folder.name}):
            InteractiveShell.clear_instance()
            self.shell = InteractiveShell.instance(config=config)
        self.addCleanup(InteractiveShell.clear_instance)
        self.shell.user_ns["connection"] = connection()
        self.run_cell("%load_ext buzz")

    def run_cell(self, cell):
        """Runs a cell and returns its value."""
        with contextlib.redirect_stdout(io.StringIO()):
            outcome = self.shell.run_cell(cell)
        outcome.raise_error()
        return outcome.result

    def refused(self, cell, message):
        with self.assertRaisesRegex(buzz.InvalidError, message):
            self.run_cell(cell)

    def test_line_returns_a_result(self):
        self.run_cell("%buzz_connect connection")
        self.run_cell("least = 2\nrows = %sql SELECT id FROM kinds WHERE id >= $least ORDER BY id")
        self.assertEqual(self.shell.user_ns["rows"].to_pylist(), [{"id": 2}, {"id": 3}])

    def test_cell_is_shown_or_stored(self):
        self.run_cell("%buzz_connect connection")
        self.assertEqual(self.run_cell("%%sql\nSELECT 1 AS a\n").to_pylist(), [{"a": 1}])
        self.assertIsNone(self.run_cell("%%sql stored\nSELECT 2 AS a\n"))
        self.assertEqual(self.shell.user_ns["stored"].to_pylist(), [{"a": 2}])
        self.refused("%%sql SELECT 1\nSELECT 2", "is not the name of a variable")

    def test_variables_are_bound_and_not_inserted(self):
        self.run_cell("%buzz_connect connection")
        self.shell.user_ns["attack"] = "1 UNION SELECT 2"
        for cell in ("value = %sql SELECT $attack AS a", "%%sql value\nSELECT $attack AS a"):
            self.run_cell(cell)
            self.assertEqual(self.shell.user_ns["value"].to_pylist(), [{"a": "1 UNION SELECT 2"}])
        self.run_cell("value = %sql SELECT '$attack {attack}' AS a")
        self.assertEqual(self.shell.user_ns["value"].to_pylist(), [{"a": "$attack {attack}"}])
        self.refused("%sql SELECT $unknown", "parameter `.unknown` has no value")

    def test_own_server_is_closed_with_the_extension(self):
        place = Fixture.shared().tables["kinds"]
        own = self.run_cell(f"%buzz_connect --table 'k={place}' --set tasks=2")
        self.assertEqual(self.run_cell("%sql SELECT COUNT(*) AS n FROM k").to_pylist(), [{"n": 3}])
        self.run_cell("%unload_ext buzz")
        self.assertTrue(own.closed)
        self.run_cell("%load_ext buzz")
        self.run_cell("%buzz_connect connection")
        self.run_cell("%unload_ext buzz")
        self.assertFalse(connection().closed)

    def test_running_server_is_reached_with_the_key_of_the_environment(self):
        with unittest.mock.patch.dict("os.environ", {"BUZZ_KEY": key_of(connection())}):
            self.run_cell(f"%buzz_connect --url {connection().url}")
        self.assertEqual(self.run_cell("%sql SELECT COUNT(*) AS n FROM kinds").to_pylist(), [{"n": 3}])

    def test_wrong_arguments_are_errors_with_the_remedy(self):
        self.refused("%sql SELECT 1", "run %buzz_connect first")
        self.refused("%buzz_connect nothing", "`nothing` is not a buzz.Connection")
        self.refused("%buzz_connect --tabel x", "--help lists the arguments")
        self.refused("%buzz_connect --table x", "write --table NAME=VALUE")
        self.refused("%buzz_connect --table a=b --tables c", "cannot be combined")
        self.refused("%buzz_connect 'x", "No closing quotation")
        self.refused("%buzz_connect --help", "nothing was connected")
