"""Run a bundle: backends, sources, sinks, timing.

    import e2e_deploy as e2e

    with e2e.load("my-bundle") as engine:
        depth = engine(frame)  # uint8 RGB [H, W, 3] in, float32 [H, W] out

Nothing is imported here: a robot that starts waits for what its engine needs, and for no reader of pictures.
"""
