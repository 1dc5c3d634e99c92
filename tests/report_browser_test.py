#!/usr/bin/env python3
"""Opens report pages in headless Chromium: report_browser_test.py PATH_OF_report_pages.

Exits with 77 (skipped) where Chromium, its driver or Selenium is missing.
"""
import base64
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

try:
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
except ImportError:
    webdriver = None

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


def start_browser():
    options = Options()
    options.binary_location = CHROMIUM
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                 "--disable-dev-shm-usage", "--window-size=1400,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(service=Service(DRIVER), options=options)

# Leaves nothing on the page but the pictures that a selector finds, side by side, with the letters of a PNG file;
# returns where they are.
LEAVE_ALONE = """
    const stage = document.createElement("div");
    stage.style = "position: absolute; left: 0; top: 0; display: flex; background: white; font-family: 'DejaVu Sans';" +
      "text-rendering: geometricPrecision; font-kerning: none; font-variant-ligatures: none";
    for (const svg of document.querySelectorAll(arguments[0])) {
      svg.style = `flex: none; width: ${svg.width.baseVal.value}px; max-width: none; overflow: hidden`;
      for (const text of svg.querySelectorAll("text"))
        text.style = `font-size: ${0.94 * text.getAttribute("font-size")}px; font-weight: 400`;
      stage.append(svg);
    }
    document.body.replaceChildren(stage);
    const {x, y, width, height} = stage.getBoundingClientRect();
    return {x, y, width, height};
"""
# The largest difference between two PNGs in a colour's mean over a block, from 0 to 255. Where one is larger, what lies
# beyond the other does not count.
FARTHEST_BLOCK = """
    const [first, second, done] = arguments, side = 8;
    const load = async (png) => {
      const image = new Image();
      image.src = "data:image/png;base64," + png;
      await image.decode();
      const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
      canvas.width = image.width;
      canvas.height = image.height;
      pen.drawImage(image, 0, 0);
      return pen.getImageData(0, 0, image.width, image.height);
    };
    const mean = (image, left, top, colour) => {
      let sum = 0;
      for (let y = top; y < top + side; ++y)
        for (let x = left; x < left + side; ++x) sum += image.data[4 * (y * image.width + x) + colour];
      return sum / side ** 2;
    };
    Promise.all([load(first), load(second)]).then(([a, b]) => {
      let farthest = 0;
      for (let top = 0; top + side <= Math.min(a.height, b.height); top += side)
        for (let left = 0; left + side <= Math.min(a.width, b.width); left += side)
          for (const colour of [0, 1, 2])
            farthest = Math.max(farthest, Math.abs(mean(a, left, top, colour) - mean(b, left, top, colour)));
      done(farthest);
    });
"""


class ReportPages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        subprocess.run([PAGES, cls.folder.name], check=True)
        cls.browser = start_browser()

    @classmethod
    def tearDownClass(cls):
        cls.browser.quit()
        cls.folder.cleanup()

    def open(self, page, width=1400):
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                     {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False})
        self.browser.get((Path(self.folder.name) / page / "report.html").as_uri())

    def open_without_script(self, page):
        """As where scripts are switched off; this test's own run."""
        self.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        try:
            self.open(page)
        finally:
            self.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

    def emulate(self, media="", scheme="light"):
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "media": media, "features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def tearDown(self):
        self.emulate()
        self.assertEqual([entry["message"] for entry in self.browser.get_log("browser")], [])

    def run_js(self, script, *arguments):
        return self.browser.execute_script("return " + script, *arguments)

    def find(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def pixels(self, selector="canvas"):
        return self.run_js("arguments[0].toDataURL()", self.find(selector))

    def style(self, selector, name):
        return self.run_js("getComputedStyle(arguments[0])[arguments[1]]", self.find(selector), name)

    def settle(self):
        """Waits until what was asked for has been drawn."""
        self.browser.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()));")

    def test_nothing_is_loaded_from_elsewhere(self):
        for page in ("two", "three"):
            self.open(page)
            self.assertEqual(self.run_js("performance.getEntriesByType('resource')"
                                         ".map(e => e.name).filter(n => !n.startsWith('data:'))"), [])
            self.assertGreater(self.run_js("document.images.length"), 0)
            broken = self.run_js("[...document.images].filter(i => !i.complete || i.naturalWidth === 0).length")
            self.assertEqual(broken, 0)

    def test_curves_have_a_point_an_epoch(self):
        count = ("[...document.querySelectorAll('polyline.curve.' + arguments[0])]"
                 ".reduce((n, line) => n + line.points.numberOfItems, 0)")
        for page, points in (("two", 36), ("three", 150), ("twenty", 6000), ("one-epoch", 3)):
            self.open(page)
            for curve in ("test", "train"):
                self.assertEqual(self.run_js(count, curve), points, page)
            inside = self.run_js(
                "[...document.querySelectorAll('svg.panel')].every(svg => [...svg.querySelectorAll('polyline')]"
                ".every(line => { const a = line.getBoundingClientRect(), b = svg.getBoundingClientRect();"
                " return a.left >= b.left && a.right <= b.right && a.top >= b.top && a.bottom <= b.bottom; }))")
            self.assertTrue(inside, page)

    def test_png_files_show_what_the_page_shows(self):
        for page, selector, figure in (("two", "svg.panel", "curves"), ("two", ".scatter svg", "scatter"),
                                       ("two", ".side-by-side figure:not(.scatter) svg", "manifold"),
                                       ("three", ".turn svg", "scatter"), ("twenty", "#units ~ figure svg", "unit-kl"),
                                       ("odd", "svg.panel", "curves")):
            with self.subTest(page=page, figure=figure):
                self.open_without_script(page)
                png = (Path(self.folder.name) / page / "figures" / f"{figure}.png").read_bytes()
                place = self.browser.execute_script(LEAVE_ALONE, selector)
                seen = self.browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": dict(place, scale=2)})["data"]
                far = self.browser.execute_async_script(FARTHEST_BLOCK, seen, base64.b64encode(png).decode())
                self.assertLess(far, 30)  # two rasterisers differ by up to 20 at small letters

    def test_gaps_where_numbers_are_not_finite(self):
        self.open("odd")
        self.assertEqual(self.run_js("document.querySelectorAll('svg.panel')[0]"
                                     ".querySelectorAll('polyline.test').length"), 2)
        self.assertIn("<b>an unusually long name & one", self.find("h1").text)
        self.assertIn("</script><b>\"'&", self.find(".legend button").text)
        self.assertEqual(self.run_js("JSON.parse(document.getElementById('data').textContent).scatter.names[0]"),
                         "</script><b>\"'&")

    def test_cursor_reads_the_curves(self):
        for page, first, last in (("two", "Epoch 1,", "Epoch 12,"), ("three", "Epoch 1,", "Epoch 50,"),
                                  ("thinned", "Epoch 1,", "Epoch 100000,")):
            self.open(page)
            panel, readout = self.find("svg.panel"), self.find(".readout")
            hint = readout.text
            left = -panel.size["width"] // 2
            ActionChains(self.browser).move_to_element_with_offset(panel, left + 20, 0).perform()
            self.assertTrue(readout.text.startswith(first), readout.text)
            self.assertIn("ELBO \u2212", readout.text)
            ActionChains(self.browser).move_to_element_with_offset(panel, -left - 20, 0).perform()
            self.assertTrue(readout.text.startswith(last), readout.text)
            shown = "[...document.querySelectorAll('.cursor')].map(c => c.getBBox().height > 0 && c.style.display === '')"
            self.assertEqual(self.run_js(shown), [True] * 3)
            ActionChains(self.browser).move_to_element(self.find("h1")).perform()
            self.assertEqual(readout.text, hint)

    def test_scatter_turns(self):
        self.open("three")
        canvas = self.find("canvas")
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        self.settle()
        start = self.pixels()
        self.assertGreater(len(start), 5000)
        ActionChains(self.browser).click_and_hold(canvas).move_by_offset(120, 30).release().perform()
        self.settle()
        turned = self.pixels()
        self.assertNotEqual(turned, start)
        ActionChains(self.browser).move_by_offset(-60, 0).perform()  # no button is held any more
        self.settle()
        self.assertEqual(self.pixels(), turned)
        ActionChains(self.browser).double_click(canvas).perform()
        self.settle()
        self.assertEqual(self.pixels(), start)
        canvas.send_keys(Keys.ARROW_LEFT)
        self.settle()
        self.assertNotEqual(self.pixels(), start)
        canvas.send_keys(Keys.HOME)
        self.settle()
        self.assertEqual(self.pixels(), start)

    def test_scatter_turns_under_a_finger(self):
        self.open("three")
        canvas = self.find("canvas")
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        self.settle()
        start = self.pixels()
        box = self.run_js("arguments[0].getBoundingClientRect().toJSON()", canvas)
        x, y = box["left"] + box["width"] / 2, box["top"] + box["height"] / 2
        self.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
        touch = lambda kind, points: self.browser.execute_cdp_cmd(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        touch("touchStart", [{"x": x, "y": y}])
        for step in range(1, 6):
            touch("touchMove", [{"x": x + 10 * step, "y": y + 12 * step}])
        touch("touchEnd", [])
        self.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        self.settle()
        self.assertNotEqual(self.pixels(), start)

    def test_scatter_redraws_in_the_dark(self):
        self.open("three")
        start = self.pixels()
        self.emulate(scheme="dark")
        self.settle()
        dark = self.style("body", "backgroundColor")
        self.assertNotEqual(self.pixels(), start)
        self.emulate()
        self.settle()
        self.assertNotEqual(self.style("body", "backgroundColor"), dark)
        self.assertEqual(self.pixels(), start)

    def test_legend_hides_a_class(self):
        shown = "[...document.querySelectorAll('svg .mean.c3')].filter(m => m.getBBox().width > 0).length"
        self.open("two")
        button = self.find(".legend button[data-label='3']")
        self.assertEqual(self.run_js(shown), 20)
        button.click()
        self.assertEqual(self.run_js(shown), 0)
        self.assertEqual(button.get_attribute("aria-pressed"), "false")
        button.send_keys(Keys.SPACE)
        self.assertEqual(self.run_js(shown), 20)
        self.assertEqual(button.get_attribute("aria-pressed"), "true")

        self.open("three")
        self.settle()
        start = self.pixels()
        self.find(".legend button[data-label='3']").click()
        self.assertNotEqual(self.pixels(), start)
        self.find(".legend button[data-label='3']").click()
        self.assertEqual(self.pixels(), start)

    def test_details_open(self):
        self.open("two")
        for details, inner, open_at_first in (("details.epochs", "table", False), ("details.spec", "pre", True)):
            seen = lambda: self.run_js("document.querySelector(arguments[0]).checkVisibility()", f"{details} {inner}")
            self.assertEqual(seen(), open_at_first)
            self.find(f"{details} summary").click()
            self.assertEqual(seen(), not open_at_first)
        self.assertEqual(len(self.browser.find_elements(By.CSS_SELECTOR, "details.epochs tbody tr")), 12)

    def test_fits_its_window(self):
        for page in ("two", "three", "twenty", "one-epoch", "odd"):
            for width in (320, 400, 800, 1400, 2560):
                self.open(page, width)
                self.browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
                self.assertLessEqual(self.run_js("document.documentElement.scrollWidth"), width, f"{page} at {width}")

    def test_pictures_follow_the_dark_mode(self):
        self.open("two")
        inks = lambda: (self.style("polyline.test", "stroke"), self.style(".bar.active", "fill"),
                        self.style(".scatter text.c3", "stroke"))
        self.assertEqual(inks(), ("rgb(11, 99, 173)", "rgb(11, 99, 173)", "rgb(255, 255, 255)"))
        self.emulate(scheme="dark")
        self.assertEqual(inks(), ("rgb(98, 178, 245)", "rgb(98, 178, 245)", "rgb(21, 24, 27)"))

    def test_prints(self):
        self.open("two")
        self.emulate("print", "dark")  # paper is white whatever the screen is
        self.assertEqual(self.style("body", "backgroundColor"), "rgb(255, 255, 255)")
        self.assertEqual(self.style("polyline.test", "stroke"), "rgb(11, 99, 173)")
        self.assertEqual(self.style(".readout", "display"), "none")  # nothing can be pointed at
        self.assertEqual(self.style(".scroll", "maxHeight"), "none")  # a table that is open is printed whole
        pages = lambda: base64.b64decode(
            self.browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})["data"]).count(b"/Type /Page\n")
        short = pages()
        self.assertGreater(short, 1)
        self.open("twenty")
        self.find("details.epochs summary").click()
        self.assertGreater(pages(), short + 20)  # of 2000 epochs

    def test_reads_without_its_script(self):
        self.open_without_script("three")
        self.assertEqual(self.browser.find_elements(By.TAG_NAME, "canvas"), [])
        shown = "[...document.querySelectorAll('.turn svg .mean')].filter(m => m.checkVisibility()).length"
        self.assertEqual(self.run_js(shown), 200)
        self.assertEqual(len(self.browser.find_elements(By.CSS_SELECTOR, "svg.panel polyline.test")), 3)
        self.find("details.epochs summary").click()
        self.assertTrue(self.find("details.epochs table").is_displayed())


if __name__ == "__main__":
    missing = [name for name, found in (("chromium", CHROMIUM), ("chromium-driver", DRIVER),
                                        ("python3-selenium", webdriver)) if not found]
    if missing:
        print(f"skipped: {', '.join(missing)} not installed, so no page can be opened")
        sys.exit(77)
    PAGES = sys.argv.pop(1)
    unittest.main(verbosity=2)
