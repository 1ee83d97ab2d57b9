"""The KServe v2 protocol as its own client and plain HTTP speak it; and what is wrong gets a sentence."""

import json
import re

import cv2
import numpy as np
import pytest

import e2e_deploy as e2e
from tests.plain_bundle import HW, plain_depth, plain_results, write_plain_bundle
from tests.runtime.serve.clients import address, ask, binary, infer_path, results_of

triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")


@pytest.fixture
def frame(rng):
    return rng.integers(0, 256, (1, *HW, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient("{}:{}".format(*address(server))) as opened:
        yield opened


def given(frames, *, as_bytes=True):
    tensor = triton.InferInput("frame", list(frames.shape), "UINT8")
    tensor.set_data_from_numpy(frames, binary_data=as_bytes)
    return [tensor]


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("got", [True, False])
def test_tritons_client_gets_the_result(client, server, frame, sent, got):
    wanted = [triton.InferRequestedOutput("depth", binary_data=got)]
    answer = client.infer(
        server.name, given(frame, as_bytes=sent), outputs=wanted, request_id="seven"
    )
    found = answer.as_numpy("depth")
    assert (found.dtype, found.shape) == (np.float32, (1, *HW))
    np.testing.assert_allclose(found, plain_depth(frame), atol=1e-6)
    told = answer.get_response()
    assert (told["id"], told["model_name"], told["model_version"]) == ("seven", "depth", "1")


def test_tritons_client_without_named_outputs(client, server, frame):
    found = client.infer(server.name, given(frame)).as_numpy("depth")
    np.testing.assert_allclose(found, plain_depth(frame), atol=1e-6)


def test_tritons_client_is_told_what_there_is(client, server):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(server.name)
    assert client.is_model_ready(server.name, "1")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    told = client.get_model_metadata(server.name)
    assert told["inputs"] == [{"name": "frame", "datatype": "UINT8", "shape": [1, *HW, 3]}]
    assert told["outputs"] == [{"name": "depth", "datatype": "FP32", "shape": [1, *HW]}]
    with pytest.raises(triton.InferenceServerException, match="there is no model 'other'"):
        client.get_model_metadata("other")


def test_tritons_client_is_told_what_was_wrong(client, server, frame):
    with pytest.raises(triton.InferenceServerException, match=r"the shape of 'frame' is \[1, 2"):
        client.infer(server.name, given(frame[:, :2]))


def as_json(frames, **told):
    tensor = {"name": "frame", "datatype": "UINT8", "shape": list(frames.shape)}
    return {"inputs": [tensor | {"data": frames.tolist()} | told]}


def test_json_nested_and_flat(server, frame):
    for told in ({}, {"data": frame.ravel().tolist()}):
        body = json.dumps(as_json(frame, **told))
        found = results_of(ask(server, "POST", infer_path(server), body))
        np.testing.assert_allclose(found["depth"], plain_depth(frame), atol=1e-6)


def one(frame, **told):
    return as_json(frame, **told)["inputs"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: {}, "`inputs` must be a list of one tensor, 'frame'"),
        (lambda f: {"inputs": one(f) * 2}, "`inputs` must be a list of one tensor"),
        (lambda f: {"inputs": one(f), "x": 1}, "the request has the key 'x'"),
        (lambda f: {"inputs": one(f), "id": 7}, "`id` is no text"),
        (lambda f: {"inputs": one(f, datatype="FP32")}, "this model takes 'frame' of 'UINT8'"),
        (lambda f: {"inputs": one(f, name="rgb")}, "the input is 'rgb' of 'UINT8'"),
        (lambda f: {"inputs": one(f, shape=[2, *HW, 3])}, "the shape of 'frame' is [2, 24, 32, 3]"),
        (lambda f: {"inputs": one(f, shape=[True, *HW, 3])}, "the shape of 'frame' is [True"),
        (lambda f: {"inputs": one(f, shape=[0, *HW, 3])}, "this model takes [1, 24, 32, 3]"),
        (lambda f: {"inputs": one(f, shape="x" * 9999)}, "the shape of 'frame' is xxx"),
        (lambda f: {"inputs": one(f, data=[1, 2])}, "holds 2 numbers; [1, 24, 32, 3] are 2304"),
        (lambda f: {"inputs": one(f, data=[[1], [2, 3]])}, "is nested otherwise than its shape"),
        (lambda f: {"inputs": one(f, data=[256] * 2304)}, "whole numbers from 0 to 255"),
        (lambda f: {"inputs": one(f, data=[-1] * 2304)}, "whole numbers from 0 to 255"),
        (lambda f: {"inputs": one(f, data=[0.5] * 2304)}, "whole numbers from 0 to 255"),
        (lambda f: {"inputs": one(f, data=["a"] * 2304)}, "whole numbers from 0 to 255"),
        (lambda f: {"inputs": one(f, data=[True] * 2304)}, "whole numbers from 0 to 255"),
        (lambda f: {"inputs": one(f, data="x")}, "neither `data`, a list of numbers, nor"),
        (
            lambda f: {"inputs": one(f, parameters={"binary_data_size": 2304})},
            "has `data` and `binary_data_size`",
        ),
        (
            lambda f: {"inputs": one(f, parameters={"binary_data_size": -1})},
            "is no number of bytes",
        ),
        (lambda f: {"inputs": one(f), "outputs": {}}, "`outputs` is no list of tensors"),
        (lambda f: {"inputs": one(f), "outputs": [{"name": "normals"}]}, "this model gives depth"),
        (
            lambda f: {"inputs": one(f), "outputs": [{"name": "depth"}] * 2},
            "this model gives depth, each once",
        ),
        (
            lambda f: {"inputs": one(f), "parameters": {"binary_data_output": 1}},
            "`binary_data_output` is neither true nor false",
        ),
    ],
)
def test_a_wrong_request_gets_a_sentence(server, frame, change, said):
    status, headers, body = ask(server, "POST", infer_path(server), json.dumps(change(frame)))
    assert status == 400
    assert headers["content-type"] == "application/json"
    error = json.loads(body)["error"]
    assert said in error
    assert len(error) <= 500


@pytest.mark.parametrize(
    ("body", "header", "said"),
    [
        (b"", None, "cannot be read as JSON"),
        (b"\xff\xfe", None, "cannot be read as JSON"),
        (b"[" * 100_000, None, "nested too deep"),
        (b"[]", None, "holds a list; expected a JSON object"),
        (b'{"inputs": 1e999}', None, "is beyond 64 bits"),
        (b'{"inputs": NaN}', None, "is no JSON number"),
        (b"{}", "x", "Inference-Header-Content-Length is 'x'"),
        (b"{}", "3", "Inference-Header-Content-Length is 3, and the body has 2 bytes"),
        (b"{}", "0", "Inference-Header-Content-Length is 0"),
        (b"{}", "9" * 100, "Inference-Header-Content-Length is '999"),
    ],
)
def test_what_is_no_request_gets_a_sentence(server, body, header, said):
    headers = {} if header is None else {"Inference-Header-Content-Length": header}
    status, _, body = ask(server, "POST", infer_path(server), body, headers)
    assert (status, said in json.loads(body)["error"]) == (400, True), body


def test_bytes_of_another_length_or_type(server, frame):
    body, headers = binary(frame)
    for data, said in ((body[:-1], "2303 bytes follow"), (body + b"x", "2305 bytes follow")):
        status, _, answer = ask(server, "POST", infer_path(server), data, headers)
        assert (status, said in json.loads(answer)["error"]) == (400, True)
    for told in ({"datatype": "FP32"}, {"shape": [1, 32, 24, 3]}):
        body, headers = binary(frame, **told)
        assert ask(server, "POST", infer_path(server), body, headers)[0] == 400
    head = json.dumps({"inputs": one(frame)}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    status, _, answer = ask(server, "POST", infer_path(server), head + b"more", headers)
    assert (status, "4 bytes follow the request" in answer.decode()) == (400, True)


def png(rgb):
    return cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()


def test_a_picture_of_any_size_gives_a_png_of_its_size(server, rng):
    for hw in (HW, (48, 64)):
        rgb = np.repeat(rng.integers(0, 256, (*hw, 1), dtype=np.uint8), 3, axis=2)
        rgb = cv2.GaussianBlur(rgb, (9, 9), 0)
        status, headers, data = ask(server, "POST", "/v2/models/depth/picture", png(rgb))
        assert (status, headers["content-type"]) == (200, "image/png")
        told = json.loads(headers["x-result"])
        assert (told["output"], told["note"]) == ("depth", "untrained weights")
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert (stored.dtype, stored.shape) == (np.uint16, hw)
        depth = stored * told["scale"] + told["offset"]
        assert np.abs(depth - plain_depth(rgb)).max() < (1e-4 if hw == HW else 0.1)
    jpeg = cv2.imencode(".jpg", rgb)[1].tobytes()
    assert ask(server, "POST", "/v2/models/depth/picture", jpeg)[0] == 200


@pytest.mark.parametrize(
    ("path", "data", "status", "said"),
    [
        ("picture", b"no picture", 415, "is not a picture that can be decoded"),
        ("picture", b"", 415, "is not a picture that can be decoded"),
        ("picture", png(np.zeros((8, 8, 3), np.uint8)), 415, "at least 16 px"),
        ("picture?output=normals", png(np.zeros((24, 32, 3), np.uint8)), 400, "gives depth"),
    ],
)
def test_what_is_no_picture_gets_a_sentence(server, path, data, status, said):
    found, _, body = ask(server, "POST", f"/v2/models/depth/{path}", data)
    assert (found, said in json.loads(body)["error"]) == (status, True), body


def test_other_addresses_hosts_and_origins(server, frame):
    body, headers = binary(frame)
    for method, path, status in (
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("GET", infer_path(server), 405),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/depth/versions/2/infer", 404),
        ("GET", "/v2/models/" + "x" * 5000, 404),
    ):
        found, _, answer = ask(server, method, path, body if method == "POST" else None, headers)
        assert (found, "error" in json.loads(answer)) == (status, True)
        assert len(answer) < 600
    for bad in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert ask(server, "POST", infer_path(server), body, headers | bad)[0] == 403
        assert ask(server, "GET", "/metrics", None, bad)[0] == 403
    for good in ("localhost", "127.0.0.1:9"):
        assert ask(server, "GET", "/v2", None, {"Host": good})[0] == 200
    gz = headers | {"Content-Encoding": "gzip"}
    assert ask(server, "POST", infer_path(server), body, gz)[0] == 415


def test_metrics_count_what_happens(server, frame):
    def counted():
        text = ask(server, "GET", "/metrics")[2].decode()
        parser = pytest.importorskip("prometheus_client.parser")
        families = {f.name: f for f in parser.text_string_to_metric_families(text)}
        answers = families["e2e_deploy_requests"].samples
        totals = {
            (s.labels["kind"], s.labels["status"]): s.value
            for s in answers
            if s.name.endswith("_total")
        }
        return totals, families

    body, headers = binary(frame)
    before, _ = counted()
    ask(server, "POST", infer_path(server), body, headers)
    ask(server, "POST", infer_path(server), b"{}")
    after, families = counted()
    assert after["infer", "200"] == before.get(("infer", "200"), 0) + 1
    assert after["infer", "400"] == before.get(("infer", "400"), 0) + 1
    (taken,) = families["e2e_deploy_requests_on_their_way"].samples
    assert (taken.value, taken.labels) == (0, {"model": "depth"})


def test_several_results_and_sizes(tmp_path, rng):
    frame = rng.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    bundle = write_plain_bundle(tmp_path / "g", sizes=(HW, (16, 16)), task="geometry")
    with e2e.ModelServer(bundle, port=0, frame_size=(16, 16)) as server:
        assert server.name == "g_16x16"
        body, headers = binary(frame)
        found = results_of(ask(server, "POST", infer_path(server), body, headers))
        for name, wanted in plain_results(frame, "geometry").items():
            np.testing.assert_allclose(found[name], wanted, atol=1e-6)
        data = png(frame[0])
        path = "/v2/models/g_16x16/picture?output=normals"
        _, headers, body = ask(server, "POST", path, data)
        told = json.loads(headers["x-result"])
        bgr = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
        normals = bgr[..., ::-1] * told["scale"] + told["offset"]
        assert np.abs(normals - plain_results(frame[0], "geometry")["normals"]).max() < 1e-4
        assert re.fullmatch(r"<ModelServer g_16x16 at http://127.0.0.1:\d+, open>", repr(server))
    assert "closed" in repr(server)
