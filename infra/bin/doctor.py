#!/usr/bin/env python3
"""Checks what a stack needs before it is deployed, and what it does afterwards. Prints one line per check, with what to do if it
fails; exits with 1 if one failed. WHEN=before or WHEN=after runs one part only; by default the second follows if the stack exists.

The checks before change nothing. Those after run some small queries on the stack, for less than a cent, or about two cents if
combs are started."""

import os
import sys

import doctor_after
import doctor_before
from stack_aws import fail, stage_and_region


class Report:
    """Prints the outcome of each check."""

    def __init__(self):
        self.failed = 0

    def line(self, mark, what, said, to_do=""):
        """Prints one line."""
        said = " ".join(str(said).split())
        print(f"{mark:5} {what}: {said}" + (f"; {to_do}" if to_do else ""), flush=True)

    def ok(self, what, said):
        """Reports a check that passed."""
        self.line("ok", what, said)

    def warn(self, what, said, to_do):
        """Reports what does not stop a stack, but will disappoint."""
        self.line("warn", what, said, to_do)

    def bad(self, what, said, to_do):
        """Reports what stops a stack."""
        self.failed += 1
        self.line("FAIL", what, said, to_do)

    def skip(self, what, why):
        """Reports a check that cannot be made."""
        self.line("skip", what, why)


def main():
    stage, region = stage_and_region()
    os.environ["AWS_REGION"] = os.environ["AWS_DEFAULT_REGION"] = region
    when = os.environ.get("WHEN", "")
    if when not in ("", "before", "after"):
        fail(f"WHEN is `{when}`; it can be before or after")
    report = Report()
    deployed = True
    if when != "after":
        deployed = doctor_before.run(report, stage, region)
    if when == "after" or (when == "" and deployed):
        doctor_after.run(report, stage, region)
    elif when == "":
        report.skip("stack", f"stage {stage} is not deployed in {region}; after `make deploy`, run `make doctor` again")
    if report.failed:
        print(f"{report.failed} check{'s' if report.failed > 1 else ''} failed", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
