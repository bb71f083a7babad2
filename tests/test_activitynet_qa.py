"""benchmarks.activitynet_qa as a whole: killed and resumed, with an endpoint, with a judge."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from benchmarks.activitynet_qa import main
from benchmarks.qa.chat import ChatEndpoint, ChatError
from benchmarks.qa.journal import Journal

ROOT = Path(__file__).parent.parent


class Parrot:
    """A user's own answerer: repeats the question, slowly where asked to."""

    needs_video = False

    def __init__(self, options):
        self.seconds = float(os.environ.get("PARROT_SECONDS", "0"))

    def describe(self):
        return {"answerer": "parrot"}

    def answer(self, question, video):
        time.sleep(self.seconds)
        return question


@pytest.fixture
def annotations(tmp_path):
    folder = tmp_path / "annotations"
    folder.mkdir()
    for split in ("train", "val", "test"):
        questions = [{"question_id": f"v_{i}", "video_name": f"n{i % 4}", "question": f"q{i}"} for i in range(40)]
        answers = [{"question_id": f"v_{i}", "answer": f"q{i}" if i % 2 else "no", "type": i % 9} for i in range(40)]
        (folder / f"{split}_q.json").write_text(json.dumps(questions))
        (folder / f"{split}_a.json").write_text(json.dumps(answers))
    return folder


def arguments(annotations, out, *more):
    return ["--annotations", str(annotations), "--out", str(out), *more]


def test_a_killed_run_is_resumed(annotations, tmp_path):
    command = [sys.executable, "-m", "benchmarks.activitynet_qa"]
    command += arguments(annotations, tmp_path / "out", "--answerer", "test_activitynet_qa:Parrot")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PARROT_SECONDS": "0.05"}
    journal = tmp_path / "out" / "test-test_activitynet_qa-Parrot.jsonl"
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 5):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = journal.read_text().splitlines()
    assert len(before) < 40
    with journal.open("a") as file:
        file.write('{"id": "v_39", "ans')  # what a kill in the middle of a line leaves
    results = main(arguments(annotations, tmp_path / "out", "--answerer", "test_activitynet_qa:Parrot"))
    after = journal.read_text().splitlines()
    assert after[: len(before)] == before
    ids = [json.loads(line)["id"] for line in after[1:]]
    assert len(ids) == len(set(ids)) == 40
    assert results["exact"]["all"]["accuracy"] == 0.5
    assert results["unanswered"] == 0


def test_runs_are_not_mixed(tmp_path):
    with Journal(tmp_path / "a.jsonl", {"answerer": "one"}) as journal:
        journal.add("q", {"answer": "yes"})
        with pytest.raises(ValueError, match="already"):
            journal.add("q", {"answer": "no"})
    with pytest.raises(SystemExit, match="answerer was 'one'"):
        Journal(tmp_path / "a.jsonl", {"answerer": "two"})
    (tmp_path / "a.jsonl").write_text('{"answerer": "one"}\n{"id": \n{"id": "q"}\n')
    with pytest.raises(SystemExit, match="line 2 is damaged"):
        Journal(tmp_path / "a.jsonl", {"answerer": "one"})


@pytest.fixture
def endpoint():
    """An endpoint that fails once, then answers; it judges every second answer right."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(body)
            if self.path != "/v1/chat/completions" or body["model"] == "unknown":
                return self._send(404, {})
            if len(requests) == 1:
                return self._send(503, {})
            content = body["messages"][0]["content"]
            text = content if isinstance(content, str) else content[-1]["text"]
            reply = (
                "Q1." if not isinstance(content, str) else '{"pred": "yes", "score": 3}' if len(requests) % 2 else "hm"
            )
            self._send(200, {"choices": [{"message": {"content": reply}}], "asked": text})

        def _send(self, code, row):
            data = json.dumps(row).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", requests
    server.shutdown()
    thread.join()
    server.server_close()


def test_endpoint_and_judge(annotations, tmp_path, endpoint, clip_mp4, monkeypatch):
    url, requests = endpoint
    monkeypatch.setattr(ChatEndpoint, "__init__", _impatient(ChatEndpoint.__init__))
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("n1", "n3"):
        (folder / f"v_{name}.mp4").symlink_to(clip_mp4)
    more = ["--answerer", "openai", "--url", url, "--model", "m", "--videos", str(folder), "--limit", "8"]
    judged = ["--protocol", "video-chatgpt", "--judge", url, "--judge-model", "j"]
    results = main(arguments(annotations, tmp_path / "out", *more, *judged))
    assert results["missing_videos"] == ["n0", "n2"]
    assert results["unanswered"] == 4
    assert results["predictions"]["v_1"] == "Q1."  # a judge reads the whole reply
    assert results["exact"]["all"]["accuracy"] == 1 / 8
    assert results["judged"]["accuracy"]["all"]["accuracy"] > results["exact"]["all"]["accuracy"]
    assert results["judge"]["judge"] == "j"
    assert results["judge"]["protocol"] == results["protocol"] == "video-chatgpt"
    frames = [part for part in requests[1]["messages"][0]["content"] if part["type"] == "image_url"]
    assert frames[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    count = len(requests)
    main(arguments(annotations, tmp_path / "out", *more, *judged))
    assert len(requests) == count  # no question is asked twice, no answer judged twice


def test_judges_need_a_judged_protocol_and_a_key(annotations, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SystemExit, match="--judge needs a judged protocol: --protocol lmms-eval or video-chatgpt"):
        main(arguments(annotations, tmp_path, "--judge", "http://localhost/v1"))
    with pytest.raises(SystemExit, match="set OPENAI_API_KEY, or give --judge"):
        main(arguments(annotations, tmp_path, "--protocol", "lmms-eval"))


def _impatient(init):
    return lambda self, *args, **more: init(self, *args, **(more | {"first_wait_seconds": 0.0}))


def test_endpoint_that_refuses(endpoint):
    url, _ = endpoint
    ChatEndpoint(url, "m", first_wait_seconds=0.0).ask("hello", 4)
    with pytest.raises(ChatError, match="refuses: 404"):
        ChatEndpoint(url, "unknown").ask("hello", 4)
    with pytest.raises(ChatError, match="no answer in 4 attempts"):
        ChatEndpoint("http://127.0.0.1:9/v1", "m", first_wait_seconds=0.0).ask("hello", 4)


@pytest.mark.slow
def test_a_language_model_answers_about_a_real_video(tmp_path):
    """Ten questions of the val split about the one ActivityNet video among the natural ones, to an untrained model."""
    shared = ROOT.parent / "shared/data"
    if not shared.is_dir():
        pytest.skip("needs the annotations of ActivityNet-QA and one of its videos")
    import torch

    from videotok.lm.loading import new_tiny_model
    from videotok.lm.model import VideoSettings
    from videotok.pipeline import VideoTokenizer

    torch.manual_seed(0)
    new_tiny_model(VideoTokenizer.from_pretrained(), VideoSettings(), False, width=32, layers=1).save_pretrained(
        tmp_path / "lm"
    )
    more = ["--split", "val", "--answerer", "lm", "--model", str(tmp_path / "lm"), "--cache", str(tmp_path / "cache")]
    more += ["--videos", str(shared / "natural"), "--only-available"]
    results = main(arguments(shared / "activitynet_qa", tmp_path / "out", *more))
    assert results["exact"]["all"]["questions"] == len(results["predictions"]) == 10
    assert len(list((tmp_path / "cache").glob("*.vtok"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("split", "least"), [("test", 0.264), ("val", 0.304)])
def test_blind_and_text_on_the_real_annotations(tmp_path, split, least):
    """Question text alone reaches these; a small network that reads it does better."""
    folder = ROOT.parent / "shared/data/activitynet_qa"
    if not folder.is_dir():
        pytest.skip("needs the annotations of ActivityNet-QA")
    blind = main(arguments(folder, tmp_path, "--split", split))["exact"]["all"]["accuracy"]
    text = main(arguments(folder, tmp_path, "--split", split, "--answerer", "text"))["exact"]["all"]["accuracy"]
    assert least <= blind < text
