"""Runs a program on a pseudo-terminal: waits for each expected text, then sends keys.

Reads {"program": [...], "size": [rows, columns], "environment": {...}, "steps": [[expected, keys], ...]} from standard input
and prints {"output": text, "code": exit code}.
"""

import fcntl
import json
import os
import pty
import select
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
    """Adds what the program writes to the output. Returns False at its end, or if it writes nothing for 60 seconds."""
    global output
    if not select.select([terminal], [], [], 60)[0]:
        return False
    try:
        data = os.read(terminal, 65536)
    except OSError:
        return False
    output += data
    return bool(data)


missing = None
for expected, keys in order["steps"]:
    wanted = expected.encode()
    while (found := output.find(wanted, seen)) < 0 and read():
        pass
    if found < 0:
        missing = expected
        os.kill(child, 9)
        break
    seen = found + len(wanted)
    os.write(terminal, keys.encode())
while read():
    pass
status = os.waitpid(child, 0)[1]
print(json.dumps({"output": output.decode(errors="replace"), "code": os.waitstatus_to_exitcode(status), "missing": missing}))
