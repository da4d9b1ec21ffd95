"""A real browser for the tests of pages: the Chromium of the machine, nothing is downloaded."""

import os
import shutil
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")  # its event loop must not meet those of other modules
def browser():
    """Chromium without a window. `browser.new_page(viewport=..., color_scheme=...)` opens a page; it ends with the module."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium was found, so no page was opened; install one: apt-get install -y chromium")
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="a browser is driven by Playwright; uv sync installs it"
    )
    with sync_api.sync_playwright() as driver:
        # a container's shared memory is too small for the pages, and root has no sandbox
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield chromium
        chromium.close()


@pytest.fixture
def shot(request, tmp_path):
    """`shot(page, name)` keeps a picture of a page, in $EMULATE_SCREENSHOTS where that is set: to be looked at."""
    folder = Path(os.environ.get("EMULATE_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    def take(page, name: str, **options) -> Path:
        path = folder / f"{name}.png"
        page.screenshot(path=path, **options)
        return path

    return take
