"""Runs a command until its own standard input ends, then stops it.

Started as `python _watch.py FILE COMMAND …`, with a pipe as standard input. Removes FILE at the end, unless it is empty. The pipe ends when the process that holds its other end
closes it or ends, also by `kill -9`. So a server does not outlive the process that started it. SIGTERM does the same. This file
imports nothing of the package: it must start fast.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading

# `buzz serve` ends within 10 seconds of SIGTERM.
STOP_SECONDS = 12


class Watched:
    """The command, which may be stopped before it has started."""

    def __init__(self):
        self.command = None
        self.is_stopping = False

    def start(self, arguments):
        """Starts the command and returns its exit code."""
        self.command = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
        if self.is_stopping:
            self.command.terminate()
        # Only the command writes messages from now on, so that their end is its end.
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        threading.Thread(target=self.stop_at_end, daemon=True).start()
        return self.command.wait()

    def stop(self, *_):
        """Requests the end of the command."""
        self.is_stopping = True
        if self.command is not None:
            self.command.terminate()

    def stop_at_end(self):
        """Waits for the end of standard input, then stops the command."""
        while os.read(0, 4096):
            pass
        self.stop()
        try:
            self.command.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.command.kill()


def main():
    """Returns the exit code of the command; 127 if it cannot be started."""
    watched = Watched()
    signal.signal(signal.SIGTERM, watched.stop)
    file, *command = sys.argv[1:]
    try:
        code = watched.start(command)
    except OSError as error:
        print(f"error: `{command[0]}` cannot be started: {error.strerror}", file=sys.stderr)
        return 127
    finally:
        if file:
            with contextlib.suppress(OSError):
                os.remove(file)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
