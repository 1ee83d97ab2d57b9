"""Checkpoints with anything in them: they are read, or refused in one sentence; nothing else comes out."""

import json
import random
import shutil

import pytest

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model

CONFIGS = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
)
WEIGHTS = ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors")
VALUES = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 0.5, -0.5, 1e300, 1e-300, 2**31, 2**63 - 1, 10**19),
    *("", "1", "nan", "é", "\ud800", "\x1b[2J", "x" * 10_000, "DownBlock2D", "linear"),
    *(
        [],
        [0],
        [1, 2],
        ["1", None],
        [[]],
        [[1], [2, 3]],
        [1] * 1000,
        {},
        {"a": 1},
        {"a": {"b": []}},
    ),
)
TEXTS = ("", "null", "[]", '"a"', "{", "[" * 50_000, '{"a": 1e999}', '{"a": ' + "9" * 4000 + "}")


def changed_config(text: str, chance: random.Random) -> str:
    if chance.random() < 0.05:
        return chance.choice(TEXTS)
    config = json.loads(text)
    for key in chance.sample(sorted(config), min(len(config), chance.choice((1, 1, 2, 5)))):
        if isinstance(config[key], list) and config[key] and chance.random() < 0.5:
            config[key][chance.randrange(len(config[key]))] = chance.choice(VALUES)
        elif chance.random() < 0.9:
            config[key] = chance.choice(VALUES)
        else:
            del config[key]
    return json.dumps(config)


def changed_weights(data: bytes, chance: random.Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    if chance.random() < 0.5:
        header = json.loads(data[8 : 8 + length])
        entry = header[chance.choice(sorted(header))]
        entry[chance.choice(("dtype", "shape", "data_offsets", "x"))] = chance.choice(VALUES)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + length :]
    changed = bytearray(data[: chance.choice((len(data), len(data), chance.randrange(len(data))))])
    for _ in range(chance.choice((1, 3, 20))):
        if changed:
            changed[chance.randrange(min(len(changed), length + 8))] = chance.randrange(256)
    return bytes(changed)


def changed(name: str, data: bytes, chance: random.Random) -> bytes:
    if name in CONFIGS:
        return changed_config(data.decode(), chance).encode()
    return changed_weights(data, chance)


@pytest.fixture
def folder(small, tmp_path):
    return shutil.copytree(small, tmp_path / "checkpoint")


def outcome(folder, *, load: bool) -> str:
    try:
        checkpoint = open_checkpoint(folder)
        checkpoint.describe()
        checkpoint.sha256()
        if load:
            load_model(checkpoint)
    except E2EDeployError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("seed", range(2))
def test_anything_in_a_config_or_header_is_read_or_refused(folder, seed):
    chance = random.Random(seed)
    refused = 0
    for number in range(100):
        name = chance.choice(CONFIGS + WEIGHTS)
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(changed(name, before, chance))
        said = outcome(folder, load=number % 8 == 0)
        refused += bool(said)
        assert len(said) < 11_000  # a name of 10,000 characters is among the values
        (folder / name).write_bytes(before)
    assert refused > 30
    assert outcome(folder, load=True) == ""
