"""The single-step model as mathematics: rgb in, results out, one network evaluation.

z = VAE encoder mean(rgb) x scaling_factor; v = UNet([z, x_T], T, empty prompt); x0 from v by the scheduler's prediction
type; image = VAE decoder(x0 / scaling_factor); result by task. E2E-FT, arXiv 2409.11355, section 4; zeros for x_T.
Knows no files and no frames sizes beyond a FramePlan.

N batch, K results, H W pixels, h w latent pixels (8 times smaller), L prompt tokens, C prompt width, D numbers of a
class.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from e2e_deploy.frames import FramePlan, plan_frame
from e2e_deploy.kinds import KINDS, Kind
from e2e_deploy.model.coders.coder import decode, decoding_factor, encode_mean, end_of, stride_of
from e2e_deploy.model.families import Family
from e2e_deploy.names import ResultKind, TaskName

MIN_NORM = 1e-6


def read_mean(image_N3HW: Tensor) -> Tensor:
    """A map [N, H, W] in [0, 1], such as depth: channel mean, clip to [-1, 1], shift to [0, 1].

    An image of one channel is a mean that was taken before.
    """
    mean = image_N3HW[:, 0] if image_N3HW.shape[1] == 1 else image_N3HW.mean(dim=1)
    return (mean.clamp(-1.0, 1.0) + 1.0) / 2.0


def unit_length(vectors_N3HW: Tensor) -> Tensor:
    """The vectors divided by their length; lengths below 1e-6 divide by 1e-6."""
    norm_N1HW = vectors_N3HW.square().sum(dim=1, keepdim=True).sqrt()
    return vectors_N3HW / norm_N1HW.clamp(min=MIN_NORM)


def read_normals(image_N3HW: Tensor, family: Family, *, full_z_range: bool = True) -> Tensor:
    """Unit normals [N, 3, H, W]: x right, y up, z toward the viewer.

    ``full_z_range`` False: the network's z covers [-1, 1] for normals whose z is in [0, 1] (early Marigold normals).
    """
    axes = (image_N3HW.clamp(-1.0, 1.0) if family.clip_normals else image_N3HW).unbind(dim=1)
    x, y, z = (
        -axis if sign < 0 else axis for axis, sign in zip(axes, family.normals_signs, strict=True)
    )
    z = z if full_z_range else 0.5 * z + 0.5
    return unit_length(torch.stack([x, y, z], dim=1))


def read_result(
    image_N3HW: Tensor, kind: Kind, family: Family, *, full_z_range: bool = True
) -> Tensor:
    """A decoded image as one result [N, 1 or 3, H, W] of ``kind``."""
    if kind.form == "vectors":
        return read_normals(image_N3HW, family, full_z_range=full_z_range)
    if kind.channels == 1:
        image = image_N3HW.clamp(-1.0, 1.0) if family.clips_first else image_N3HW
        return read_mean(image).unsqueeze(1)
    return (image_N3HW.clamp(-1.0, 1.0) + 1.0) / 2.0


def read_results(
    image_NKHW: Tensor, kinds: Sequence[Kind], family: Family, *, full_z_range: bool = True
) -> Tensor:
    """Decoded images of K results side by side to the results, one after the other along the channels."""
    if len(kinds) == 1:
        return read_result(image_NKHW, kinds[0], family, full_z_range=full_z_range)
    images = image_NKHW.chunk(len(kinds), dim=1)
    return torch.cat(
        [
            read_result(image, kind, family, full_z_range=full_z_range)
            for image, kind in zip(images, kinds, strict=True)
        ],
        dim=1,
    )


def each_alone(x_NKhw: Tensor, count: int) -> Tensor:
    """[N, K C, h, w] as [N K, C, h, w]: ``count`` K latents or images as ones of their own."""
    return (
        x_NKhw if count == 1 else _shaped(x_NKhw, x_NKhw.shape[0] * count, x_NKhw.shape[1] // count)
    )


def _shaped(x: Tensor, batch: int, channels: int) -> Tensor:
    return x.reshape(batch, channels, *x.shape[2:])


def side_by_side(x_MChw: Tensor, count: int) -> Tensor:
    """[N K, C, h, w] as [N, K C, h, w]; undoes ``each_alone``."""
    return (
        x_MChw if count == 1 else _shaped(x_MChw, x_MChw.shape[0] // count, x_MChw.shape[1] * count)
    )


class SingleStepModel(nn.Module):
    """One network evaluation from rgb to one result, or to K of them.

    Attributes:
        unet: diffusers UNet2DConditionModel with 8 (rgb latent, then x_T) or 4 (rgb latent only) input channels.
        vae: diffusers AutoencoderKL or AutoencoderTiny, or TwoCoders.
        context_1LC: text encoding of the prompt, [1, L, C]; None where ``context`` takes it from the picture.
        class_labels_1D: what the UNet's class embedding is given, [1, D]; None where it has none.
        kinds: of the K results, in order; each is decoded from a latent of its own.
        stride: pixels a side of one latent pixel.
        network_stride: where the processing size is a multiple of this, every level of the UNet is exactly twice the
            next. Elsewhere levels of odd size are upsampled to the size of their skip connection.
    """

    unet: Any  # diffusers is untyped
    vae: Any
    context_1LC: Tensor | None
    class_labels_1D: Tensor | None

    def __init__(
        self,
        unet: Any,
        vae: Any,
        context_1LC: Tensor | None,
        *,
        task: TaskName,
        family: Family,
        timestep: int,
        x0_from_xt: float,
        x0_from_output: float,
        class_labels_1D: Tensor | None = None,
        full_z_range: bool = True,
        outputs: Sequence[ResultKind] = (),
    ) -> None:
        super().__init__()
        self.unet = unet
        self.vae = vae
        self.register_buffer("context_1LC", context_1LC, persistent=False)
        self.register_buffer("class_labels_1D", class_labels_1D, persistent=False)
        self.task = task
        self.family = family
        self.kinds = tuple(KINDS[name] for name in outputs or family.outputs(task))
        self.timestep = timestep
        self.x0_from_xt = x0_from_xt
        self.x0_from_output = x0_from_output
        self.full_z_range = full_z_range
        self.latent_channels = int(vae.config.latent_channels)
        self.in_channels = int(unet.config.in_channels)
        self.stride: int = stride_of(vae)
        self.network_stride: int = self.stride * 2 ** (len(unet.config.block_out_channels) - 1)

    @property
    def last_convolution(self) -> str:
        """Path of the module that gives the image, which stays in float32 in half precision."""
        return f"vae.decoder.{end_of(self.vae.decoder)}"

    @property
    def scaling_factor(self) -> float:
        """What latents are multiplied by after they are encoded."""
        return float(self.vae.config.scaling_factor)

    @property
    def decoding_factor(self) -> float:
        """What latents are divided by before they are decoded; the scaling factor unless two VAEs share the work."""
        return decoding_factor(self.vae)

    @property
    def result_stride(self) -> int:
        """Where a processing size is a multiple of this, the result has that size."""
        return self.stride

    def plan(self, frame_hw: tuple[int, int], resolution: int, pad: int = 0) -> FramePlan:
        """How frames of that size reach this model; arguments and errors as of ``plan_frame``."""
        return plan_frame(frame_hw, resolution, self.stride, sizing=self.family.sizing, pad=pad)

    def encode(self, rgb_N3HW: Tensor) -> Tensor:
        """Scaled mean latent [N, 4, h, w] of rgb in [-1, 1]; never sampled."""
        return encode_mean(self.vae, rgb_N3HW) * self.scaling_factor

    def context(self, rgb_N3HW: Tensor) -> Tensor:
        """What the UNet's cross attentions read for rgb in [-1, 1]: [N, L, C], here the same for every picture."""
        return self._same_context(rgb_N3HW.shape[0])

    def _same_context(self, count: int) -> Tensor:
        assert self.context_1LC is not None, "the context depends on the picture"
        return self.context_1LC.expand(count, -1, -1)

    def predict_x0(
        self,
        z_N4hw: Tensor,
        xt_N4hw: Tensor | None = None,
        context_NLC: Tensor | None = None,
    ) -> Tensor:
        """Clean result latents [N, 4 K, h, w] from the rgb latent; ``xt_N4hw`` None means zeros.

        ``context_NLC`` is what ``context`` gives; only a model whose context depends on the picture needs it.
        """
        network_in = z_N4hw
        more = self.in_channels - self.latent_channels
        if more:
            zeros = z_N4hw.new_zeros(z_N4hw.shape[0], more, *z_N4hw.shape[2:])
            network_in = torch.cat([z_N4hw, zeros if xt_N4hw is None else xt_N4hw], dim=1)
        count = z_N4hw.shape[0]
        context = self._same_context(count) if context_NLC is None else context_NLC
        labels = self.class_labels_1D
        output: Tensor = self.unet(
            network_in,
            self.timestep,
            context,
            class_labels=None if labels is None else labels.expand(count, -1),
            return_dict=False,
        )[0]
        x0 = output * self.x0_from_output
        return x0 if xt_N4hw is None else x0 + xt_N4hw * self.x0_from_xt

    def decode(self, x0_NKhw: Tensor) -> Tensor:
        """Decoded images [N, 3 K, H, W] of scaled latents [N, 4 K, h, w]; not clipped.

        [N, K, H, W] where the decoder has one channel.
        """
        latents = each_alone(x0_NKhw / self.decoding_factor, len(self.kinds))
        return side_by_side(decode(self.vae, latents), len(self.kinds))

    def read(self, image_NKHW: Tensor) -> Tensor:
        """Decoded images [N, 3 K, H, W] to results, one after the other: [N, channels of every kind, H, W]."""
        return read_results(image_NKHW, self.kinds, self.family, full_z_range=self.full_z_range)

    def forward(self, rgb_N3HW: Tensor) -> Tensor:
        """Results [N, channels of every kind, H, W] of rgb in [-1, 1]; sides round down to a multiple of ``stride``."""
        context_NLC = self.context(rgb_N3HW)
        x0 = self.predict_x0(self.encode(rgb_N3HW), context_NLC=context_NLC)
        return self.read(self.decode(x0))


def resample(x_NCHW: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Rows @ x @ columns^T per channel: [N, C, H, W] to [N, C, rows.shape[0], columns.shape[0]]."""
    if (
        rows.shape[0] * columns.shape[1] <= columns.shape[0] * rows.shape[1]
    ):  # the axis that shrinks most goes first
        return torch.matmul(torch.matmul(rows, x_NCHW), columns.T)
    return torch.matmul(rows, torch.matmul(x_NCHW, columns.T))


class FrameModel(nn.Module):
    """Frame in, results out: the one pre- and post-processing, around any rgb-to-result model.

    ``model`` maps rgb [N, 3, H, W] in [-1, 1] at the plan's padded size to the results of ``outputs``, one after the
    other, [N, channels of every kind, H, W] of its result size.
    Resizing is two constant matrices, exact to torch's antialiased bilinear and free of resize operators, whose
    rules differ between runtimes. When the sizes are equal, padding and cropping are plain slices.
    """

    rows_in: Tensor
    columns_in: Tensor
    rows_out: Tensor
    columns_out: Tensor

    def __init__(self, model: nn.Module, plan: FramePlan, outputs: Sequence[ResultKind]) -> None:
        super().__init__()
        self.model = model
        self.plan = plan
        self.kinds = tuple(KINDS[name] for name in outputs)
        matrices = []
        if plan.resizes:
            matrices += [("rows_in", plan.to_network(0)), ("columns_in", plan.to_network(1))]
        if plan.resizes_back:
            matrices += [("rows_out", plan.to_frame(0)), ("columns_out", plan.to_frame(1))]
        for name, matrix in matrices:
            self.register_buffer(name, torch.from_numpy(matrix), persistent=False)

    def to_network(self, frame_NHW3: Tensor) -> Tensor:
        """uint8 frames [N, H, W, 3] to rgb [N, 3, H', W'] float32 in [-1, 1] at the padded size."""
        # The cast comes first: TensorRT takes uint8 into no other operator.
        # Contiguous, because torch's group norm of channels-last tensors on a CPU adds a whole group in one go: its
        # relative error is 2e-4 for 1.7 million values, and 6e-8 here.
        rgb = frame_NHW3.float().permute(0, 3, 1, 2).contiguous() / 127.5 - 1.0
        if self.plan.resizes:
            resized = resample(rgb, self.rows_in, self.columns_in)
            return resized.clamp(-1.0, 1.0) if self.plan.bicubic else resized
        for dim in (2, 3):
            extra = self.plan.padded_hw[dim - 2] - rgb.shape[dim]
            if extra > 0:
                edge = rgb.narrow(dim, rgb.shape[dim] - 1, 1)
                rgb = torch.cat([rgb] + [edge] * extra, dim=dim)
        return rgb

    def to_frame(self, result_NCHW: Tensor) -> Tensor:
        """A result at the plan's result size, float32, cropped and resized back to the frame size."""
        if self.plan.resizes_back:
            return resample(result_NCHW, self.rows_out, self.columns_out)
        height, width = self.plan.frame_hw
        return result_NCHW[:, :, :height, :width]

    def forward(self, frame_NHW3: Tensor) -> Tensor | tuple[Tensor, ...]:
        """uint8 frames [N, H, W, 3] to a result [N, H, W] or [N, H, W, 3], float32; of several kinds a tuple."""
        results = self.to_frame(self.model(self.to_network(frame_NHW3)).float())
        if len(self.kinds) == 1:
            return self._finish(results, self.kinds[0])
        each = torch.split(results, [kind.channels for kind in self.kinds], dim=1)
        return tuple(
            self._finish(result, kind) for result, kind in zip(each, self.kinds, strict=True)
        )

    def _finish(self, result_NCHW: Tensor, kind: Kind) -> Tensor:
        if self.plan.bicubic and self.plan.resizes_back:
            result_NCHW = result_NCHW.clamp(*kind.value_range)
        if kind.channels == 1:
            return result_NCHW.squeeze(1)
        # Interpolated unit vectors are shorter than one.
        if kind.form == "vectors" and self.plan.resizes_back:
            result_NCHW = unit_length(result_NCHW)
        return result_NCHW.permute(0, 2, 3, 1)
