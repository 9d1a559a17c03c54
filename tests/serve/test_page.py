"""The page in headless Chromium: what a person sees and can do with the keyboard alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stentor.model.load import LoadedModel

if TYPE_CHECKING:
    from running_server import Running

pytest_plugins = ["running_server"]
pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def talking(scripted: Callable[..., LoadedModel], tiny: LoadedModel) -> Iterator[Running]:
    from running_server import launch

    settings = {"system": "Say.", "temperature": 0.0, "top_p": 1.0, "repetition_penalty": 1.0}
    first = scripted("It is.", weather="Rain falls today", quiet="", generation=settings)
    second = scripted("Who knows?", generation=settings)
    running = launch([first, replace(second, origin="other"), replace(tiny, origin="endless")])
    # so slow that a reply of 500 tokens can't be over before somebody stops it
    decoder = running.models[2].engine._backend
    forward = decoder.forward

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.02)
        return forward(*arguments)

    decoder.forward = slowly  # type: ignore[method-assign]
    yield running
    running.stop()


@pytest.fixture
def page(chromium: Any, talking: Running) -> Iterator[Any]:
    """The page, opened; a complaint of the browser (a script error, the policy) is a failure."""
    complaints: list[str] = []
    page = chromium.new_page(viewport={"width": 1000, "height": 700})
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(talking.url)
    page.wait_for_selector("#model-a option", state="attached")
    yield page
    page.close()
    assert complaints == []


def say(page: Any, text: str) -> None:
    page.fill("#message", text)
    page.keyboard.press("Enter")
    page.wait_for_selector("#send:visible")
    page.wait_for_selector(".reply.writing", state="detached")


def said(page: Any) -> list[str]:
    return [element.inner_text() for element in page.query_selector_all(".reply .said")]


def test_a_conversation_with_outcome_speed_and_silence(page: Any) -> None:
    say(page, "The weather?")
    say(page, "quiet now <b>please</b>")
    assert said(page) == ["Rain falls today", "[no output]"]
    page.wait_for_selector(".badge.silent")
    facts = [element.inner_text() for element in page.query_selector_all(".facts")]
    assert "answer" in facts[0] and "tokens/s" in facts[0] and "silent" in facts[1]
    assert page.query_selector_all(".user .said")[1].inner_text() == "quiet now <b>please</b>"
    assert page.inner_text("#spoken") == "no output"
    assert page.evaluate("document.activeElement.id") == "message"


def test_stop_keeps_what_was_said_and_frees_the_slot(page: Any, talking: Running) -> None:
    page.select_option("#model-a", "endless")
    page.click("#open-settings")
    page.fill("#max_tokens", "500")
    page.click("text=Done")
    page.fill("#message", "Hi")
    page.keyboard.press("Enter")
    page.wait_for_selector(".reply .said:not(:empty)")
    page.keyboard.press("Escape")
    page.wait_for_selector("text=stopped by you")
    assert said(page)[0] != "[no output]" and talking.settled()


def test_settings_are_those_of_the_model_until_changed(page: Any) -> None:
    page.keyboard.press("Alt+s")
    assert page.input_value("#system") == "Say." and page.input_value("#temperature") == "0"
    page.fill("#max_tokens", "2")
    page.keyboard.press("Escape")
    say(page, "The weather?")
    assert said(page) != ["Rain falls today"] and "cut at the limit" in page.inner_text(".facts")


def test_two_models_answer_side_by_side(page: Any) -> None:
    page.focus("#tab-chat")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-compare", "aria-selected") == "true"
    say(page, "Hi")
    assert said(page) == ["It is.", "Who knows?"]
    left, right = (element.bounding_box() for element in page.query_selector_all(".reply"))
    assert left["x"] + left["width"] <= right["x"] and left["y"] == right["y"]


def test_a_conversation_is_exported(page: Any, tmp_path: Path) -> None:
    say(page, "Hi")
    with page.expect_download() as download:
        page.click("#export")
    download.value.save_as(tmp_path / "talk.json")
    kept = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert kept["turns"][0]["user"] == "Hi" and kept["turns"][0]["replies"][0]["text"] == "It is."


@pytest.mark.parametrize("view", ["chat", "compare"])
def test_nothing_sticks_out_on_a_phone(page: Any, view: str) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    page.click(f"#tab-{view}")
    say(page, "What? " + "x" * 200)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    box = page.query_selector("#send").bounding_box()
    assert box["x"] + box["width"] <= 360 and box["y"] + box["height"] <= 640


def test_every_control_has_a_name(page: Any) -> None:
    page.click("#open-settings")
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, input, select, textarea')].filter(e =>
           !(e.labels?.length || e.textContent.trim() || e.ariaLabel)).map(e => e.id)"""
    )
    assert nameless == []
