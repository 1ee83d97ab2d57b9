"""A decoder that some pictures end with its process, as damaged ones may end a native library's."""

MARK = b"DEADLY"

_SITE = f"""
import os
from PIL import Image

open_picture = Image.open

def open_or_end(stream, *arguments, **settings):
    if stream.read().endswith({MARK!r}):
        os.abort()
    stream.seek(0)
    return open_picture(stream, *arguments, **settings)

Image.open = open_or_end
"""


def deadly_decoder(folder):
    """A folder that gives every Python process with it on PYTHONPATH this decoder."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITE)
    return folder


def make_deadly(picture, to):
    """Write a picture that ends it; other readers see nothing wrong."""
    to.parent.mkdir(exist_ok=True)
    to.write_bytes(picture.read_bytes() + MARK)
