"""What each specialisation pass removes: parameters and multiply-adds at SD2 size, ONNX nodes and bytes.

python -m benchmarks.export.specialise [--onnx]

The full size is counted on shapes alone, without weights. Its ONNX columns need weights (8 GB) and minutes: --onnx.
"""

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.full_size import UNET, VAE
from benchmarks.report import write_result
from e2e_deploy.export.graph.specialise import MACS_HW, PASSES, count_macs, count_parameters
from e2e_deploy.export.graph.specialised_model import SpecialisedModel
from e2e_deploy.export.onnx import trace
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.families import FAMILIES
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.single_step import SingleStepModel
from e2e_deploy.model.tiny import build_tiny

TINY_HW = (256, 320)
Row = dict[str, Any]


def full_size_model(tokens: int, device: str) -> SingleStepModel:
    import diffusers

    with torch.device(device), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unet, vae = diffusers.UNet2DConditionModel(**UNET), diffusers.AutoencoderKL(**VAE)
        context_1LC = torch.randn(1, tokens, UNET["cross_attention_dim"])
    model = SingleStepModel(
        unet,
        vae,
        context_1LC,
        task="depth",
        family=FAMILIES["e2e-ft"],
        timestep=999,
        x0_from_xt=0.0682649,
        x0_from_output=-0.9976672,
    )
    return model.requires_grad_(False).eval()


def measure(model: SpecialisedModel, size_hw: tuple[int, int], *, onnx: bool) -> Row:
    macs = count_macs(model, size_hw)
    row = {
        "parameters": count_parameters(model),
        "macs": macs[""],
        "unet_macs": macs["unet"],
    }
    if onnx:
        graph = trace.trace(
            model, torch.zeros(1, 3, *size_hw), input_name="rgb", output_names=["result"]
        )
        row["onnx_nodes"] = len(list(graph.graph.all_nodes()))
        row["onnx_weight_bytes"] = trace.weight_bytes(graph)
    return row


def table(model: SingleStepModel, size_hw: tuple[int, int], *, onnx: bool) -> list[Row]:
    """One row for the plain model and one after each pass; the passes add up."""
    special = SpecialisedModel(model).eval()
    rows = [{"after": "plain"} | measure(special, size_hw, onnx=onnx)]
    for step in PASSES:
        with torch.no_grad():
            step.run(special)
        rows.append({"after": step.name} | measure(special, size_hw, onnx=onnx))
    return rows


def summary(rows: list[Row], plain: Row) -> Row:
    """What is gone without and with the upsampling pass, which comes last."""
    found = {}
    for name, row in (("without_upsampling", rows[-2]), ("with_upsampling", rows[-1])):
        found[name] = {
            "parameters_gone": plain["parameters"] - row["parameters"],
            "macs_gone_percent": 100 * (1 - row["macs"] / plain["macs"]),
            "unet_macs_gone_percent": 100 * (1 - row["unet_macs"] / plain["unet_macs"]),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--onnx", action="store_true", help="trace the full size too, 8 GB")
    arguments = parser.parse_args()
    device = "cpu" if arguments.onnx else "meta"
    two = table(full_size_model(2, device), MACS_HW, onnx=arguments.onnx)
    many = table(full_size_model(77, "meta"), MACS_HW, onnx=False)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = open_checkpoint(build_tiny(Path(folder) / "tiny", "depth"))
        tiny = table(load_model(checkpoint), TINY_HW, onnx=True)
    write_result(
        "specialise",
        {
            "note": "rows add up: each is the model after its pass and all before it",
            "full_size": {
                "picture_hw": MACS_HW,
                "two_tokens": two,
                "two_tokens_summary": summary(two, two[0]),
                "77_tokens": many,
                "77_tokens_summary": summary(many, many[0]),
                "two_tokens_against_plain_77_tokens": summary(two, many[0]),
            },
            "e2e_tiny": {"picture_hw": TINY_HW, "two_tokens": tiny},
        },
    )


if __name__ == "__main__":
    main()
