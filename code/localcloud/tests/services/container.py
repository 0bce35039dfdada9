#!/usr/bin/env python3
"""The program of a container: sends its process id to every client, until it receives SIGTERM."""
import os
import signal
import socket
import sys

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
server = socket.create_server((os.environ["LISTEN"], int(os.environ["PORT"])))
while True:
    connection, _ = server.accept()
    connection.sendall(str(os.getpid()).encode())
    connection.close()
