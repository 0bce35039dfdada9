"""Starts a local cloud, with files as a table in its bucket."""
import contextlib
import os
import re
import shutil
import subprocess
import sys

BUCKET = "buzz-local"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIALOCAL", "AWS_SECRET_ACCESS_KEY": "local-secret"}


@contextlib.contextmanager
def local_cloud(programs, folder, *options):
    """Starts a local cloud over `folder` without warm instances or combs, and yields its endpoint."""
    command = [os.path.join(programs, "localcloud"), "serve", "--port", "0", "--folder", folder, "--programs", programs, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        said = process.stdout.readline()
        found = re.search(r"http://\S+", said)
        if not found:
            sys.exit(f"the local cloud did not start: {said}")
        yield found.group()
    finally:
        process.terminate()
        process.wait()


def put_table(folder, name, files):
    """Makes `files` the table `name` in the bucket of a local cloud over `folder`, before it starts. Returns its location.

    Equal files are links to one."""
    place = os.path.join(folder, "s3", BUCKET, name)
    os.makedirs(place)
    copied = {}
    for number, file in enumerate(files):
        target = os.path.join(place, f"{number:05}.parquet")
        if file in copied:
            os.link(copied[file], target)
        else:
            copied[file] = shutil.copyfile(file, target)
    return f"s3://{BUCKET}/{name}"
