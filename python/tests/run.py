#!/usr/bin/env python3
"""Runs the tests of the package.

    python python/tests/run.py [NAME …]

Needs the command `buzz` in $BUZZ, and the package with pandas, polars and ipython. Prints the number of tests in the form of
cargo's tests last, and exits with 1 if one fails.
"""

import os
import signal
import sys
import time
import unittest
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def main():
    """Returns the exit code."""
    if not os.environ.get("BUZZ"):
        print("error: BUZZ is not set; name the command `buzz`, or run `make test-python`", file=sys.stderr)
        return 2
    # A script that starts this in the background lets it, and the programs that it starts, ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path.insert(0, str(FOLDER))
    from support import Fixture

    loader = unittest.TestLoader()
    names = sys.argv[1:]
    suite = loader.loadTestsFromNames(names) if names else loader.discover(str(FOLDER))
    started = time.monotonic()
    try:
        outcome = unittest.TextTestRunner(verbosity=2).run(suite)
    finally:
        if Fixture._shared is not None:
            Fixture._shared.close()
    failed = len(outcome.failures) + len(outcome.errors) + len(outcome.unexpectedSuccesses)
    ignored = len(outcome.skipped) + len(outcome.expectedFailures)
    # A module that cannot be imported is an error that is not a test.
    passed = max(outcome.testsRun - failed - ignored, 0)
    is_good = outcome.wasSuccessful() and passed > 0
    print(
        f"test result: {'ok' if is_good else 'FAILED'}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; "
        f"0 filtered out; finished in {time.monotonic() - started:.2f}s"
    )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
