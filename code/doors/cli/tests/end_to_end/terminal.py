"""Runs a program on a pseudo-terminal: waits for each expected text, then sends keys.

Reads {"program": [...], "size": [rows, columns], "environment": {...}, "steps": [[expected, keys], ...]} from standard input
and prints {"output": text, "code": exit code, "missing": text or null}. A program that does not end after the last step is
killed; then "missing" is its end.
"""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios

order = json.load(sys.stdin)
child, terminal = pty.fork()
if child == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", *order["size"], 0, 0))
    os.environ.update(order["environment"])
    os.execv(order["program"][0], order["program"])

output, seen = b"", 0


def read():
    """Adds what the program writes to the output. Returns False at its end. Fails if it writes nothing for 60 seconds."""
    global output
    if not select.select([terminal], [], [], 60)[0]:
        raise TimeoutError
    try:
        data = os.read(terminal, 65536)
    except OSError:
        return False
    output += data
    return bool(data)


missing = None
try:
    for expected, keys in order["steps"]:
        missing = expected
        while (found := output.find(expected.encode(), seen)) < 0:
            if not read():
                raise EOFError
        seen = found + len(expected.encode())
        os.write(terminal, keys.encode())
    missing = "the end of the program"
    while read():
        pass
    missing = None
except (EOFError, TimeoutError):
    os.kill(child, signal.SIGKILL)
status = os.waitpid(child, 0)[1]
print(json.dumps({"output": output.decode(errors="replace"), "code": os.waitstatus_to_exitcode(status), "missing": missing}))
