#!/usr/bin/env python3
"""Sends requests that schemathesis makes from the OpenAPI of `buzz serve`, to a server on an empty folder.

It looks for answers that the description does not have, for failures of the server, and for requests that fit the description and
are refused, or the other way round. A text that fits the description need not be SQL, so of the routes that take a script,
refused requests are not a fault. The stream of rows, which has no end, is left out.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

from pushed import Server

SCRIPTS = ["/api/v1/pipelines", "/api/v1/pipelines/{id}", "/api/v1/pipelines/preview", "/api/v1/pipelines/validate_query",
           "/api/v1/connection_tables", "/api/v1/connection_tables/test"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the programs")
    parser.add_argument("--tool", required=True, type=pathlib.Path, help="the program schemathesis")
    parser.add_argument("--examples", type=int, default=50, help="requests per route and phase")
    parser.add_argument("--seconds", type=int, default=600, help="time after which no further requests are made")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server((arguments.bin / "buzz").resolve(), folder, state=True)
        try:
            host, port = server.address
            scripts = [option for path in SCRIPTS for option in ("--exclude-path", path)]
            only = [option for path in SCRIPTS for option in ("--include-path", path)]
            common = [arguments.tool, "run", f"http://{host}:{port}/api/v1/openapi.json", "--header", f"Authorization: Bearer {server.key}",
                      "--max-examples", str(arguments.examples), "--max-time", str(arguments.seconds), "--request-timeout", "60", "--no-color"]
            failed = [subprocess.run([*common, *scripts, "--exclude-path-regex", "/output$"], cwd=folder).returncode,
                      subprocess.run([*common, *only, "--exclude-checks", "positive_data_acceptance"], cwd=folder).returncode]
            if server.process.poll() is not None:
                sys.exit("the server has ended:\n" + (pathlib.Path(folder) / "server.log").read_text())
        finally:
            server.kill()
    sys.exit(1 if any(failed) else 0)


if __name__ == "__main__":
    main()
