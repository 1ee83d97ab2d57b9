import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.train import model_folder
from e2e_deploy.train.model_folder import write_model
from e2e_deploy.train.start import load_start
from tests.train.small_runs import small_config, write_start


def write(root, start, *, note="", on_note=print, **facts):
    return write_model(
        root / "model",
        start.model,
        start.checkpoint,
        resolution=64,
        trained={"steps": 3, **facts},
        note=note,
        on_note=on_note,
    )


def card(root):
    return json.loads((root / "model" / "e2e_deploy.json").read_text())


def test_reads_back_as_the_same_model(tmp_path):
    start = load_start(small_config(tmp_path))
    checkpoint = open_checkpoint(write(tmp_path, start))
    rgb = torch.rand(1, 3, 32, 40)
    with torch.no_grad():
        assert torch.equal(load_model(checkpoint)(rgb), start.model(rgb))
    assert checkpoint.resolution == 64
    assert checkpoint.scheduler["timestep_spacing"] == "trailing"
    assert checkpoint.scheduler["set_alpha_to_one"] is True
    assert checkpoint.scheduler["prediction_type"] == start.checkpoint.scheduler["prediction_type"]


def test_no_file_names_a_folder_of_this_machine(tmp_path):
    folder = write(tmp_path, load_start(small_config(tmp_path)))
    texts = [file for file in folder.rglob("*.json") if str(tmp_path) in file.read_text()]
    assert texts == []


def test_half_text_encoder_becomes_float32(tmp_path):
    config = small_config(tmp_path)
    encoder = tmp_path / "start" / "text_encoder"
    tensors = load_file(encoder / "model.safetensors")
    halves = {key: value.half() for key, value in tensors.items()}
    save_file(halves, encoder / "model.fp16.safetensors", metadata={"format": "pt"})
    (encoder / "model.safetensors").unlink()
    (encoder / "config.json").write_text(
        json.dumps(json.loads((encoder / "config.json").read_text()) | {"dtype": "float16"})
    )
    folder = write(tmp_path, load_start(config)) / "text_encoder"
    written = load_file(folder / "model.safetensors")
    assert {t.dtype for t in written.values() if t.is_floating_point()} == {torch.float32}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.filterwarnings("ignore")  # diffusers' pipelines warn about themselves
def test_four_channels_are_written_as_eight_that_diffusers_runs(tmp_path):
    import diffusers

    write_start(tmp_path / "start", in_channels=4)
    start = load_start(small_config(tmp_path, model={"noise": "none"}))
    folder = write(tmp_path, start)
    assert start.model.unet.conv_in.in_channels == start.model.unet.config.in_channels == 4
    checkpoint = open_checkpoint(folder)
    assert checkpoint.unet["in_channels"] == 8
    rgb = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        ours = start.model(rgb * 2 - 1)
        torch.testing.assert_close(load_model(checkpoint)(rgb * 2 - 1), ours, atol=1e-5, rtol=0)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    assert type(pipeline).__name__ == "MarigoldDepthPipeline"
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 1, "processing_resolution": 0, "output_type": "pt"}
    theirs = pipeline(rgb, latents=torch.zeros(1, 4, 4, 6), **options)
    torch.testing.assert_close(theirs.prediction, ours, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "of_start",
    [{}, {"rescale_betas_zero_snr": True}, {"prediction_type": "epsilon"}],
    ids=lambda change: "".join(change) or "sd2",
)
def test_genpercepts_schedule_gives_minus_the_output_whatever_the_start_has(tmp_path, of_start):
    """In diffusers' own step, as GenPercept's pipeline takes it."""
    import diffusers

    write_start(tmp_path / "start", in_channels=4)
    (tmp_path / "start" / "e2e_deploy.json").unlink()
    (tmp_path / "start" / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionPipeline"}'
    )
    file = tmp_path / "start" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | of_start))
    model = {"noise": "none", "family": "genpercept"}
    folder = write(tmp_path, load_start(small_config(tmp_path, model=model)))
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(1)
    output, latent = torch.rand(2, 1, 4, 3, 5)
    found = scheduler.step(output, 1, latent).pred_original_sample
    torch.testing.assert_close(found, -output)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_broken_weights_are_not_written(tmp_path, value):
    start = load_start(small_config(tmp_path))
    write(tmp_path, start)
    with torch.no_grad():
        start.model.unet.conv_out.bias[2] = value
    with pytest.raises(E2EDeployError, match=r"unet\.conv_out\.bias of the trained model is NaN"):
        write(tmp_path, start, steps=9)
    assert card(tmp_path)["trained"]["steps"] == 3


def test_the_note_is_opened_with_the_model(tmp_path):
    start = load_start(small_config(tmp_path))
    write(tmp_path, start, note="inverted depth")
    assert open_checkpoint(tmp_path / "model").note == "inverted depth"


def test_a_failed_write_leaves_the_older_model(tmp_path, monkeypatch):
    start = load_start(small_config(tmp_path))
    write(tmp_path, start)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_folder, "_copy_other_parts", full)
    with pytest.raises(E2EDeployError, match="No space left on device; nothing was changed"):
        write(tmp_path, start, steps=9)
    assert card(tmp_path)["trained"]["steps"] == 3
    assert {p.name for p in tmp_path.iterdir()} == {"data", "model", "start"}


def test_a_full_disk_leaves_the_older_model(tmp_path, full_disk):
    start = load_start(small_config(tmp_path))
    write(tmp_path, start)
    with full_disk(10_000), pytest.raises(E2EDeployError, match="could not be written"):
        write(tmp_path, start, steps=9)
    assert open_checkpoint(tmp_path / "model").weights
    assert {p.name for p in tmp_path.iterdir()} == {"data", "model", "start"}


def test_a_model_replaces_a_model_and_nothing_else(tmp_path):
    start, notes = load_start(small_config(tmp_path)), []
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.tex").write_text("mine")
    for steps in (3, 9):
        write(tmp_path, start, on_note=notes.append, steps=steps)
    assert (tmp_path / "model-kept-1" / "thesis.tex").read_text() == "mine"
    (tmp_path / "model" / "unet" / "sub").mkdir()
    (tmp_path / "model" / "unet" / "sub" / "a").write_text("mine")
    write(tmp_path, start, on_note=notes.append)
    assert (tmp_path / "model-kept-2" / "unet" / "sub" / "a").read_text() == "mine"
    assert open_checkpoint(tmp_path / "model").identity.task == "depth"
    assert len(notes) == 2
    assert "model-kept-1 is what was in the way" in notes[0]
