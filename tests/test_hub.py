"""The Hugging Face Hub: weights uploaded to and loaded from a hub that runs in this process; cards and config.json."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import ModelCard

from videotok import VideoTokenizer
from videotok.bundle import SHIPPED, Bundle
from videotok.io_utils import read_json, write_json
from videotok.model_card import write_config

ROOT = Path(__file__).parent.parent
CARDS = sorted(SHIPPED.glob("*/README.md"))
PIPELINE_TAGS = {
    "image-feature-extraction",
    "feature-extraction",
    "image-to-video",
    "text-generation",
    "text-to-video",
    "video-text-to-text",
    "video-to-video",
}
"""Tasks of the hub that weights of this project may be listed under."""


class Hub:
    """What the hub knows: of each repository the files of each revision."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.cards: list[str] = []
        """Cards whose YAML the client asked to be validated."""

    def create(self, request: dict) -> dict:
        name = f"{request['organization']}/{request['name']}"
        self.repos[name] = {"main": {}}
        return {"url": f"https://huggingface.co/{name}", "private": request.get("private")}

    def commit(self, name: str, lines: list[dict]) -> dict:
        files = self.repos[name]["main"]
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return {"commitUrl": f"https://huggingface.co/{name}/commit/{'a' * 40}", "commitOid": "a" * 40}

    def files(self, name: str, revision: str) -> dict[str, bytes] | None:
        """Return the files of a revision, which may be named by its commit; None where there is none."""
        revisions = self.repos.get(name, {})
        return next((files for one, files in revisions.items() if revision in (one, commit_of(one))), None)

    def info(self, name: str, revision: str) -> dict | None:
        files = self.files(name, revision)
        if files is None:
            return None
        siblings = [{"rfilename": path} for path in sorted(files)]
        return {"_id": "1", "id": name, "modelId": name, "sha": commit_of(revision), "siblings": siblings}

    def tree(self, name: str, revision: str) -> list[dict] | None:
        files = self.files(name, revision)
        if files is None:
            return None
        sizes = {path: len(content) for path, content in files.items()}
        return [{"type": "file", "path": path, "size": size, "oid": path} for path, size in sizes.items()]


def commit_of(revision: str) -> str:
    return sha1(revision.encode()).hexdigest()


@contextmanager
def serve(hub: Hub) -> Iterator[str]:
    """Give the address of a hub that answers as long as the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/api/repos/create":
                self.answer(hub.create(json.loads(body)))
            elif self.path == "/api/validate-yaml":
                hub.cards.append(json.loads(body)["content"])
                self.answer({"errors": [], "warnings": []})
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", self.path):
                paths = [file["path"] for file in json.loads(body)["files"]]
                modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
                self.answer({"files": modes})
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
                self.answer(hub.commit(match[1], [json.loads(line) for line in body.splitlines()]))
            else:
                self.answer(None)

        def do_GET(self):
            if match := re.fullmatch(r"/api/models/([^/]+/[^/?]+)(?:/revision/([^?]+))?(?:\?.*)?", self.path):
                self.answer(hub.info(match[1], match[2] or "main"))
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^?]+)\?.*", self.path):
                self.answer(hub.tree(match[1], match[2]))
            elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
                self.answer_file(match[1], match[2], match[3])
            else:
                self.answer(None)

        do_HEAD = do_GET

        def answer_file(self, name: str, commit: str, path: str) -> None:
            content = (hub.files(name, commit) or {}).get(path)
            if content is None:
                self.answer(None)
                return
            self.send_response(200)
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{sha1(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def answer(self, value: dict | list | None) -> None:
            content = json.dumps(value or {"error": "Repository not found"}).encode()
            self.send_response(404 if value is None else 200)
            if value is None:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def run(code: str, address: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a process that knows this hub and has downloaded nothing before."""
    settings = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | settings, timeout=300)


def test_weights_go_to_the_hub_and_come_back(tiny_model, other_model, clip_mp4, tmp_path):
    hub = Hub()
    with serve(hub) as address:
        code = f"""if True:
            from videotok import VideoTokenizer
            print(VideoTokenizer.from_pretrained({str(tiny_model)!r}).push_to_hub("someone/tiny", private=True))"""
        pushed = run(code, address, tmp_path / "one")
        assert pushed.stdout == f"https://huggingface.co/someone/tiny/commit/{'a' * 40}\n", pushed.stderr
        files = hub.repos["someone/tiny"]["main"]
        assert {"README.md", "config.json", "keyframes/config.json", "motion/config.json"} <= set(files)
        # what was uploaded becomes the tag v1, and other weights come after it
        hub.repos["someone/tiny"] = {"v1": files, "main": _files(other_model)}
        code = f"""if True:
            from videotok import VideoTokenizer
            for revision in ("v1", None, "v2"):
                tokenizer = VideoTokenizer.from_pretrained("someone/tiny", revision=revision)
                tokens = tokenizer.encode({str(clip_mp4)!r})
                print(tokens.models["motion"].name, tokens.visual_ids.tolist(), tokens.motion_ids.sum())"""
        loaded = run(code, address, tmp_path / "two")
    wanted = [VideoTokenizer.from_pretrained(model).encode(clip_mp4) for model in (tiny_model, other_model)]
    lines = [f"someone/tiny {tokens.visual_ids.tolist()} {tokens.motion_ids.sum()}" for tokens in wanted]
    assert loaded.stdout.splitlines() == lines, loaded.stderr
    assert "cannot download someone/tiny" in loaded.stderr  # there is no v2
    assert (tmp_path / "two" / "hub").is_dir()
    assert {_metadata(card)["library_name"] for card in hub.cards} == {"videotok"}


def _files(model: Path) -> dict[str, bytes]:
    return {path.relative_to(model).as_posix(): path.read_bytes() for path in model.rglob("*") if path.is_file()}


def _metadata(text: str) -> dict:
    return ModelCard(text).data.to_dict()


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.parent.name)
def test_cards_have_the_form_of_the_hub(card):
    found = _metadata(card.read_text(encoding="utf-8"))
    assert (found["library_name"], found["license"]) == ("videotok", "apache-2.0")
    assert found["pipeline_tag"] in PIPELINE_TAGS
    assert found["tags"]


def test_the_card_and_config_of_a_folder(tmp_path):
    bundle = Bundle.find(None)
    bundle.save(tmp_path / "copy", "someone/videotok")
    card = (tmp_path / "copy" / "README.md").read_text(encoding="utf-8")
    assert _metadata(card)["pipeline_tag"] in PIPELINE_TAGS
    assert _metadata(card)["license"] == "apache-2.0"  # that of all its parts
    for target in re.findall(r"\]\(([^)]+)\)", card):
        assert (tmp_path / "copy" / target).is_file()
    config = read_json(tmp_path / "copy" / "config.json")
    assert config["parts"]["keyframes"]["codebook_size"] == 16384
    for part, facts in config["parts"].items():
        assert facts["sha256"] == bundle.identity(part).sha256
        assert facts["class"] in card


def test_what_others_wrote_is_left_alone(tiny_model, tmp_path):
    (tmp_path / "README.md").write_text("# Mine")
    write_json(tmp_path / "config.json", {"model_type": "llama"})
    bundle = Bundle.find(tiny_model)
    bundle.save(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# Mine"
    assert read_json(tmp_path / "config.json") == {"model_type": "llama"}
    (tmp_path / "config.json").unlink()
    write_config(tmp_path, bundle.facts())
    write_config(tmp_path, bundle.facts())  # one's own is renewed
    assert read_json(tmp_path / "config.json")["_class_name"] == "VideoTokenizer"


def test_weights_without_a_card_have_no_licence(tiny_model, tmp_path):
    Bundle.find(tiny_model).save(tmp_path / "copy")
    assert "license" not in _metadata((tmp_path / "copy" / "README.md").read_text())
