"""Pages of the project in headless Chromium, for the fixtures `browser` and `serve` of conftest.py."""
import contextlib
import shutil

import pytest


def start_browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("Chromium and its driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1000,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


class Page:
    """A page in a window of the browser."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.get_log("browser")  # of the page before
        browser.get(address)

    def wait(self, condition):
        from selenium.webdriver.support.ui import WebDriverWait
        WebDriverWait(self.browser, 60, 0.05).until(lambda _: condition())

    def run(self, code, *values):
        return self.browser.execute_script(code, *values)

    def click(self, selector):
        self.run("document.querySelector(arguments[0]).click()", selector)

    def text(self, number):
        return self.run("return document.getElementById(arguments[0]).textContent", number)

    def press(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains
        for key in keys:
            ActionChains(self.browser).send_keys(key).perform()

    def faults(self):
        return [row for row in self.browser.get_log("browser") if row["level"] == "SEVERE"]


@contextlib.contextmanager
def narrow_screen(browser, scheme):
    """A screen 380 pixels wide, of a person who prefers the scheme "light" or "dark"."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {
        "features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": 380, "height": 700, "deviceScaleFactor": 1, "mobile": False})
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
