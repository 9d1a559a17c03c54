"""The page in headless Chromium: what a person sees and can do with the keyboard alone."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conftest import until
from stentor.model.load import LoadedModel
from stentor.serve.page_files import page_files

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
    # settings of its own beyond what the form lets a person type
    odd = {"system": "Say.\r\nSay more.", "top_p": 0.01, "repetition_penalty": 0.9,
           "max_new_tokens": 600}  # fmt: skip
    running = launch(
        [
            first,
            replace(second, origin="other"),
            replace(tiny, origin="endless"),
            replace(second, origin="odd", generation=odd),
        ]
    )
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


def begin_endless(page: Any, *, by: str = "message") -> None:
    """A reply that runs until it is stopped, asked for by Enter in the field or on the button."""
    page.select_option("#model-a", "endless")
    page.click("#open-settings")
    page.fill("#max_tokens", "500")
    page.click("text=Done")
    page.fill("#message", "Hi")
    page.focus(f"#{by}")
    page.keyboard.press("Enter")
    page.wait_for_selector(".reply .said:not(:empty)")


def focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.id"))


def test_stop_keeps_what_was_said_and_frees_the_slot(page: Any, talking: Running) -> None:
    begin_endless(page)
    page.keyboard.press("Escape")
    page.wait_for_selector("text=stopped by you")
    assert said(page)[0] != "[no output]" and talking.settled()


def test_the_button_that_goes_away_hands_its_focus_on(page: Any) -> None:
    begin_endless(page, by="send")
    assert focused(page) == "stop"
    page.keyboard.press("Enter")
    page.wait_for_selector("#send:visible")
    assert focused(page) == "message"


def test_the_end_of_a_reply_leaves_the_focus_where_it_is(page: Any) -> None:
    begin_endless(page)
    page.focus("#export")
    page.keyboard.press("Escape")
    page.wait_for_selector("#send:visible")
    assert focused(page) == "export"


def test_escape_in_the_settings_closes_them_and_stops_nothing(page: Any) -> None:
    begin_endless(page)
    page.click("#open-settings")
    page.keyboard.press("Escape")
    page.wait_for_selector("#settings", state="hidden")
    before = said(page)
    page.wait_for_function("text => document.querySelector('.reply .said').textContent !== text",
                           arg=before[0])  # fmt: skip
    page.keyboard.press("Escape")
    page.wait_for_selector("text=stopped by you")


def test_a_new_conversation_is_begun_when_that_is_confirmed(page: Any) -> None:
    say(page, "Hi")
    asked: list[str] = []
    for answer, left in (("dismiss", ["It is."]), ("accept", [])):
        page.once("dialog", lambda box, do=answer: (asked.append(box.message), getattr(box, do)()))
        page.keyboard.press("Alt+n")
        assert said(page) == left
    page.click("#new")  # nothing is lost, so nothing is asked
    assert asked == ["Forget this conversation and begin a new one?"] * 2


def test_what_option_writes_on_a_mac_is_no_command(page: Any) -> None:
    page.add_init_script("Object.defineProperty(navigator, 'platform', {get: () => 'MacIntel'})")
    page.reload()
    page.wait_for_selector("#model-a option", state="attached")
    page.on("dialog", lambda box: box.accept())
    say(page, "Hi")
    for letter in "nse":
        page.keyboard.press(f"Alt+{letter}")
    assert said(page) == ["It is."] and not page.is_visible("#settings")
    assert page.inner_text("#notice") == ""
    assert "Alt" not in page.get_attribute("#new", "title")


def test_settings_are_those_of_the_model_until_changed(page: Any) -> None:
    page.keyboard.press("Alt+s")
    assert page.input_value("#system") == "Say." and page.input_value("#temperature") == "0"
    page.fill("#max_tokens", "2")
    page.keyboard.press("Escape")
    say(page, "The weather?")
    assert said(page) != ["Rain falls today"] and "cut at the limit" in page.inner_text(".facts")


def test_looking_at_the_settings_changes_none(page: Any) -> None:
    page.select_option("#model-a", "odd")
    kept = "sessionStorage.getItem('stentor.settings')"
    page.click("#open-settings")
    assert page.input_value("#max_tokens") == "600"
    page.click("text=Done")
    # a dialog tells that it was closed a little later
    assert until(lambda: page.evaluate(kept) is not None)
    assert json.loads(page.evaluate(kept)) == {}
    page.click("#open-settings")
    page.fill("#max_tokens", "9999")  # what is typed is held within the window
    page.click("text=Done")
    assert until(lambda: page.evaluate(kept) != "{}")
    assert json.loads(page.evaluate(kept)) == {"max_tokens": 512}


def test_two_models_answer_side_by_side(page: Any) -> None:
    page.focus("#tab-chat")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-compare", "aria-selected") == "true"
    say(page, "Hi")
    assert said(page) == ["It is.", "Who knows?"]
    left, right = (element.bounding_box() for element in page.query_selector_all(".reply"))
    assert left["x"] + left["width"] <= right["x"] and left["y"] == right["y"]
    heard = page.inner_text("#spoken").split("\n")
    assert sorted(filter(None, heard)) == ["other: Who knows?", "scripted: It is."]


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


def test_a_notice_is_put_where_a_screen_reader_listens_already(page: Any) -> None:
    shown = "getComputedStyle(document.getElementById('notice')).display"
    assert page.inner_text("#notice") == "" and page.evaluate(shown) != "none"
    page.click("#export")
    assert page.inner_text("#notice") == "There is nothing to export yet."


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


# --- without a browser ---------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Of `#rrggbb`, from 0 (black) to 1 (white), as WCAG 2 defines it."""
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.03928 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return sum(w * s for w, s in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_edges_of_fields_and_buttons_can_be_seen() -> None:
    """WCAG 2 asks for 3:1 against what lies on both sides."""
    style = page_files()["/style.css"][0].decode("utf-8")
    rule = style.partition("\nbutton, select, input, textarea {")[2].partition("}")[0]
    (name,) = re.findall(r"border: 1px solid var\((.*?)\)", rule)
    schemes = [dict(re.findall(r"(--\w+): (#\w{6})", block))
               for block in re.findall(r":root \{(.*?)\}", style, re.S)]  # fmt: skip
    assert len(schemes) == 2
    for colours in schemes:
        for beside in ("--back", "--paper"):
            low, high = sorted(luminance(colours[n]) for n in (name, beside))
            assert (high + 0.05) / (low + 0.05) >= 3, (name, beside)
