"""The page on which to look up facts, in a real browser."""

from __future__ import annotations

import shutil
from time import perf_counter

import numpy as np
import pandas as pd
import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By

from factlife.ledger.page import render_page

BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs Debian's packages chromium and chromium-driver")


def ledger(facts: int) -> pd.DataFrame:
    number = np.arange(facts)
    return pd.DataFrame(
        {
            "model": "m",
            "seed": 0,
            "fact_id": [f"p{n:04}.city" for n in number],
            "entity_id": [f"p{n:04}" for n in number],
            "subject": [f"Ann Number{n}" for n in number],
            "relation": np.where(number % 2, "birth_city", "employer"),
            "value": [f"Value{n % 7}" for n in number],
            "panel": number < 10,
            "exposures": number % 3 + 2,
            "step_learned": np.where(number % 5, number * 1.0, np.nan),
            "final_recall": 1.0,
            "edit_efficacy_memit": np.where(number < 10, 1.0, np.nan),
        }
    )


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The page with 1,200 facts, in a browser without a network."""
    path = tmp_path_factory.mktemp("page") / "figures/facts.html"
    path.parent.mkdir()
    key = "m seed 0 p0003.city"
    documents = {key: [["d7", "Ann Number3 was born in Value3 .", "biography"]]}
    traced = {key: [["d9", "Value3 is a town .", ["bm25"], False]]}
    text = render_page(ledger(1200), {key: [[0, 0.0], [9, 1.0]]}, documents, traced, {key: "graph.html"})
    path.write_text(text, encoding="utf-8")
    shutil.copy(path, path.parent.parent)
    options = ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1300,1000",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ):
        options.add_argument(argument)
    with Chrome(options, ChromeService(DRIVER)) as browser:
        browser.opened_in = min(seconds_to_open(browser, path.as_uri()) for _ in range(3))
        yield browser


def seconds_to_open(browser, address: str) -> float:
    start = perf_counter()
    browser.get(address)
    return perf_counter() - start


def texts(browser, where: str) -> list[str]:
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, where)]


def search(browser, text: str) -> None:
    field = browser.find_element(By.ID, "search")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(text or Keys.DELETE)


def test_page_opens_fast_and_without_errors(shown):
    assert shown.opened_in < 2
    assert [entry for entry in shown.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert texts(shown, "#count") == ["1,200 facts"]


def test_search_shows_a_fact_and_its_stages(shown):
    search(shown, "number3 employer")
    assert all("employer" in row for row in texts(shown, "tbody tr"))
    search(shown, "p0003")
    assert texts(shown, "#count") == ["1 fact"]
    shown.find_element(By.CSS_SELECTOR, "tbody tr").click()
    assert texts(shown, "#fact h2") == ["Ann Number3 · birth city · Value3"]
    assert texts(shown, "#strip h3") == ["Training data", "Recall", "Location", "Editing", "Influence", "Collapse"]
    assert texts(shown, "#strip .empty h3") == ["Location", "Influence", "Collapse"]
    assert "edit efficacy memit\n1" in texts(shown, "#strip section")[3]
    assert texts(shown, "#documents p") == ["Ann Number3 was born in Value3 . d7, biography"]
    assert texts(shown, "#top-documents p") == ["Value3 is a town . d9, bm25: does not state the fact"]
    assert shown.find_element(By.CSS_SELECTOR, "#fact a").get_attribute("href").endswith("/graph.html")
    search(shown, "")


def test_away_from_its_neighbours_the_page_has_no_link_to_them(shown):
    there = shown.current_url
    shown.get(there.replace("figures/", ""))
    search(shown, "p0003")
    shown.find_element(By.CSS_SELECTOR, "tbody tr").click()
    assert "attribution graph: see 4. Location" in shown.find_element(By.CSS_SELECTOR, "#fact .subtitle").text
    assert texts(shown, "#fact a") == []
    shown.get(there)


def test_facts_are_filtered_and_sorted_with_those_unlearned_last(shown):
    shown.find_element(By.ID, "panel").click()
    assert texts(shown, "#count") == ["10 facts"]
    shown.find_element(By.CSS_SELECTOR, "[data-column=step_learned]").click()
    assert texts(shown, "tbody td:nth-child(5)") == ["1", "2", "3", "4", "6", "7", "8", "9", "–", "–"]
    shown.find_element(By.CSS_SELECTOR, "[data-column=step_learned]").click()
    assert texts(shown, "tbody td:nth-child(5)") == ["9", "8", "7", "6", "4", "3", "2", "1", "–", "–"]
    shown.find_element(By.ID, "panel").click()
