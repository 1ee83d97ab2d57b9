"""Clients of a server in the tests: plain HTTP over a socket, so that what is sent can be wrong."""

import http.client
import json
import socket
from urllib.parse import urlsplit

import numpy as np


def address(server):
    split = urlsplit(server.url)
    return split.hostname, split.port


def ask(server, method, path, body=None, headers=None, timeout_s=20):
    """(status, headers, body) of one request."""
    connection = http.client.HTTPConnection(*address(server), timeout=timeout_s)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def infer_path(server):
    return f"/v2/models/{server.name}/infer"


def binary(frames, name="frame", **told):
    """(body, headers) of a request whose tensor and answer are bytes."""
    data = np.ascontiguousarray(frames).tobytes()
    tensor = {"name": name, "datatype": "UINT8", "shape": list(frames.shape)} | told
    tensor["parameters"] = {"binary_data_size": len(data)}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + data, {"Inference-Header-Content-Length": str(len(head))}


def results_of(answer):
    """Arrays by name in (status, headers, body) of a good answer."""
    status, headers, body = answer
    assert status == 200, body[:300]
    lower = {name.lower(): value for name, value in headers.items()}
    length = int(lower.get("inference-header-content-length", len(body)))
    told, rest = json.loads(body[:length]), body[length:]
    found = {}
    for tensor in told["outputs"]:
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            values = np.array(tensor["data"], np.float32)
        else:
            values, rest = np.frombuffer(rest[:size], "<f4"), rest[size:]
        found[tensor["name"]] = values.reshape(tensor["shape"])
    return found


def raw(server, timeout_s=20):
    return socket.create_connection(address(server), timeout_s)


def received(client):
    """All that comes until the other side ends."""
    parts = []
    try:
        while part := client.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        parts.append(b"(reset)")
    return b"".join(parts)
