"""A picture through a server that speaks the KServe v2 protocol: `e2e-deploy serve BUNDLE`, or Triton.

pip install tritonclient[http]
python examples/serve_client.py 127.0.0.1:8000 model photo.jpg
"""

import sys

import cv2
import numpy as np
import tritonclient.http as triton


def main(address: str, model: str, path: str) -> None:
    """Send the picture at the model's size and say what came back."""
    with triton.InferenceServerClient(address) as client:
        if not client.is_model_ready(model):
            raise SystemExit(f"{address} has no model {model} that is ready")
        about = client.get_model_metadata(model)
        (takes,) = about["inputs"]
        height, width = takes["shape"][-3:-1]
        bgr = cv2.imread(path)
        if bgr is None:
            raise SystemExit(f"{path} is no picture")
        rgb = cv2.resize(bgr, (width, height), interpolation=cv2.INTER_AREA)[..., ::-1]
        frame = triton.InferInput(takes["name"], [1, height, width, 3], takes["datatype"])
        frame.set_data_from_numpy(np.ascontiguousarray(rgb)[None])  # as bytes, not as JSON
        try:
            answer = client.infer(model, [frame])
        except triton.InferenceServerException as error:
            raise SystemExit(f"{error.status()}: {error.message()}") from None  # 429: try later
    for output in about["outputs"]:
        result = answer.as_numpy(output["name"])[0]
        print(f"{output['name']} {list(result.shape)}: {result.min():.4f} to {result.max():.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
