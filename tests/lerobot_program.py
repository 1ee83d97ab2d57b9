"""What only lerobot itself can do: writes the data sets of tests/data/lerobot.tar.xz, and reads one as its users do.

    python lerobot_program.py write FOLDER               FOLDER/videos_set and FOLDER/images_set
    python lerobot_program.py read DATA_SET KEY OUT.npz  every frame's depth in metres, and its statistics

Run with an interpreter that has ``lerobot[dataset]``; the suite itself imports the pictures alone.
"""

import sys
from pathlib import Path

import numpy as np

HW, FPS, LENGTHS = (48, 64), 10, (5, 3, 4)
CAMERAS = ("observation.images.front", "observation.images.wrist")


def greys(camera, episode, index):
    """The greys of three flat quarters of a picture: they tell the camera, the episode and the frame."""
    return 60 + 90 * camera, 40 + 60 * episode, 40 + 30 * index


def picture(camera, episode, index):
    """The picture; its fourth quarter is a ramp."""
    height, width = HW[0] // 2, HW[1] // 2
    quarters = np.empty((2, 2, height, width), np.uint8)
    quarters[0, 0], quarters[0, 1], quarters[1, 0] = greys(camera, episode, index)
    quarters[1, 1] = np.linspace(30, 220, width).astype(np.uint8)
    grey = quarters.swapaxes(1, 2).reshape(HW)
    return np.repeat(grey[..., None], 3, axis=2)


def write(root, cameras, *, videos):
    """A data set of LENGTHS, by lerobot's own writer."""
    from lerobot.configs import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    pictures = {
        "dtype": "video" if videos else "image",
        "shape": (*HW, 3),
        "names": ["height", "width", "channels"],
    }
    numbers = {"dtype": "float32", "shape": (2,), "names": ["a", "b"]}
    data = LeRobotDataset.create(
        "local/tiny",
        FPS,
        {
            "observation.state": numbers,
            "action": numbers,
            **{key: dict(pictures) for key in cameras},
        },
        root=root,
        use_videos=videos,
        rgb_encoder=RGBEncoderConfig(vcodec="h264", crf=18, g=2, preset="medium"),
    )
    for episode, length in enumerate(LENGTHS):
        for index in range(length):
            frame = {key: picture(camera, episode, index) for camera, key in enumerate(cameras)}
            state = np.array([episode, index], np.float32)
            told = {"observation.state": state, "action": state, "task": f"task {episode % 2}"}
            data.add_frame(frame | told)
        data.save_episode(parallel_encoding=False)
    data.finalize()


def read(root, key, out):
    """All frames of a depth key as lerobot gives them, and what it says of them."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    data = LeRobotDataset("local/tiny", root=root, depth_output_unit="m")
    items = [data[index] for index in range(len(data))]
    np.savez(
        out,
        depth=np.stack([item[key].numpy() for item in items]),
        episode=[item["episode_index"].item() for item in items],
        frame=[item["frame_index"].item() for item in items],
        task=[item["task"] for item in items],
        depth_keys=data.meta.depth_keys,
        pictures=np.stack([item[CAMERAS[0]].numpy() for item in items]),
        **{f"stats/{name}": value for name, value in data.meta.stats[key].items()},
    )


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]) / "videos_set", CAMERAS, videos=True)
        write(Path(sys.argv[2]) / "images_set", CAMERAS[:1], videos=False)
    else:
        read(sys.argv[2], sys.argv[3], sys.argv[4])
