"""The viewer's page in Chromium, through chromedriver's HTTP protocol (W3C WebDriver)."""

import base64
import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time

import pytest

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.runtime.loop import run_source
from e2e_deploy.runtime.sinks.viewer import ViewerSink
from e2e_deploy.runtime.sources.pattern import PatternSource
from tests.plain_bundle import write_plain_bundle
from tests.sink_inputs import painter

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and CHROMEDRIVER), reason="chromium and chromedriver are not installed"
    ),
]

# The picture that is shown now, as a few grey values.
LOOK = """
const image = document.getElementById("view"), canvas = document.createElement("canvas");
canvas.width = 32; canvas.height = 12;
const context = canvas.getContext("2d");
context.drawImage(image, 0, 0, 32, 12);
return Array.from(context.getImageData(0, 0, 32, 12).data);
"""
EMPTY = 255 * 32 * 12  # what a canvas without a picture has at most: its opacity
TEXT = "return ['fps', 'engine', 'age', 'note', 'state'].map((id) => document.getElementById(id).textContent);"
CHOOSE = """
const select = document.getElementById("colormap");
select.value = "inferno";
select.dispatchEvent(new Event("change"));
"""


class Browser:
    """One headless Chromium."""

    def __init__(self, folder):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self._driver = subprocess.Popen(
            [CHROMEDRIVER, f"--port={self._port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._session = ""
        options = {
            "binary": CHROMIUM,
            "args": [
                *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
                *("--no-proxy-server", f"--user-data-dir={folder}", "--window-size=1000,600"),
            ],
        }
        capabilities = {"alwaysMatch": {"goog:chromeOptions": options}}
        try:
            until(self._listens)
            answer = self.ask("POST", "/session", {"capabilities": capabilities})
        except BaseException:
            self.close()
            raise
        self._session = f"/session/{answer['sessionId']}"

    def _listens(self):
        try:
            return self.ask("GET", "/status")["ready"]
        except ConnectionError:
            return False

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(method, self._session + path, json.dumps(body or {}))
            value = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        assert not (isinstance(value, dict) and "error" in value), value
        return value

    def run(self, script):
        return self.ask("POST", "/execute/sync", {"script": script, "args": []})

    def close(self):
        if self._session:
            self.ask("DELETE", "")
        self._driver.terminate()
        self._driver.wait()


@pytest.fixture
def browser(tmp_path):
    opened = Browser(tmp_path / "profile")
    yield opened
    opened.close()


def until(condition):
    for _ in range(150):
        if value := condition():
            return value
        time.sleep(0.1)
    return pytest.fail("it did not happen within 15 seconds")


def test_chromium_shows_moving_depth_and_changes_its_colours(browser, tmp_path):
    bundle = open_bundle(write_plain_bundle(tmp_path / "bundle"))
    paint = painter(bundle.manifest, True)
    sink = ViewerSink(0, bundle.manifest, paint)
    source = PatternSource(96, 128, fps=20)
    run = threading.Thread(
        target=run_source, args=(bundle, source, [sink]), kwargs={"on_frame": sink.look}
    )
    run.start()
    try:
        # A stream never ends, so the page never finishes loading.
        browser.ask("POST", "/timeouts", {"pageLoad": 300_000, "script": 30_000})
        browser.ask("POST", "/url", {"url": sink.url})
        before = until(lambda: sum(seen := browser.run(LOOK)) > EMPTY and seen)
        until(lambda: browser.run(LOOK) != before)  # it moves
        fps, engine, age, note, state = until(
            lambda: (text := browser.run(TEXT)) and text[0] != "-" and text[1] != "-" and text
        )
        assert float(fps) > 0
        assert len([float(part) for part in engine.split("/")]) == 3
        assert len([float(part) for part in age.split("/")]) == 2
        assert (note, state) == (bundle.manifest.checkpoint.note, "")
        browser.run(CHOOSE)
        until(lambda: paint.colormap == "inferno")
        if folder := os.environ.get("VIEWER_SCREENSHOT_DIR"):
            picture = base64.b64decode(browser.ask("GET", "/screenshot"))
            with open(os.path.join(folder, "viewer.png"), "wb") as file:
                file.write(picture)
    finally:
        source.stop()
        run.join(20)
    until(lambda: "ended" in browser.run(TEXT)[4])
