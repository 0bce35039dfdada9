#!/usr/bin/env python3
"""Runs the bootstraps under AWS's own Runtime Interface Emulator: the example query, and a query that fails.

Needs the variables that `localcloud run` sets: tables and results are in the local cloud's S3. The emulator accepts one
invocation at a time and only the function name `function`. Therefore each bootstrap has its own emulator, and Fuse
invokes one task at a time. The emulator is part of the aws-sam-cli wheel.
"""
import argparse
import glob
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile

INSIDE = "samcli/local/rapid/aws-lambda-rie-x86_64"


def emulator(folder):
    path = os.path.join(folder, "aws-lambda-rie")
    if not os.path.exists(path):
        os.makedirs(folder, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--dest", folder, "aws-sam-cli"], check=True, stdout=sys.stderr)
        wheel = glob.glob(os.path.join(folder, "aws_sam_cli-*.whl"))[0]
        with zipfile.ZipFile(wheel) as archive, open(path, "wb") as out:
            out.write(archive.read(INSIDE))
        os.chmod(path, 0o755)
    return path


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def serve(rie, bootstrap, variables):
    port, runtime = free_port(), free_port()
    environment = {**os.environ, "AWS_LAMBDA_FUNCTION_NAME": "function", "AWS_LAMBDA_FUNCTION_TIMEOUT": "120"}
    environment |= {"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "2048", "BUZZ_STAGE": "rie", "BUZZ_LOG": "warn"} | variables
    addresses = ["--runtime-interface-emulator-address", f"127.0.0.1:{port}"]
    addresses += ["--runtime-api-address", f"127.0.0.1:{runtime}"]
    command = [rie, "--log-level", "error", *addresses, os.path.abspath(bootstrap)]
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr, start_new_session=True)
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    return process, f"http://127.0.0.1:{port}"


def invoke(endpoint, event):
    url = f"{endpoint}/2015-03-31/functions/function/invocations"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(event).encode()), timeout=120) as answer:
        return json.load(answer)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, help="folder of fuse_lambda and hbee_lambda")
    parser.add_argument("--tools", required=True, help="folder where the emulator is installed")
    parser.add_argument("--query", required=True, help="the query's JSON")
    arguments = parser.parse_args()
    rie = emulator(arguments.tools)
    with open(arguments.query, encoding="utf-8") as file:
        query = json.load(file)

    processes = []
    try:
        hbee, hbee_url = serve(rie, os.path.join(arguments.bin, "hbee_lambda"), {})
        processes.append(hbee)
        variables = {"BUZZ_RESULTS": "s3://buzz-local/rie/", "BUZZ_HBEE_FUNCTION": "function"}
        variables |= {"BUZZ_HBEE_CONCURRENCY": "1", "AWS_ENDPOINT_URL_LAMBDA": hbee_url}
        fuse, fuse_url = serve(rie, os.path.join(arguments.bin, "fuse_lambda"), variables)
        processes.append(fuse)
        answer = invoke(fuse_url, {"query": query, "options": {"reducer": "inline", "tasks": 3}})
        assert answer.get("status") == "answered" and answer["row_count"] > 0, answer
        print(json.dumps(answer["rows"], indent=2))
        wrong = invoke(fuse_url, {"sql": "SELECT x FROM nowhere", "catalogs": []})
        assert wrong.get("errorType") == "Invalid", wrong
        broken = invoke(hbee_url, {"task": {}})
        assert "errorType" in broken, broken
        print(f"RIE: answered with {answer['summary']['tasks']} tasks; an invalid query fails: {wrong['errorMessage']}")
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
