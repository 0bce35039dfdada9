#!/usr/bin/env python3
"""Sends Fuse's ECS and S3 requests to moto, which validates them against botocore's models.

Needs the variables that `localcloud run` sets, for Lambda. moto runs no containers, so no comb responds and the query
fails when the start timeout of its combs has passed. The check passes if moto accepts every request: the tasks with
their tokens, and the objects of the query, of which `started` is a conditional write.
"""
import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
import venv

FAMILY, CLUSTER, BUCKET = "buzz-rust-hcomb-local", "buzz-rust-cluster-local", "buzz-moto"


def moto_server(folder):
    path = os.path.join(folder, "moto", "bin", "moto_server")
    if not os.path.exists(path):
        print(f"installing moto in {folder} …", file=sys.stderr)
        venv.create(os.path.join(folder, "moto"), with_pip=True)
        pip = os.path.join(folder, "moto", "bin", "pip")
        subprocess.run([pip, "install", "--quiet", "--disable-pip-version-check", "moto[server]>=5.2,<6"], check=True)
    return path


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--localcloud", required=True, help="the command")
    parser.add_argument("--buzz", required=True, help="the command")
    parser.add_argument("--aws", default="aws", help="the command")
    parser.add_argument("--tools", required=True, help="folder where moto is installed")
    parser.add_argument("--folder", required=True, help="folder of a separate local cloud")
    arguments = parser.parse_args()

    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [moto_server(arguments.tools), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "AKIALOCAL", "AWS_SECRET_ACCESS_KEY": "local-secret"}
    environment |= {"AWS_DEFAULT_REGION": "us-east-2"}

    def aws(*words):
        command = [arguments.aws, "--endpoint-url", endpoint, *words]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        return json.loads(done.stdout) if done.stdout.strip().startswith("{") else done.stdout

    def post(path, value):
        headers = {"content-type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(endpoint + path, json.dumps(value).encode(), headers)).read()

    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        # Otherwise every DescribeTasks call advances the state of a task towards STOPPED.
        post(
            "/moto-api/state-manager/set-transition",
            {"model_name": "ecs::task", "transition": {"progression": "manual", "times": 1000}},
        )
        aws("s3", "mb", f"s3://{BUCKET}")
        aws("ecs", "create-cluster", "--cluster-name", CLUSTER)
        container = [{"name": "hcomb", "image": "hcomb", "memory": 4096}]
        aws(
            "ecs", "register-task-definition", "--family", FAMILY, "--network-mode", "awsvpc",
            "--requires-compatibilities", "FARGATE", "--cpu", "2048", "--memory", "4096",
            "--container-definitions", json.dumps(container),
        )  # fmt: skip
        subnet = aws("ec2", "describe-subnets")["Subnets"][0]["SubnetId"]
        group = aws("ec2", "describe-security-groups")["SecurityGroups"][0]["GroupId"]

        os.makedirs(arguments.folder, exist_ok=True)
        query = {
            "sql": "SELECT payment_type, COUNT(*) FROM nyc_taxi GROUP BY payment_type",
            "capacity": {"zones": 2},
            "catalogs": [{"name": "nyc_taxi", "type": "DeltaLake", "uri": f"s3://{BUCKET}/sample"}],
        }
        sample = os.path.join(arguments.folder, "sample")
        subprocess.run([arguments.buzz, "sample", sample, "--rows", "1000"], check=True)
        aws("s3", "cp", "--quiet", "--recursive", sample, f"s3://{BUCKET}/sample")
        variables = {
            "AWS_ENDPOINT_URL_ECS": endpoint,
            "AWS_ENDPOINT_URL_S3": endpoint,
            "BUZZ_RESULTS": f"s3://{BUCKET}/results/",
            "BUZZ_COMB_SUBNETS": subnet,
            "BUZZ_COMB_SECURITY_GROUPS": group,
            "BUZZ_COMB_START_SECONDS": "5",
        }
        file = os.path.join(arguments.folder, "query.json")
        with open(file, "w", encoding="utf-8") as out:
            json.dump(query, out)
        run = [arguments.localcloud, "run", "--folder", os.path.join(arguments.folder, "cloud")]
        run += [word for name, value in variables.items() for word in ("--fuse-env", f"{name}={value}")]
        ask = [arguments.buzz, "query", file, "--stack", "local", "--set", "reducer=comb"]
        asked = subprocess.run([*run, "--", *ask], capture_output=True, text=True)
        assert asked.returncode == 1 and "comb" in asked.stderr, asked

        tasks = aws("ecs", "list-tasks", "--cluster", CLUSTER, "--family", FAMILY)["taskArns"]
        found = aws("s3api", "list-objects-v2", "--bucket", BUCKET, "--prefix", "results/")["Contents"]
        objects = {item["Key"].rsplit("/", 1)[-1] for item in found}
        assert len(tasks) == 2, tasks
        assert {"request.json", "progress.json", "started", "answer.json"} <= objects, objects
        print(f"moto: accepted the tasks of {len(tasks)} combs and the objects {', '.join(sorted(objects))}")
        print(asked.stderr.strip().splitlines()[-1])
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
