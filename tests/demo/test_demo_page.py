"""The page in a real browser: draw, read the answer, enrol, draw again."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from PIL import Image, ImageOps
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.interaction import POINTER_TOUCH
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait
from strokes import DIGITS, Stroke, star
from test_demo_command import serving

from arcface_pl import Recognizer
from arcface_pl.cli import main

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver on the path"),
]


@pytest.fixture
def browser() -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in ("headless=new", "disable-background-networking", "disable-dev-shm-usage", "window-size=1100,900"):
        options.add_argument(f"--{flag}")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # as root, in a container, there is none
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(executable_path=str(DRIVER)))
    try:
        yield driver
        complaints = [entry["message"] for entry in driver.get_log("browser")]
        assert complaints == []
        events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
        requests = [each["params"]["request"] for each in events if each["method"] == "Network.requestWillBeSent"]
        asked = [urlsplit(request["url"]) for request in requests]
        assert {url.hostname for url in asked if url.scheme != "data"} == {"127.0.0.1"}
    finally:
        driver.quit()


def settled(browser: WebDriver) -> dict[str, str]:
    """What the page says, once it has answered all that was drawn."""
    script = """
        const [answer, label, spoken] = ["answer", "label", "spoken"].map((id) => document.getElementById(id));
        return document.querySelector("[aria-busy=true]") ? null : {
            state: answer.dataset.state, label: label.textContent, spoken: spoken.textContent};
    """
    return WebDriverWait(browser, 30, 0.05).until(lambda _: browser.execute_script(script))


def trace(browser: WebDriver, stroke: Stroke, kind: str = "mouse") -> None:
    """Move the pen along a stroke: put down at its first point, and lifted at its last."""
    paper = browser.find_element(By.ID, "paper")
    side = paper.size["width"]
    action = ActionBuilder(browser, mouse=PointerInput(kind, kind), duration=8)
    for number, (x, y) in enumerate(stroke):
        action.pointer_action.move_to(paper, round((x - 0.5) * side), round((y - 0.5) * side))
        if not number:
            action.pointer_action.pointer_down()
    action.pointer_action.pointer_up()
    action.perform()


def draw(browser: WebDriver, strokes: list[Stroke], kind: str = "mouse") -> dict[str, str]:
    for stroke in strokes:
        trace(browser, stroke, kind)
    return settled(browser)


def press(browser: WebDriver, name: str) -> dict[str, str]:
    browser.find_element(By.XPATH, f"//button[normalize-space()='{name}' or @aria-label='{name}']").click()
    return settled(browser)


def pixels(browser: WebDriver) -> str:
    return browser.execute_script("return document.getElementById('paper').toDataURL()")


def rows(browser: WebDriver, table: str) -> list[list[str]]:
    return [
        [cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, .number")]
        for row in browser.find_elements(By.CSS_SELECTOR, f"#{table} tbody tr")
    ]


def test_draw_enrol_and_draw_again(trained: Path, browser: WebDriver) -> None:
    with serving(trained, "--threshold", "0.5") as (_, address):
        browser.get(address)
        assert settled(browser)["label"] == "Nothing drawn yet"
        assert rows(browser, "classes") == [[label, ""] for label in "01234567"]
        zero = draw(browser, DIGITS["0"])
        assert (zero["state"], zero["label"]) == ("known", "0")
        assert "from the class center of 0" in zero["spoken"]
        angles = {label: float(angle.rstrip("\N{DEGREE SIGN}")) for label, angle in rows(browser, "classes")}
        assert list(angles) == list("01234567")
        assert min(angles, key=angles.__getitem__) == "0"
        assert f"{angles['0']:.1f}\N{DEGREE SIGN} from" in zero["spoken"]

        assert press(browser, "Undo")["state"] == "empty"
        before = draw(browser, star(0.03))
        assert before["label"] != "star"
        browser.find_element(By.ID, "name").send_keys("star")
        for shift in (-0.04, 0.0, 0.06):
            assert press(browser, "Clear")["state"] == "empty"
            draw(browser, star(shift))
            assert press(browser, "Add this drawing")["state"] == "empty"
        assert rows(browser, "enrolled") == [["star", "3 drawings"]]

        again = draw(browser, star(0.03), POINTER_TOUCH)
        assert (again["state"], again["label"]) == ("known", "star")
        assert "from the enrolled star" in again["spoken"]
        press(browser, "Clear")
        assert draw(browser, DIGITS["0"])["label"] == "0"

        press(browser, "Clear")
        press(browser, "Remove star")
        assert rows(browser, "enrolled") == []
        assert draw(browser, star(0.03)) == before


def test_undo_ends_the_stroke_that_is_being_drawn_and_leaves_the_others(trained: Path, browser: WebDriver) -> None:
    with serving(trained) as (_, address):
        browser.get(address)
        for strokes in ([], DIGITS["1"]):
            answer, drawn = draw(browser, strokes), pixels(browser)
            # In one chain: between two the driver lets go of the pointer
            pen = ActionChains(browser, 8).move_to_element_with_offset(browser.find_element(By.ID, "paper"), -90, -60)
            pen.click_and_hold().move_by_offset(30, 10).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL)
            pen.move_by_offset(40, 20).move_by_offset(80, 20).release().perform()
            assert settled(browser) == answer
            assert pixels(browser) == drawn


def test_what_is_drawn_while_a_name_is_added_is_kept(trained: Path, browser: WebDriver) -> None:
    late = """
        const [real, released] = [window.fetch, new Promise((done) => { window.release = done; })];
        window.fetch = async (path, options) => {
            const response = await real(path, options);
            if (path.startsWith("api/names")) await released;
            return response;
        };
    """
    with serving(trained) as (_, address):
        browser.get(address)
        draw(browser, DIGITS["4"][:1])
        browser.execute_script(late)
        browser.find_element(By.ID, "name").send_keys("half", Keys.ENTER)
        trace(browser, DIGITS["4"][1])
        drawn = pixels(browser)
        browser.execute_script("window.release()")
        assert settled(browser)["state"] != "empty"
        assert pixels(browser) == drawn
        assert browser.find_element(By.ID, "told").text.startswith("Added the first drawing of half.")


def test_a_picture_file_is_answered_as_by_predict(
    trained: Path, browser: WebDriver, digits: dict[int, torch.Tensor], tmp_path: Path
) -> None:
    recognizer = Recognizer.from_checkpoint(trained)
    with serving(trained) as (_, address):
        browser.get(address)
        for label in (1, 6):
            drawn = Image.fromarray(digits[label][0].numpy()).resize((84, 84), Image.Resampling.BICUBIC)
            file = tmp_path / f"{label}.png"
            ImageOps.expand(drawn, border=(30, 80), fill=255).save(file)
            browser.find_element(By.ID, "file").send_keys(str(file))
            answer = settled(browser)
            (expected,) = recognizer.classify(file)
            assert answer["label"] == ("unknown" if expected.unknown else expected.name)
            scores = recognizer.class_scores(file)[0].arccos().rad2deg().tolist()
            assert rows(browser, "classes") == [
                [name, f"{angle:.1f}\N{DEGREE SIGN}"] for name, angle in zip("01234567", scores, strict=True)
            ]
        (tmp_path / "notes.png").write_text("no picture")
        browser.find_element(By.ID, "file").send_keys(str(tmp_path / "notes.png"))
        answer = settled(browser)
        assert answer["state"] == "error"
        assert answer["label"].startswith("not an image")
        browser.get_log("browser")  # that the server said 400 is what was asked for


def test_it_fits_a_telephone_and_all_of_it_is_reached_by_the_keyboard(trained: Path, browser: WebDriver) -> None:
    telephone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", telephone)
    with serving(trained) as (_, address):
        browser.get(address)
        draw(browser, DIGITS["6"], POINTER_TOUCH)
        name = "<b>a name</b> as long as any that is accepted, of sixty char"
        browser.find_element(By.ID, "name").send_keys(name, Keys.ENTER)
        assert settled(browser)["state"] == "empty"
        width = "return document.documentElement.scrollWidth"
        assert browser.execute_script(width) == 360  # with "1 drawing", which is wider than an angle
        draw(browser, DIGITS["6"], POINTER_TOUCH)
        assert browser.find_element(By.CSS_SELECTOR, "#enrolled th span").get_attribute("textContent") == name
        assert browser.execute_script(width) == 360
        for table in ("classes", "enrolled"):  # bars are long enough to compare
            assert browser.find_element(By.CSS_SELECTOR, f"#{table} .track").size["width"] > 150
        browser.find_element(By.TAG_NAME, "h1").click()
        reached = []
        for _ in range(6):
            ActionChains(browser).send_keys(Keys.TAB).perform()
            reached.append(browser.switch_to.active_element.accessible_name)
        assert reached == ["Undo", "Clear", "Open a picture", "Name", "Add this drawing", f"Remove {name}"]
        ActionChains(browser).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
        assert settled(browser)["state"] == "empty"


@pytest.mark.parametrize(("width", "height"), [(700, 360), (768, 1024), (1280, 800)])
def test_the_answer_is_in_sight_while_one_draws(trained: Path, browser: WebDriver, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    with serving(trained) as (_, address):
        browser.get(address)
        settled(browser)
        paper = browser.find_element(By.ID, "paper").rect
        assert paper["height"] == paper["width"] < height
        top = browser.find_element(By.ID, "label").rect["y"]
        assert top < paper["y"] + height  # scrolled to the paper, the answer's first line shows


def test_every_digit_that_is_drawn_is_read(browser: WebDriver, tmp_path: Path) -> None:
    folder = Path(os.environ.get("ARCFACE_PL_DATA_DIR", "data")) / "MNIST" / "raw"
    if not folder.is_dir():
        pytest.skip("needs genuine MNIST in ARCFACE_PL_DATA_DIR")
    config = Path(__file__).parents[2] / "arcface_pl" / "configs" / "fast.yaml"
    flags = ["--config", str(config), "--data.dataset", "mnist", "--enable_progress_bar", "false"]
    main(["fit", *flags, "--trainer.logger", "false", "--default_root_dir", str(tmp_path)])
    # Its own threshold is measured anew on each machine, and what it calls unknown is not what is tested here
    with serving(next(tmp_path.rglob("last.ckpt")), "--threshold", "-1") as (_, address):
        browser.get(address)
        read = {}
        for digit, strokes in DIGITS.items():
            read[digit] = draw(browser, strokes)["label"]
            press(browser, "Clear")
    assert read == {digit: digit for digit in DIGITS}


def test_without_a_threshold_an_answer_is_shown_as_a_guess(trained: Path, tmp_path: Path, browser: WebDriver) -> None:
    content = torch.load(trained, weights_only=True)
    torch.save({**content, "calibration": None}, tmp_path / "guesses.ckpt")
    colors = {}
    for name, model in (("known", trained), ("guess", tmp_path / "guesses.ckpt")):
        words = ("--threshold", "-1") if name == "known" else ()
        with serving(model, *words) as (_, address):
            browser.get(address)
            settled(browser)
            for stroke in DIGITS["7"]:
                trace(browser, stroke)
            said = settled(browser)
            assert said["state"] == name
            assert said["label"].endswith("?") is (name == "guess")
            assert ("A guess: " in said["spoken"]) is (name == "guess")
            color = "return getComputedStyle(document.querySelector(arguments[0])).color"
            colors[name] = [browser.execute_script(color, place) for place in ("#label", ".best th", ".best .number")]
            text = browser.execute_script(color, "body")
            green = browser.execute_script("return getComputedStyle(document.body).getPropertyValue('--good')")
            browser.save_screenshot(str(tmp_path / f"{name}.png"))
    assert set(colors["guess"]) == {text}
    assert green
    assert text not in colors["known"]
