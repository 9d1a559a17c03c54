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
    page._complaints = complaints
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
    page.wait_for_selector(".badge")
    with page.expect_download() as download:
        page.click("#export")
    download.value.save_as(tmp_path / "talk.json")
    kept = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    (turn,) = kept["turns"]
    assert turn["user"] == "Hi" and turn["replies"][0]["text"] == "It is."
    assert turn["replies"][0]["verdict"]["outcome"] == "answer"
    roles = [(message["role"], message["content"]) for message in kept["messages"]]
    assert roles == [("system", "Say."), ("user", "Hi"), ("assistant", "It is.")]


def test_the_judges_reason_opens_by_the_keyboard(page: Any) -> None:
    say(page, "quiet now")
    page.focus(".badge")
    assert not page.is_visible(".why")
    page.keyboard.press("Enter")
    assert page.is_visible(".why") and page.get_attribute(".badge", "aria-expanded") == "true"


def test_each_of_two_models_keeps_its_own_settings(page: Any, talking: Running) -> None:
    asked: list[Any] = []
    page.on("request", lambda request: asked.append(request.post_data_json))
    page.click("#tab-compare")
    page.click("#open-settings")
    page.fill("#max_tokens", "9")
    page.click("text=Done")
    say(page, "Hi")
    bodies = [body for body in asked if body and "messages" in body]
    assert [body["model"] for body in bodies] == [model.name for model in talking.models[:2]]
    for body in bodies:
        assert body["max_tokens"] == 9 and "temperature" not in body
        assert body["messages"] == [{"role": "user", "content": "Hi"}]
    page.click("#open-settings")
    page.fill("#system", "")
    page.click("text=Done")
    say(page, "Hi")
    bodies = [body for body in asked if body and "messages" in body][2:]
    assert all(body["messages"][0] == {"role": "system", "content": ""} for body in bodies)


def test_a_message_that_can_not_fit_comes_back_with_its_size(page: Any) -> None:
    text = "word " * 600
    page.fill("#message", text)
    page.keyboard.press("Enter")
    page.wait_for_selector("#notice.problem")
    page.wait_for_selector("#send:visible")
    notice = page.inner_text("#notice")
    assert "tokens, but the model's window is 512" in notice
    assert page.input_value("#message") == text.strip() and said(page) == []
    page._complaints.clear()  # the browser reports the answer 400 too


def test_the_oldest_turns_go_with_a_notice(page: Any) -> None:
    for _ in range(3):
        say(page, "The weather? " + "word " * 180)
    assert "window of 512 tokens is full: the oldest turn was left out" in page.inner_text(
        "#notice"
    )
    assert "of 512 tokens" in page.inner_text("#room")


@pytest.mark.parametrize("view", ["chat", "compare"])
def test_nothing_sticks_out_on_a_phone(page: Any, view: str) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    page.click(f"#tab-{view}")
    say(page, "What? " + "x" * 200)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.wait_for_selector(".reply:last-child .badge >> nth=-1")
    lowest = page.query_selector_all(".badge")[-1].bounding_box()
    page.click("#open-settings")
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= 360
    for box in (lowest, *(page.query_selector(n).bounding_box() for n in ("#send", "menu .main"))):
        assert box["x"] + box["width"] <= 360 and 0 <= box["y"] <= 640 - box["height"]


def test_every_control_has_a_name(page: Any) -> None:
    page.click("#open-settings")
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, input, select, textarea')].filter(e =>
           !(e.labels?.length || e.textContent.trim() || e.ariaLabel)).map(e => e.id)"""
    )
    assert nameless == []
