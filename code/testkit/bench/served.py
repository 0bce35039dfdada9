"""A server of Buzz that benchmarks of its doors ask."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path


class Server:
    """A process `buzz serve` with `options`, which run in `folder`. It keeps no history."""

    def __init__(self, buzz, folder, options, key=None):
        command = [buzz, "serve", "--listen", "127.0.0.1:0", "--postgres", "127.0.0.1:0", *options]
        environment = {name: value for name, value in os.environ.items() if name != "BUZZ_KEY"}
        environment |= {"BUZZ_HISTORY": ""} | ({"BUZZ_KEY": key} if key else {})
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
        greeting = ""
        while "PostgreSQL:" not in greeting:
            line = self.process.stderr.readline()
            if not line:
                sys.exit(f"error: the server ended: {greeting}")
            greeting += line
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self.http = re.search(r"HTTP: +http://(\S+)", greeting)[1]
        self.postgres = re.search(r"PostgreSQL: +(\S+)", greeting)[1]

    def memory(self):
        """Returns the resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def stop(self):
        """Ends the process, and returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)
