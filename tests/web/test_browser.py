"""The web page in headless Chromium: drop a picture, type, see the overlay. Without a browser this fails: it says how to install one."""
import shutil

import pytest

from ovdense.web.engine import Engine, ModelChoice
from tests.ranks import PATIENCE
from tests.web.server import serving

SIZE = (1280, 900)
DROP = """
const done = arguments[arguments.length - 1];
fetch(arguments[0]).then(r => r.blob()).then(blob => {
  const carried = new DataTransfer();
  carried.items.add(new File([blob], arguments[1], {type: "image/png"}));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: carried, bubbles: true, cancelable: true}));
  done();
});"""
DIFFERENCE = """
const done = arguments[arguments.length - 1], shown = document.getElementById("picture"), plain = new Image();
plain.onload = () => {
  const pixels = [plain, shown].map(image => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 64;
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0, image.naturalWidth, image.naturalWidth, 0, 0, 64, 64);
    return context.getImageData(0, 0, 64, 64).data;
  });
  done(pixels[0].reduce((sum, value, n) => sum + Math.abs(value - pixels[1][n]), 0) / pixels[0].length);
};
plain.src = arguments[0];"""


@pytest.fixture(scope="module")
def site():
    choices = [ModelChoice(name="boxes", config="desco_lvis_mini", weights="random"), ModelChoice(name="mini", config="mini", about="label maps")]
    with serving(Engine(choices, device="cpu")) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    program, driver = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.fail("the browser test needs chromium and chromedriver: apt-get install chromium chromium-driver", pytrace=False)
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", f"--window-size={SIZE[0]},{SIZE[1]}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(service=Service(driver), options=options)
    opened.set_page_load_timeout(PATIENCE)
    opened.set_script_timeout(PATIENCE)
    yield opened
    opened.quit()


def element(browser, name):
    return browser.find_element("id", name)


def wait(browser, until, seconds=PATIENCE):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds, poll_frequency=0.1).until(until)


def asked(browser, seconds=PATIENCE) -> dict[str, str]:
    """Ask, wait for the answer, and return the rows of its times."""
    before = element(browser, "picture").get_attribute("data-answer")
    element(browser, "ask").click()
    wait(browser, lambda b: element(b, "picture").get_attribute("data-answer") != before and element(b, "ask").is_enabled(), seconds)
    return {cells[0].text: " ".join(c.text for c in cells[1:]) for row in element(browser, "times").find_elements("tag name", "tr")
            if (cells := row.find_elements("tag name", "td"))}  # fmt: skip


def everything(browser) -> None:
    """Show boxes of all scores: the model's weights are random."""
    threshold = element(browser, "thr")
    threshold.clear()
    threshold.send_keys("0")


def test_drop_type_see__and_the_second_question_reuses_the_features(site, browser):
    browser.get(site)
    wait(browser, lambda b: element(b, "examples").find_elements("tag name", "img"))
    assert not element(browser, "ask").is_enabled()
    browser.execute_async_script(DROP, "example/0.png", "scene.png")
    wait(browser, lambda b: element(b, "ask").is_enabled())
    assert "scene.png: 256 x 256" in element(browser, "drop-text").text
    assert browser.execute_async_script(DIFFERENCE, "example/0.png") < 1  # the picture itself
    element(browser, "texts").send_keys("a ring\na star")
    everything(browser)
    first = asked(browser)
    assert first["image features"].endswith("computed")
    assert browser.execute_async_script(DIFFERENCE, "example/0.png") > 3  # the overlay
    classes = element(browser, "classes").find_elements("tag name", "button")
    assert [c.text.split("\n")[0] for c in classes] == ["a ring", "a star"]
    assert element(browser, "boxes").find_elements("css selector", "tbody tr") and "found" in element(browser, "status").text

    element(browser, "texts").send_keys("\nnot: a moon")
    second = asked(browser)
    assert second["image features"] == "0.000 s reused"

    element(browser, "texts").clear()
    element(browser, "texts").send_keys("[a ring] left of [a green star]")
    element(browser, "sentence").click()
    asked(browser)
    assert [c.text.split("\n")[0] for c in element(browser, "classes").find_elements("tag name", "button")] == ["a ring", "a green star"]

    overlay = element(browser, "picture").get_attribute("src")
    button = element(browser, "classes").find_elements("tag name", "button")[1]
    button.click()
    wait(browser, lambda b: "heat/" in element(b, "picture").get_attribute("src"))
    wait(browser, lambda b: b.execute_script("return arguments[0].complete", element(b, "picture")))
    assert browser.execute_script("return arguments[0].naturalWidth", element(browser, "picture")) >= 256
    button.click()
    assert element(browser, "picture").get_attribute("src") == overlay
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


def test_another_method_and_words_for_what_is_wrong(site, browser):
    from selenium.webdriver.support.ui import Select

    browser.get(site)
    wait(browser, lambda b: element(b, "examples").find_elements("tag name", "img"))
    element(browser, "examples").find_elements("tag name", "img")[1].click()  # an example brings its texts and is asked at once
    wait(browser, lambda b: element(b, "picture").get_attribute("data-answer") and element(b, "ask").is_enabled())
    before = element(browser, "picture").get_attribute("data-answer")
    Select(element(browser, "model")).select_by_visible_text("mini")
    assert element(browser, "about").text == "label maps" and not element(browser, "sentence").is_displayed()  # it reads no sentences
    wait(browser, lambda b: element(b, "picture").get_attribute("data-answer") != before and element(b, "ask").is_enabled())
    assert "background" in element(browser, "classes").text and not element(browser, "boxes").is_displayed()
    element(browser, "texts").clear()
    element(browser, "texts").send_keys("not: a ring")
    element(browser, "ask").click()
    wait(browser, lambda b: "something to look for" in element(b, "status").text)
    assert element(browser, "status").get_attribute("class") == "error"


HOLD_FIRST = """
const plain = window.fetch;
window.fetch = (url, how) => {
  if (url !== "image" || window.letGo) return plain(url, how);
  const later = new Promise(go => { window.letGo = go; }).then(() => plain(url, how));
  later.then(() => setTimeout(() => { window.came = true; }, 300));
  return later;
};"""


def test_drop_two__the_last_one_counts_whichever_is_sent_first(site, browser):
    browser.get(site)
    wait(browser, lambda b: element(b, "examples").find_elements("tag name", "img"))
    browser.execute_script(HOLD_FIRST)
    browser.execute_async_script(DROP, "example/0.png", "slow.png")
    wait(browser, lambda b: b.execute_script("return Boolean(window.letGo)"))
    browser.execute_async_script(DROP, "example/1.png", "quick.png")
    wait(browser, lambda b: "quick.png" in element(b, "drop-text").text)
    browser.execute_script("window.letGo()")
    wait(browser, lambda b: b.execute_script("return Boolean(window.came)"))
    assert "quick.png" in element(browser, "drop-text").text and browser.execute_async_script(DIFFERENCE, "example/1.png") < 1
