"""The package itself: its examples, its version, the versions of Python that can read it."""

import ast
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import buzz

PYTHON = Path(__file__).resolve().parents[1]


class Readme(unittest.TestCase):
    def test_examples_run(self):
        examples = re.findall(r"^```python\n(.*?)^```$", (PYTHON / "README.md").read_text(), re.M | re.S)
        self.assertGreaterEqual(len(examples), 3)
        with tempfile.TemporaryDirectory() as folder:
            sample = [os.environ["BUZZ"], "sample", "data/nyc-taxi-daily", "--rows", "20000"]
            subprocess.run(sample, cwd=folder, check=True, capture_output=True, timeout=300)
            done = subprocess.run(
                [sys.executable, "-W", "error", "-c", "\n".join(examples)], cwd=folder, capture_output=True, text=True, timeout=300
            )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("| payment_type | rides |", done.stdout)
        self.assertIn("column `fare` does not exist", done.stdout)


class Package(unittest.TestCase):
    def test_version_is_that_of_buzz(self):
        own = re.search(r'^version = "(.+)"$', (PYTHON / "pyproject.toml").read_text(), re.M)[1]
        of_buzz = re.search(r'^version = "(.+)"$', (PYTHON.parent / "Cargo.toml").read_text(), re.M)[1]
        self.assertEqual(own, of_buzz)

    def test_oldest_python_can_parse_the_sources(self):
        for path in sorted((PYTHON / "src").rglob("*.py")):
            with self.subTest(path.name):
                ast.parse(path.read_text(), feature_version=(3, 9))
                if not path.name.startswith("_watch"):
                    self.assertIn("from __future__ import annotations", path.read_text())

    def test_package_is_typed_and_imports_nothing_that_is_optional(self):
        self.assertTrue(Path(buzz.__file__).with_name("py.typed").exists())
        code = "import sys, buzz; print([name for name in ('pandas', 'polars', 'IPython') if name in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout, "[]\n")

    def test_each_public_thing_has_documentation(self):
        for name in buzz.__all__:
            thing = getattr(buzz, name)
            members = [member for key, member in vars(thing).items() if isinstance(thing, type) and not key.startswith("_")]
            for one in [thing, *members]:
                if callable(one) or isinstance(one, property):
                    self.assertTrue(one.__doc__, f"{name}: {one}")
