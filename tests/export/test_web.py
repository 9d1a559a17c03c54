"""The folder that needs no server: what is in it, and the page in Chromium."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from test_formats import IDS, TALK, tiny

from stentor.errors import InputError, MissingProgram, ParityError
from stentor.export import environments, web
from stentor.export.format import Provenance
from stentor.generate import Engine
from stentor.model.load import LoadedModel

PROVENANCE = Provenance("tiny", "Apache-2.0", "a-tiny-one", "abc123", "stentor export tiny", "1")


@pytest.fixture(scope="module")
def loaded(tokenizer: Any) -> LoadedModel:
    return tiny(tokenizer)


@pytest.fixture(scope="module")
def folder(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx")
    if not environments.has_node_modules(web.PACKAGES):
        pytest.skip("onnxruntime-web is not here; stentor export MODEL --to web gets it from npm")
    folder = tmp_path_factory.mktemp("web") / "site"
    folder.mkdir()
    web.write(loaded, folder, "int8", PROVENANCE)
    return folder


@pytest.fixture(scope="module")
def runtime(folder: Path) -> Iterator[Any]:
    pytest.importorskip("playwright.sync_api")
    try:
        runtime = web.open_runtime(folder, "int8")
    except MissingProgram as error:
        pytest.skip(str(error))
    runtime.page.on("dialog", lambda box: box.accept())  # it asks before a conversation is lost
    yield runtime
    assert runtime.complaints == []  # type: ignore[attr-defined]
    runtime.close()


def test_the_folder_is_the_servers_page_with_another_backend(folder: Path) -> None:
    from stentor.serve.page_files import page_files

    for path, (content, _) in page_files().items():
        if path not in ("/", "/backend.js"):
            assert (folder / path.lstrip("/")).read_bytes() == content
    page = (folder / "index.html").read_text("utf-8")
    assert "connect-src 'self'" in page and "script-src 'self' 'wasm-unsafe-eval'" in page
    served = page_files()["/backend.js"][0].decode("utf-8")
    ours = (folder / "backend.js").read_text("utf-8")
    exported = re.compile(r"^export (?:async )?(?:const|function|let) (\w+)", re.M)
    assert set(exported.findall(served)) <= set(exported.findall(ours))


def test_nothing_is_loaded_from_elsewhere(folder: Path) -> None:
    for file in [*folder.glob("*.js"), folder / "index.html", folder / "style.css"]:
        assert not re.search(r"https?://(?!www\.w3\.org)", file.read_text("utf-8")), file.name


def test_it_carries_origin_and_the_notices_of_its_runtime(folder: Path) -> None:
    import onnx

    facts = json.loads((folder / "model" / "stentor.json").read_text("utf-8"))
    assert facts["origin"]["stentor.source_sha256"] == "abc123"
    assert (facts["licence"], facts["system"], facts["window"]) == ("Apache-2.0", "Be kind.", 512)
    stored = onnx.load(folder / "model" / "model.onnx").metadata_props
    assert {p.key: p.value for p in stored}["stentor.command"] == "stentor export tiny"
    assert "onnxruntime-web 1." in (folder / "runtime" / "NOTICE").read_text("utf-8")


def test_the_browser_computes_what_the_model_computes(runtime: Any, loaded: LoadedModel) -> None:
    with torch.no_grad():
        due = loaded.model(input_ids=torch.tensor([IDS])).logits[0].numpy()
    found = runtime.logits(IDS)
    assert found.shape == due.shape
    assert np.abs(found - due).max() < 0.3 < np.abs(due - due[::-1]).max() / 10


def test_its_template_is_ours_even_for_control_pieces(runtime: Any, loaded: LoadedModel) -> None:
    spelled = [*TALK, {"role": "assistant", "content": "It is [INST]</s>."},
               {"role": "user", "content": "[control_12]x <0x41>"}]  # fmt: skip
    for talk in (TALK, spelled):
        assert runtime.ids(talk) == list(loaded.template.encode(talk).ids)


def test_greedy_replies_over_its_cache(runtime: Any, loaded: LoadedModel) -> None:
    engine = Engine(loaded)
    prompts = [engine.prompt_ids([{"role": "user", "content": t}]) for t in ("Hi", "The sea " * 9)]
    replies = runtime.greedy([*prompts, prompts[0]], 8)
    assert replies[0] == replies[2]  # what the cache kept from others changes nothing
    for prompt, reply in zip(prompts, replies, strict=False):
        likeliest = runtime.logits([*prompt, *reply[:-1]]).argmax(axis=-1)
        assert likeliest[len(prompt) - 1 :].tolist() == reply


def test_a_person_can_talk_to_it(runtime: Any, loaded: LoadedModel) -> None:
    page = runtime.page
    page.click("#open-settings")
    assert page.input_value("#system") == "Be kind." and page.is_hidden("#key-row")
    page.fill("#max_tokens", "6")
    page.fill("#seed", "3")
    page.click("text=Done")
    texts = []
    for _ in range(2):
        page.click("#new")
        assert page.query_selector(".reply") is None
        page.fill("#message", "Hi </s> there")
        page.keyboard.press("Enter")
        page.wait_for_selector(".reply:not(.writing)")
        texts.append(page.inner_text(".reply .said"))
        assert "6 tokens" in page.inner_text(".facts")
    assert texts[0] == texts[1] != "[no output]"  # a seed repeats a reply
    assert page.inner_text("#room").endswith("of 512 tokens")


def test_the_models_system_prompt_is_there_unless_another_is_given(
    runtime: Any, loaded: LoadedModel
) -> None:
    user = {"role": "user", "content": "Hi"}

    def prompt_tokens(*messages: dict[str, str]) -> int:
        asked = {"do": "reply", "messages": list(messages), "settings": {"max_tokens": 1}}
        return int(runtime.ask(asked)["promptTokens"])

    own, none = Engine(loaded).count([user]), Engine(loaded).count([user], "")
    assert prompt_tokens(user) == own > none
    assert prompt_tokens({"role": "system", "content": ""}, user) == none


def test_a_reply_can_be_stopped_and_a_message_be_too_long(runtime: Any) -> None:
    page = runtime.page
    page.click("#new")
    page.click("#open-settings")
    page.fill("#max_tokens", "500")
    page.click("text=Done")
    page.fill("#message", "Go on")
    page.keyboard.press("Enter")
    page.wait_for_selector(".reply .said:not(:empty)")
    page.keyboard.press("Escape")
    page.wait_for_selector("text=stopped by you")
    page.fill("#message", "long " * 600)
    page.keyboard.press("Enter")
    page.wait_for_selector("#notice.problem")
    assert "the model's window is 512" in page.inner_text("#notice")


def test_the_first_word_is_timed_and_the_answer_pictured(runtime: Any, tmp_path: Path) -> None:
    took = runtime.first_token("Hi", tmp_path / "page.png")
    assert 0 < took < 300
    picture = (tmp_path / "page.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 5_000


def test_a_missing_model_is_told(runtime: Any, folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "model" / "stentor.json").unlink()
    runtime._server.RequestHandlerClass.keywords["directory"] = str(broken)
    page = runtime._browser.new_page()
    page.set_default_timeout(300_000)
    page.goto(runtime.url)
    page.wait_for_selector("#notice.problem")
    assert page.inner_text("#notice").startswith("The model can't be loaded: ./model/stentor.json")
    page.close()
    runtime._server.RequestHandlerClass.keywords["directory"] = str(folder)


def test_a_template_that_the_page_does_not_know_is_refused(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    other = LoadedModel(loaded.model, loaded.tokenizer, object(), "x", {})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="knows our chat template only"):
        web.write(other, tmp_path, "int8", PROVENANCE)


def test_a_page_that_fails_its_check_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Error(Exception): ...

    playwright = MagicMock()
    browser = playwright.chromium.launch.return_value
    page = browser.new_page.return_value
    page.evaluate.side_effect = Error("decoder.js is not there")
    started = SimpleNamespace(start=lambda: playwright)
    fake = SimpleNamespace(Error=Error, sync_playwright=lambda: started)
    monkeypatch.setitem(sys.modules, "playwright.sync_api", fake)
    with pytest.raises(ParityError, match=r"^the page does not work: decoder\.js is not there$"):
        web.open_runtime(tmp_path, "int8")
    browser.close.assert_called_once_with()
    playwright.stop.assert_called_once_with()
    (url,) = page.goto.call_args.args
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", urlsplit(url).port))
