#!/usr/bin/env python3
"""A Lambda bootstrap that is controlled by its event, to test the limits of the emulator."""
import json
import os
import sys
import time
import urllib.error
import urllib.request

API = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime"


def post(path, value, headers=None):
    request = urllib.request.Request(API + path, json.dumps(value).encode(), headers or {}, method="POST")
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


if "INIT_FAILS" in os.environ:
    post("/init/error", {"errorType": "Settings", "errorMessage": "BUZZ_X is missing"})
    sys.exit(1)
if "INIT_EXITS" in os.environ:
    sys.exit(3)

count = 0
last_status = None
held = []
while True:
    with urllib.request.urlopen(f"{API}/invocation/next") as answer:
        event = json.load(answer)
        headers = answer.headers
    request_id = headers["Lambda-Runtime-Aws-Request-Id"]
    count += 1
    print(event.get("print", ""), flush=True)
    time.sleep(event.get("sleep", 0))
    if "exit" in event:
        sys.exit(event["exit"])
    if "allocate_mb" in event:
        held.append(bytearray(os.urandom(1 << 20) * event["allocate_mb"]))
        time.sleep(30)
    if "fail" in event:
        post(f"/invocation/{request_id}/error", {"errorType": "Data", "errorMessage": event["fail"]})
        continue
    opened = []
    try:
        for _ in range(event.get("descriptors", 0)):
            opened.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    result = {
        "event": event,
        "pid": os.getpid(),
        "count": count,
        "remaining_ms": int(headers["Lambda-Runtime-Deadline-Ms"]) - time.time() * 1000,
        "arn": headers["Lambda-Runtime-Invoked-Function-Arn"],
        "environment": dict(os.environ),
        "opened": len(opened),
        "last_status": last_status,
        "padding": "x" * event.get("bytes", 0),
    }
    for descriptor in opened:
        os.close(descriptor)
    last_status = post(f"/invocation/{request_id}/response", result)
    if "background" in event:
        # Output after the response shows how long the process continued to run.
        urllib.request.urlopen(f"{API}/invocation/next", timeout=event["background"])
