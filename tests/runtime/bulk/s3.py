"""A server that speaks S3 on this machine, of the package moto, which wants other versions than ours.

MOTO_SERVER names its program (`python -m venv m; m/bin/pip install 'moto[server]'`; MOTO_SERVER=m/bin/moto_server).
"""

import os
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest

needs_s3 = pytest.mark.skipif(
    "MOTO_SERVER" not in os.environ, reason="MOTO_SERVER names the program of a server of S3"
)
SECRET = "a-secret-of-this-test"


@contextmanager
def server():
    """Variables by which its stores are found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [os.environ["MOTO_SERVER"], "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            assert process.poll() is None
            time.sleep(0.1)
        yield variables(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(30)


def variables(endpoint):
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def bucket(name, endpoint):
    """PyArrow's own way to the server, with a new bucket."""
    from pyarrow import fs

    made = fs.S3FileSystem(
        access_key="testing",
        secret_key=SECRET,
        region="us-east-1",
        endpoint_override=endpoint.removeprefix("http://"),
        scheme="http",
        allow_bucket_creation=True,
    )
    made.create_dir(name)
    return made


def put(filesystem, key, data):
    with filesystem.open_output_stream(key) as stream:
        stream.write(data)
