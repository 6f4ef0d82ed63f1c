"""The web page without a browser: answers, limits, refusals, the queue."""
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from ovdense.web.engine import Engine, ModelChoice
from ovdense.web.examples import example_scenes
from ovdense.web.heat import box_heat
from ovdense.web.limits import Limits
from tests.ranks import PATIENCE
from tests.tiny_run import ROOT, write_config
from tests.web.server import get, post, serving

LIMITS = Limits(upload_mib=1.0, megapixels=2.0, classes=5, characters=120, waiting=1, images=3, answers=2, side=400)


@pytest.fixture(scope="module")
def site():
    torch.manual_seed(0)
    choices = [ModelChoice(name="mini", config="mini", about="label maps"), ModelChoice(name="boxes", config="desco_lvis_mini", weights="random")]
    engine = Engine(choices, limits=LIMITS, device="cpu")
    with serving(engine) as url:
        yield url, engine


def png(size_hw=(64, 96), seed=0) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size_hw, 3), dtype=np.uint8)).save(out, format="PNG")
    return out.getvalue()


def ask(url, content, texts, model="mini", **more):
    status, kept = post(url + "image", content)
    assert status == 200
    return post(url + "ask", {"image": kept["image"], "texts": texts, "model": model, **more})


def test_page__has_all_it_needs_and_nothing_from_elsewhere(site):
    url, _ = site
    for name in ("", "page.js", "page.css"):
        status, content = get(url + name)
        assert status == 200 and b"http" not in content.replace(b"http-equiv", b"")
    status, about = get(url + "about")
    assert [m["name"] for m in about["models"]] == ["mini", "boxes"] and len(about["examples"]) == len(example_scenes()) == 3
    status, example = get(url + about["examples"][1]["url"])
    assert status == 200 and Image.open(io.BytesIO(example)).size == (256, 256) and all(t.startswith("a ") for t in about["examples"][1]["texts"])
    assert get(url + "example/9.png")[0] == get(url + "engine.py")[0] == get(url + "heat/9/0.png")[0] == 404


def test_ask__label_maps_with_heat_and_the_second_question_reuses_features(site):
    url, _ = site
    status, first = ask(url, example_scenes()[0][0], ["a ring", "a star"])
    assert status == 200 and first["features"] == "computed" and first["seconds"]["image"] > 0
    assert [c["name"] for c in first["classes"]] == ["background", "a ring", "a star"] and first["kind"] == "label map"
    assert first["overlay"].startswith("data:image/jpeg;base64,") and all(c["colour"][0] == "#" for c in first["classes"])
    status, second = ask(url, example_scenes()[0][0], ["a moon", "not: a star"])
    assert second["features"] == "reused" and second["seconds"]["image"] == 0 and [c["name"] for c in second["classes"]] == ["background", "a moon"]
    heats = [get(f"{url}heat/{first['answer']}/{k}.png") for k in range(3)]
    assert all(s == 200 and Image.open(io.BytesIO(c)).size[0] >= 256 for s, c in heats) and len({c for _, c in heats}) == 3


def test_ask__a_sentence_says_which_phrase_is_where(site):
    url, engine = site
    assert [m["captions"] for m in get(url + "about")[1]["models"]] == [False, True]
    picture = example_scenes()[1][0]
    status, marked = ask(url, picture, [], "boxes", caption="[a ring] left of\n[the red star]", score_thr=0)
    assert status == 200 and [c["name"] for c in marked["classes"]] == ["a ring", "the red star"] and marked["boxes"]
    predictor = engine._models["boxes"]
    predictor.set_caption("a ring left of the red star", ["a ring", "the red star"])
    alone = predictor.predict(engine._images[next(reversed(engine._images))])
    assert marked["num_boxes"] == len(alone) and [b["class"] for b in marked["boxes"]] == alone.labels[:200].tolist()
    assert get(f"{url}heat/{marked['answer']}/1.png")[0] == 200
    status, found = ask(url, picture, [], "boxes", caption="a ring left of the red star", score_thr=0)  # its noun chunks
    assert status == 200 and [c["name"] for c in found["classes"]] == ["a ring", "the red star"]
    assert [c["name"] for c in ask(url, picture, ["a ring"], "boxes")[1]["classes"]] == ["a ring"]
    for said, words in (({"caption": "[a ring"}, "each that opens must close"), ({"caption": " "}, "type what to look for"), ({"caption": 7}, "a string"),
                        ({"caption": "a ring", "model": "mini"}, "does not read captions"), ({"caption": "x" * 121}, "characters at most"),
                        ({"caption": "a ring", "texts": ["a star"]}, "either texts")):  # fmt: skip
        status, refused = ask(url, picture, said.pop("texts", []), said.pop("model", "boxes"), **said)
        assert status == 422 and words in refused["error"], (said, refused)


def test_ask__boxes_obey_the_threshold_and_have_heat(site):
    url, _ = site
    _, all_boxes = ask(url, example_scenes()[1][0], ["a ring", "a star"], "boxes", score_thr=0)
    assert all_boxes["kind"] == "boxes" and len(all_boxes["boxes"]) == min(200, all_boxes["num_boxes"]) > 1
    middle = sorted(b["score"] for b in all_boxes["boxes"])[len(all_boxes["boxes"]) // 2]
    _, fewer = ask(url, example_scenes()[1][0], ["a ring", "a star"], "boxes", score_thr=middle)
    assert 0 < fewer["num_boxes"] < all_boxes["num_boxes"] and min(b["score"] for b in fewer["boxes"]) >= middle - 1e-3
    status, heat = get(f"{url}heat/{fewer['answer']}/1.png")
    assert status == 200 and Image.open(io.BytesIO(heat)).size[0] >= 256


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"texts": ["cat"], "image": "none"}, 404, "drop it again"),
        ({"texts": ["cat"], "model": "big"}, 404, "there are mini, boxes"),
        ({"texts": [" ", ""]}, 422, "what to look for"),
        ({"texts": [f"t{n}" for n in range(6)]}, 422, "at most 5 classes"),
        ({"texts": ["x" * 121]}, 422, "120 characters"),
        ({"texts": ["cat", "Cat"]}, 422, "unique"),
        ({"texts": ["not: cat"]}, 422, "something to look for"),
        ({"texts": ["cat"], "score_thr": 2}, 422, "0..1"),
        ({"texts": ["cat\ud800"]}, 422, "surrogate"),
        ({"texts": ["cat"], "score_thr": "x"}, 422, "0..1"),
        ({"texts": "cat"}, 422, "a list"),
        (b"not json", 422, "JSON object"),
        (b"[" * 60_000, 422, "JSON object"),
        (b'{"texts": [' + b"9" * 5_000 + b"]}", 422, "JSON object"),
        (b"[" * 70_000, 413, "bytes at most"),
    ],
)
def test_ask__bad_questions_are_refused_with_words(site, body, status, said):
    url, _ = site
    if isinstance(body, dict) and "image" not in body:
        body = {"image": post(url + "image", png())[1]["image"], **body}
    got, answer = post(url + "ask", body)
    assert got == status and said in answer["error"]


def bomb() -> bytes:
    out = io.BytesIO()
    Image.new("L", (2000, 1001)).save(out, format="PNG")  # few bytes, many pixels
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"", 415, "cannot be read"),
        (b"text", 415, "JPEG, PNG"),
        (png()[:200], 415, "cannot be read"),
        (bomb(), 413, "2 million pixels"),
        (b"\0" * (2**20 + 1), 413, "1 MiB"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "JPEG, PNG"),
    ],
)
def test_image__too_large_or_none_is_refused_with_words(site, content, status, said):
    url, _ = site
    got, answer = post(url + "image", content)
    assert got == status and said in answer["error"]


def test_image__large_ones_are_made_smaller_and_only_the_last_are_kept(site):
    url, engine = site
    kept = post(url + "image", png((100, 800)))[1]
    assert kept | {"image": ""} == {"image": "", "width": 800, "height": 100} and engine._images[kept["image"]].shape == (50, 400, 3)
    for seed in range(5):
        post(url + "image", png(seed=seed))
    assert len(engine._images) == len(engine._own_hw) == 3


def test_ask__boxes_of_a_large_picture_are_in_its_own_pixels(site):
    url, engine = site
    status, found = ask(url, png((300, 800)), ["a ring"], "boxes", score_thr=0)
    kept = engine._answers[found["answer"]]
    assert status == 200 and kept.image.shape == (150, 400, 3) and found["boxes"]
    np.testing.assert_allclose([b["box"] for b in found["boxes"]], 2 * kept.results.boxes_xyxy[:200].numpy(), atol=0.051)


def test_ask__what_is_wrong_with_a_model_is_refused_with_words(tmp_path, monkeypatch):
    """Data that a model needs and that are not there, a checkpoint of another model, a config without weights."""
    monkeypatch.setenv("OVDENSE_DATA", str(tmp_path))
    torch.save({"state_dict": {"other": torch.zeros(1)}}, tmp_path / "other.pth")
    choices = [ModelChoice(name="reco", config="reco_mini"), ModelChoice(name="ovdiff", config="ovdiff_voc_mini"),
               ModelChoice(name="other", config="desco_lvis_mini", weights=tmp_path / "other.pth"),
               ModelChoice(name="none", config="desco_lvis_mini")]  # fmt: skip
    with serving(Engine(choices, limits=LIMITS, device="cpu")) as url:
        for name, said in (("reco", "model.retrieval.archive=/FOLDER"), ("ovdiff", "model.support.archive=/FOLDER"), ("other", "other.pth"),
                           ("none", "Give the checkpoint")):  # fmt: skip
            status, refused = ask(url, png(), ["cat"], name)
            assert status == 422 and said in refused["error"], refused


def test_upload__that_never_ends_is_cut_off(site):
    url, _ = site
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"POST /image HTTP/1.1\r\nHost: localhost\r\nX-Ovdense: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n%s\r\n" % (65536, b"\0" * 65536)
        sent = 0
        try:
            while sent < 64 * 2**20:
                connection.sendall(chunk)
                sent += 65536
        except OSError:
            pass
    assert sent < 32 * 2**20


def test_requests__of_other_sites_are_refused(site):
    url, _ = site
    assert get(url, headers={"Host": "[::1]:7860"})[0] == get(url, headers={"Host": "localhost"})[0] == 200
    assert post(url + "image", png(), headers={})[0] == 403
    assert get(url, headers={"Host": "evil.example"})[0] == 400


def test_queue__is_limited_and_refuses_politely(site, monkeypatch):
    url, engine = site
    held, inside = threading.Event(), threading.Event()

    def slow(question):
        inside.set()
        held.wait(PATIENCE)
        return {"answer": question["texts"][0]}

    monkeypatch.setattr(engine, "ask", slow)
    said = []
    first = threading.Thread(target=lambda: said.append(post(url + "ask", {"texts": ["first"]})), daemon=True)
    first.start()
    assert inside.wait(PATIENCE)
    late = [threading.Thread(target=lambda: said.append(post(url + "ask", {"texts": ["late"]})), daemon=True) for _ in range(4)]
    for thread in late:  # one of them may wait, the others are refused
        thread.start()
    deadline = time.monotonic() + PATIENCE
    while len(said) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [status for status, _ in said] == [503] * 3 and all("in a moment" in answer["error"] for _, answer in said)
    held.set()
    for thread in (first, *late):
        thread.join(PATIENCE)
    assert {status for status, _ in said[3:]} == {200} and sorted(answer["answer"] for _, answer in said[3:]) == ["first", "late"]


def test_uploads__only_a_few_are_decoded_at_once(site, monkeypatch):
    from ovdense.web.server import DECODING

    url, engine = site
    go, more, lock, inside, most = threading.Event(), threading.Event(), threading.Lock(), [0], [0]

    def slow(content):
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            if inside[0] > DECODING:
                more.set()
        go.wait(120)
        with lock:
            inside[0] -= 1
        return {"image": "x"}

    monkeypatch.setattr(engine, "add_image", slow)
    said = []
    clients = [threading.Thread(target=lambda: said.append(post(url + "image", b"x")[0]), daemon=True) for _ in range(DECODING + 2)]
    for client in clients:
        client.start()
    more.wait(1.0)
    go.set()
    for client in clients:
        client.join(60)
    assert said == [200] * (DECODING + 2) and 0 < most[0] <= DECODING


def test_image__dropped_again_is_the_last_to_be_forgotten(site):
    url, engine = site
    first = post(url + "image", png((100, 800), seed=9))[1]
    for seed in (10, 11):
        post(url + "image", png(seed=seed))
    again = post(url + "image", png((100, 800), seed=9))[1]
    post(url + "image", png(seed=12))
    assert again == first and first["width"] == 800 and first["image"] in engine._images and len(engine._images) == LIMITS.images


def test_answers__cannot_be_guessed_and_hold_no_masks(site, monkeypatch):
    from dataclasses import replace

    from ovdense.api import OpenVocabPredictor

    url, engine = site
    found = ask(url, png(), ["sky"])[1]
    assert len(found["answer"]) >= 16 and ask(url, png(), ["sky"])[1]["answer"] != found["answer"]
    assert engine._answers[found["answer"]].results.label_map_HW is None and get(f"{url}heat/{found['answer']}/1.png")[0] == 200
    plain = OpenVocabPredictor.predict

    def with_masks(self, image, **how):
        results = plain(self, image, **how)
        return replace(results, masks_NHW=torch.ones(len(results), *results.size_hw, dtype=torch.bool))

    monkeypatch.setattr(OpenVocabPredictor, "predict", with_masks)
    masked = ask(url, png(), ["a ring"], "boxes", score_thr=0)[1]
    assert masked["masks"] and engine._answers[masked["answer"]].results.masks_NHW is None and get(f"{url}heat/{masked['answer']}/0.png")[0] == 200


def test_strip__does_not_fill_the_memory(site):
    url, _ = site
    status, found = ask(url, png((1, 4000)), ["sky"])
    assert status == 200 and len(found["overlay"]) < 2**22 and get(f"{url}heat/{found['answer']}/0.png")[0] == 200


def test_choices__one_model_with_several_weights(tmp_path):
    from ovdense.cli.demo import choices

    found = choices(["desco_lvis_mini=a.pth", "desco_lvis_mini=b.pth", "mini"])
    assert [(c.name, c.weights) for c in found] == [("desco_lvis_mini=a.pth", "a.pth"), ("desco_lvis_mini=b.pth", "b.pth"), ("mini", None)]
    with pytest.raises(ValueError, match="given once"):
        choices(["mini", "mini"])


def test_box_heat__is_the_largest_score_at_each_place():
    from ovdense.structures import Results

    found = Results(boxes_xyxy=torch.tensor([[0.0, 0, 50, 50], [25, 0, 75, 50], [-5, -5, 3, 3]]), scores=torch.tensor([0.9, 0.5, 0.2]),
                    labels=torch.tensor([0, 0, 1]), names=("a", "b", "c"), size_hw=(50, 100))  # fmt: skip
    heat = box_heat(found)
    assert heat.shape == (3, 48, 96) and heat[0, 10, 10] == pytest.approx(0.9) and heat[0, 10, 60] == pytest.approx(0.5)
    assert heat[0, 10, 90] == heat[2].max() == 0 and heat[1, 0, 0] == pytest.approx(0.2)


def test_command__serves_on_loopback_until_it_is_stopped(tmp_path):
    command = [sys.executable, "-m", "ovdense.cli", "demo", "--port", "0", "--max-upload-mib", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as server:
        line = server.stdout.readline()  # printed when the address is taken, so that nothing is asked too early
        url = line.split()[2]
        assert url.startswith("http://127.0.0.1:") and "(mini)" in line
        status, about = get(url + "/about")
        assert status == 200 and about["limits"]["upload_mib"] == 2 and about["models"][0]["about"].startswith("MaskCLIP")
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE) == 0


def test_command__says_what_cannot_be(capsys, tmp_path):
    from ovdense.cli import main

    with socket.create_server(("127.0.0.1", 0)) as taken:
        mine = str(write_config(tmp_path, "demo"))
        for argv, said in ((["--model", "desco_lvis_mini"], "=CHECKPOINT"), (["--model", mine], "=CHECKPOINT"),
                           (["--model", "minni"], "did you mean 'mini'"), (["--port", "70000"], "0..65535"),
                           (["--max-waiting", "-1"], "above 0"), (["--port", str(taken.getsockname()[1])], "cannot be listened on")):  # fmt: skip
            with pytest.raises(SystemExit) as exit_info:
                main(["demo", *argv])
            assert exit_info.value.code == 2 and said in capsys.readouterr().err


def test_limits_and_engine__say_what_must_be():
    for wrong in (0, float("nan")):
        with pytest.raises(ValueError, match="waiting"):
            Limits(waiting=wrong)
    with pytest.raises(ValueError, match="at least one model"):
        Engine([])
