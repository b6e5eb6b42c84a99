"""Fetching over the network, from a server on this machine: whole, checked, license accepted, or not at all."""

import hashlib
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from bundles import make_bundle

from VFMTransferLib.bundles.bundle import read_bundle
from VFMTransferLib.bundles.fetching import fetch_bundle, file_name, license_text
from VFMTransferLib.core.errors import DownloadError, OutputError


class Handler(BaseHTTPRequestHandler):
    """Serves one file in the way that its server's `mode` states."""

    def do_GET(self):
        if self.server.mode == "missing":
            return self.send_error(404)
        self.send_response(302 if self.server.mode == "redirect" else 200)
        self.send_header("Location", "http://example.org/model.zip")
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[: -10 if self.server.mode == "breaks" else None])

    def log_message(self, *_):
        """Keep the test's output clean."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.mode, server.content = "plain", b""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def fetch(server, tmp_path):
    """Fetches the server's zip of a bundle into `out/net`; options go to `fetch_bundle`."""
    source = make_bundle(tmp_path / "source", name="their-network")
    (source.folder / "LICENSE").write_text("Use it kindly.", encoding="utf-8")
    server.content = Path(shutil.make_archive(str(tmp_path / "net"), "zip", source.folder)).read_bytes()

    def fetch(**options):
        options = {
            "url": f"http://127.0.0.1:{server.server_port}/files/net.zip",
            "sha256": hashlib.sha256(server.content).hexdigest(),
            "folder": tmp_path / "out" / "net",
            "accept_license": lambda text: True,
            "allow_loopback": True,
            **options,
        }
        return fetch_bundle(options.pop("url"), options.pop("sha256"), options.pop("folder"), **options)

    return fetch


@pytest.fixture
def left(tmp_path):
    """What lies in the target's parent folder."""
    return lambda: sorted(path.name for path in (tmp_path / "out").glob("*"))


def test_a_bundle_is_fetched_checked_and_imported(fetch, left):
    stages = []
    bundle = fetch(on_progress=lambda stage, fraction: stages.append((stage, fraction)))
    assert bundle == read_bundle(bundle.folder)
    assert bundle.name == "their-network"
    assert ("download", 1.0) in stages
    assert stages[-1] == ("import", 1.0)
    assert left() == ["net"]


def test_the_license_is_shown_and_must_be_accepted(fetch, left):
    shown = []
    with pytest.raises(DownloadError, match="license"):
        fetch(accept_license=lambda text: shown.append(text))
    assert shown == ["Use it kindly."]
    assert left() == []


@pytest.mark.parametrize(("mode", "word"), [("missing", "404"), ("redirect", "https://"), ("breaks", "sha256|fetched")])
def test_what_does_not_come_whole_is_refused_and_forgotten(fetch, server, left, mode, word):
    server.mode = mode
    with pytest.raises(DownloadError, match=word):
        fetch()
    assert left() == []


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"sha256": "0" * 64}, "sha256"),
        ({"sha256": "12"}, "64 hex digits"),
        ({"url": "http://127.0.0.1:9/net.zip"}, "Check the network"),
        ({"allow_loopback": False}, "https://"),
        ({"url": "http://example.org/a.zip"}, "https://"),
        ({"url": "file:///etc/passwd"}, "https://"),
        ({"url": "https://[::1/x.zip"}, "https://"),
        ({"url": "https://anna:word@example.org/x.zip"}, "https://"),
    ],
)
def test_wrong_addresses_and_checksums_are_refused(fetch, left, options, word):
    with pytest.raises(DownloadError, match=word):
        fetch(**options)
    assert left() == []


def test_a_folder_in_use_is_kept(fetch, tmp_path, left):
    (tmp_path / "out" / "net").mkdir(parents=True)
    (tmp_path / "out" / "net" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError):
        fetch()
    assert left() == ["net"]


def test_a_files_name_is_safe_and_keeps_the_sequence():
    assert file_name("https://host/a/T2_best.pth?download=true") == "T2_best.pth"
    assert file_name("https://host/..%2F..%2Fx.zip") == "x.zip"
    assert file_name("https://host/") == "download"


def test_where_a_file_states_no_license_the_text_states_that(tmp_path):
    file = tmp_path / "T2_best.pth"
    file.write_bytes(b"weights")
    assert "states no license" in license_text("https://host/T2_best.pth", file)
    assert "MIT" in license_text("https://huggingface.co/pimed/ProViCNet/resolve/main/T2_best.pth", file)
