"""The names that arguments, manifests and messages share: each list once, as a type and as a tuple of choices."""

from typing import Literal, get_args

TaskName = Literal[
    "depth",
    "disparity",
    "normals",
    "geometry",
    "segmentation",
    "matting",
    "appearance",
    "lighting",
]
"""What a checkpoint does; e2e_deploy/model/families.py says what each gives."""
TASK_NAMES: tuple[TaskName, ...] = get_args(TaskName)

ResultKind = Literal[
    "depth",
    "disparity",
    "sqrt-disparity",
    "normals",
    "mask",
    "matte",
    "albedo",
    "linear-albedo",
    "material",
    "shading",
    "residual",
]
"""What the numbers of one result are; e2e_deploy/kinds.py says it of each."""
RESULT_KINDS: tuple[ResultKind, ...] = get_args(ResultKind)

FamilyName = Literal[
    "e2e-ft",
    "marigold",
    "lcm",
    "marigold-iid",
    "genpercept",
    "geowizard",
    "geowizard-v2",
    "lotus",
    "depthmaster",
    "stablenormal-turbo",
    "stablenormal-turbo-v1",
]
"""Kinds of checkpoint that are supported; e2e_deploy/model/families.py says what each is."""
FAMILY_NAMES: tuple[FamilyName, ...] = get_args(FamilyName)

Stretch = Literal["none", "frame"]
"""What a DPT head's result is: as it was trained, or each frame stretched to 0 to 1, which flickers."""
STRETCHES: tuple[Stretch, ...] = get_args(Stretch)

Domain = Literal["indoor", "outdoor", "object"]
"""What GeoWizard is told a picture shows; object: one thing alone, without a background."""
DOMAINS: tuple[Domain, ...] = get_args(Domain)

CoderClass = Literal["AutoencoderKL", "AutoencoderTiny"]
"""Diffusers' classes of VAE that are supported, as configs name them."""
DEFAULT_CODER: CoderClass = "AutoencoderKL"
TINY_CODER: CoderClass = "AutoencoderTiny"

CoderHalf = Literal["encoder", "decoder"]
CODER_HALVES: tuple[CoderHalf, ...] = get_args(CoderHalf)
VaePart = Literal["both", "encoder", "decoder"]
"""Which halves another VAE takes the place of."""
VAE_PARTS: tuple[VaePart, ...] = get_args(VaePart)

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

GraphKind = Literal["frame", "core"]
"""frame: uint8 frame to result at its size. core: rgb in [-1, 1] to result, both at the processing size."""
GRAPH_KINDS: tuple[GraphKind, ...] = get_args(GraphKind)

GraphTarget = Literal["onnxruntime-cuda"]
"""What a graph has a form of its own for, beside the one for everything: ONNX Runtime's CUDA provider."""
GRAPH_TARGETS: tuple[GraphTarget, ...] = get_args(GraphTarget)
ONNXRUNTIME_CUDA: GraphTarget = GRAPH_TARGETS[0]

BackendName = Literal["onnxruntime", "openvino", "torch", "tensorrt", "tensorrt-rtx", "inductor"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
BackendChoice = Literal["auto", BackendName]
BACKEND_CHOICES: tuple[BackendChoice, ...] = get_args(BackendChoice)

DEVICE_FORM = r"(auto|cpu|npu)|(cuda|intel-gpu)(?::([0-9]{1,4}))?"
DEVICES = "auto, cpu, cuda, cuda:N, intel-gpu, intel-gpu:N, npu"
"""Devices as users name them: as a regular expression and in words. The last three are OpenVINO's."""

Opponent = BackendChoice | Literal["diffusers"]
"""What a bundle is timed or measured beside: another backend, or diffusers' own pipeline on its checkpoint."""
OPPONENTS: tuple[Opponent, ...] = (*BACKEND_CHOICES, "diffusers")

Spacing = Literal["leading", "trailing"]
"""Where a DDIM scheduler puts its steps: from t = 1 up (of Stable Diffusion), or from the last t, 999, down."""
SPACINGS: tuple[Spacing, ...] = get_args(Spacing)

TrtKind = Literal["tensorrt", "tensorrt-rtx"]
"""NVIDIA's two builders of plans."""

PlanKind = Literal[TrtKind, "inductor"]
"""What builds plans, and the backend that runs them."""
PLAN_KINDS: tuple[PlanKind, ...] = get_args(PlanKind)
PLAN_TITLES: dict[str, str] = {
    "tensorrt": "TensorRT",
    "tensorrt-rtx": "TensorRT-RTX",
    "inductor": "AOTInductor",
}
"""The kinds of plans as people call them."""

EngineChoice = Literal["auto", "onnx", "tensorrt", "tensorrt-rtx", "inductor"]
"""Which plans an export builds beside its ONNX graphs; onnx: none."""
ENGINE_CHOICES: tuple[EngineChoice, ...] = get_args(EngineChoice)

DataKind = Literal["hypersim", "vkitti2"]
"""Official data sets that can be prepared."""
DATA_KINDS: tuple[DataKind, ...] = get_args(DataKind)

Measure = Literal["depth", "normals"]
"""What the published protocol measures."""
MEASURES: tuple[Measure, ...] = get_args(Measure)

SetName = Literal["nyuv2", "kitti", "eth3d", "scannet", "diode", "ibims", "sintel"]
"""Evaluation sets of the published protocol; train/protocol/sets.py says what each is."""
SET_NAMES: tuple[SetName, ...] = get_args(SetName)

KittiMask = Literal["eigen", "garg"]
"""Which part of KITTI's pictures counts; eigen as published."""
KITTI_MASKS: tuple[KittiMask, ...] = get_args(KittiMask)

ProtocolName = Literal["e2e-ft"]
"""Published ways to measure accuracy: data sets, crops, alignment and averaging."""
PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)

OnBad = Literal["skip", "stop"]
"""What a damaged sample does: it is named and left out, or ends the work."""
ON_BAD: tuple[OnBad, ...] = get_args(OnBad)

PictureFormat = Literal["png16", "npy", "npz", "exr", "ply", "color"]
PICTURE_FORMATS: tuple[PictureFormat, ...] = get_args(PictureFormat)

BulkFormat = Literal["png16", "parquet", "webdataset", "zarr"]
"""What a bulk run writes: files of every picture, or a file or group of every shard that holds them."""
BULK_FORMATS: tuple[BulkFormat, ...] = get_args(BulkFormat)

BulkDevice = Literal["auto", "cpu", "cuda"]
"""Where a bulk run's engines compute; Ray says which GPU is whose."""
BULK_DEVICES: tuple[BulkDevice, ...] = get_args(BulkDevice)

Colormap = Literal["spectral", "inferno", "turbo"]
COLORMAPS: tuple[Colormap, ...] = get_args(Colormap)

Axes = Literal["camera", "optical"]
"""Of normals. camera: x right, y up, z toward the viewer. optical: x right, y down, z forward, as robots have it."""
AXES: tuple[Axes, ...] = get_args(Axes)

Decoder = Literal["cpu", "gpu"]
"""Where a video file is decoded."""
DECODERS: tuple[Decoder, ...] = get_args(Decoder)

ParityMode = Literal["warn", "strict"]
"""What a comparison outside its limit does to a run."""
PARITY_MODES: tuple[ParityMode, ...] = get_args(ParityMode)
