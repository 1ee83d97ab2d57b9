"""A subscriber of Zenoh, as a program: every message it gets becomes a file, named by its key and a number.

python zenoh_subscriber.py listen|connect ENDPOINT FOLDER
"""

import itertools
import json
import os
import sys
from pathlib import Path

import zenoh


def main(how, endpoint, folder):
    config = zenoh.Config()
    for key, value in {
        "mode": "peer",
        "scouting/multicast/enabled": False,
        "listen/endpoints": [endpoint] if how == "listen" else [],
        "connect/endpoints": [endpoint] if how == "connect" else [],
    }.items():
        config.insert_json5(key, json.dumps(value))
    numbers = itertools.count()

    def keep(sample):
        name = f"{next(numbers):04d} {sample.key_expr} {sample.encoding}".replace("/", "~")
        partial = Path(folder) / f".{name}"
        partial.write_bytes(sample.payload.to_bytes())
        os.replace(partial, Path(folder) / name)

    with zenoh.open(config) as session:
        session.declare_subscriber("robot/left/e2e_deploy/*", keep)
        zenoh.ext.declare_advanced_subscriber(
            session,
            "robot/left/e2e_deploy/metadata",
            keep,
            history=zenoh.ext.HistoryConfig(detect_late_publishers=True),
        )
        print("ready", flush=True)
        sys.stdin.read()  # until the test is done


if __name__ == "__main__":
    main(*sys.argv[1:])
