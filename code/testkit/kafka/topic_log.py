"""Reads the log of a partition as a broker keeps it, with its control records, over Kafka's own protocol.

Clients hide control records, and the broker of the test also returns records of aborted transactions to clients that ask
for committed ones. The log says which transactions were committed.
"""

import socket
import struct

FETCH, VERSION = 1, 4
TRANSACTIONAL, CONTROL, COMMIT = 0x10, 0x20, 1


def text(value):
    return struct.pack(">h", len(value)) + value.encode()


def fetch(port, topic, partition, offset):
    """Returns the bytes of the batches from `offset` on."""
    body = struct.pack(">iiiib", -1, 1000, 1, 64 << 20, 0) + struct.pack(">i", 1) + text(topic)
    body += struct.pack(">iiqi", 1, partition, offset, 32 << 20)
    request = struct.pack(">hhi", FETCH, VERSION, 1) + text("log") + body
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        stream = connection.makefile("rb")
        (length,) = struct.unpack(">i", stream.read(4))
        answer = stream.read(length)
    at = 4 + 4 + 4 + 2 + len(topic) + 4
    _, error, _, _, aborted = struct.unpack_from(">ihqqi", answer, at)
    if error:
        raise RuntimeError(f"the broker answers error {error}")
    at += struct.calcsize(">ihqqi") + 16 * max(aborted, 0)
    (size,) = struct.unpack_from(">i", answer, at)
    return answer[at + 4 : at + 4 + max(size, 0)]


def varint(data, at):
    value, shift = 0, 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7


def records(data, at, count):
    """Yields key and value of each of `count` records."""
    for _ in range(count):
        length, at = varint(data, at)
        end = at + length
        at += 1
        _, at = varint(data, at)
        _, at = varint(data, at)
        pair = []
        for _ in range(2):
            size, at = varint(data, at)
            pair.append(data[at : at + size] if size >= 0 else None)
            at += max(size, 0)
        yield tuple(pair)
        at = end


def batches(port, topic, partition):
    """Yields `(attributes, producer, records)` of each batch of the partition."""
    offset = 0
    while True:
        data = fetch(port, topic, partition, offset)
        at, start = 0, offset
        while at + 61 <= len(data):
            base, length = struct.unpack_from(">qi", data, at)
            if at + 12 + length > len(data):
                break
            attributes, last = struct.unpack_from(">hi", data, at + 21)
            producer, _, _, count = struct.unpack_from(">qhii", data, at + 43)
            if attributes & 7:
                raise RuntimeError("a batch is compressed")
            if base >= start:
                yield attributes, producer, list(records(data, at + 61, count))
            offset = max(offset, base + last + 1)
            at += 12 + length
        if offset == start:
            return


def committed(port, topic, partition=0):
    """Returns the values of committed transactions, the number of values of aborted ones, and that of open ones."""
    kept, pending, aborted = [], {}, 0
    for attributes, producer, found in batches(port, topic, partition):
        if attributes & CONTROL:
            for key, _ in found:
                (_, kind) = struct.unpack(">hh", key[:4])
                values = pending.pop(producer, [])
                if kind == COMMIT:
                    kept += values
                else:
                    aborted += len(values)
        elif attributes & TRANSACTIONAL:
            pending.setdefault(producer, []).extend(value for _, value in found)
        else:
            kept += [value for _, value in found]
    return kept, aborted, sum(map(len, pending.values()))
