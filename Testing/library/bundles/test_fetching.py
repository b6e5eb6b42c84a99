"""Fetching over the network, from a server on this machine: whole, checked, license accepted, or not at all."""

import errno
import hashlib
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from bundles import make_bundle

from VFMTransferLib.bundles import fetching as download
from VFMTransferLib.bundles.bundle import read_bundle
from VFMTransferLib.bundles.fetching import _as_sent, fetch_bundle, file_name, license_text
from VFMTransferLib.core.errors import DownloadError, OutputError


class Handler(BaseHTTPRequestHandler):
    """Serves one file, with ranges, in the ways that its server's `mode` states."""

    def do_GET(self):
        server = self.server
        server.requests.append(self.headers.get("Range"))
        server.paths.append(self.path)
        if server.mode == "missing":
            return self.send_error(404)
        if server.mode.startswith("redirect"):
            self.send_response(302)
            self.send_header("Location", server.mode.partition(" ")[2] or "http://example.org/model.zip")
            return self.end_headers()
        content = b"<!DOCTYPE html><title>Log in</title>" if server.mode == "portal" else server.content
        self.send_file(content)

    def send_file(self, content: bytes) -> None:
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if self.server.mode == "no-ranges":
            start = 0
        if start and start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) // 2 if self.server.mode == "breaks" else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, *_):
        """Keep the test's output clean."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "_WAIT_S", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.mode, server.content, server.requests, server.paths = "plain", b"", [], []
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
    return lambda: sorted(path.name for path in (tmp_path / "out").iterdir())


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
    with pytest.raises(DownloadError, match="license must be accepted"):
        fetch(accept_license=lambda text: shown.append(text))
    assert shown == ["Use it kindly."]
    assert left() == []


def test_a_broken_connection_goes_on_where_it_stopped(fetch, server, left):
    server.mode = "breaks"
    with pytest.raises(DownloadError, match=r"could not be fetched whole.*are kept and used next time"):
        fetch()
    assert [name for name in left() if not name.startswith(".fetch-")] == []
    server.mode, server.requests = "plain", []
    assert fetch().name == "their-network"
    assert server.requests == [f"bytes={len(server.content) // 2}-"]
    assert left() == ["net"]


def test_a_server_without_ranges_sends_the_whole_again(fetch, server):
    server.mode = "breaks"
    with pytest.raises(DownloadError):
        fetch()
    server.mode = "no-ranges"
    assert fetch().name == "their-network"


def test_a_file_that_was_whole_already_is_not_fetched_again(fetch, server, tmp_path):
    digest = hashlib.sha256(server.content).hexdigest()
    work = tmp_path / "out" / f".fetch-{digest[:16]}"
    work.mkdir(parents=True)
    (work / "net.zip.part").write_bytes(server.content)
    assert fetch().name == "their-network"
    assert server.requests == [f"bytes={len(server.content)}-"]


def test_another_checksum_is_refused_and_the_file_forgotten(fetch, server, tmp_path):
    with pytest.raises(DownloadError, match="must have sha256 000000000000…, but has"):
        fetch(sha256="0" * 64)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_log_in_page_is_called_one(fetch, server):
    server.mode = "portal"
    with pytest.raises(DownloadError, match="sends a web page"):
        fetch()


def test_a_missing_file_is_said_at_once(fetch, server, left):
    server.mode = "missing"
    with pytest.raises(DownloadError, match="answered 404"):
        fetch()
    assert len(server.requests) == 1
    assert left() == []


def test_a_redirect_away_from_https_is_refused(fetch, server):
    server.mode = "redirect"
    with pytest.raises(DownloadError, match=r"must begin with https://, got 'http://example\.org'"):
        fetch()


def test_no_server_is_a_sentence(fetch, server):
    with pytest.raises(DownloadError, match=r"could not be fetched whole: .*refused"):
        fetch(url="http://127.0.0.1:9/net.zip")


@pytest.mark.parametrize("url", ["http://example.org/a.zip", "ftp://example.org/a", "file:///etc/passwd", "a.zip"])
def test_only_https_is_fetched(fetch, url):
    with pytest.raises(DownloadError, match="must begin with https://"):
        fetch(url=url)


def test_this_machine_is_reached_by_http_only_where_that_is_allowed(fetch):
    with pytest.raises(DownloadError, match="must begin with https://"):
        fetch(allow_loopback=False)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://[::1/x.zip", "Invalid IPv6 URL"),
        ("https://example.org:abc/x.zip", "'abc'"),
        ("https://example.org:99999/x.zip", "out of range"),
        ("https://exam ple.org/x.zip", "its server has a space"),
        ("https://anna:secret@example.org/x.zip", "it names a user"),
        (f"https://{'ü' * 70}.org/x.zip", "label"),
    ],
)
def test_an_address_that_is_none_is_refused_before_anything_is_fetched(fetch, left, url, reason):
    with pytest.raises(DownloadError, match=rf"must be https://server/file, .* but is not \(.*{reason}") as refused:
        fetch(url=url)
    assert "secret" not in str(refused.value)


def test_umlauts_and_spaces_in_an_address_are_sent_as_escapes(fetch, server):
    fetch(url=f"http://127.0.0.1:{server.server_port}/größe 1/a%20b.zip?für=x y&sig=a%2Fb")
    assert server.paths == ["/gr%C3%B6%C3%9Fe%201/a%20b.zip?f%C3%BCr=x%20y&sig=a%2Fb"]


def test_a_servers_name_with_umlauts_is_sent_as_idna():
    assert _as_sent("https://bücher.example:8443/ä") == "https://xn--bcher-kva.example:8443/%C3%A4"


def test_a_redirect_to_an_address_that_is_none_is_tried_once(fetch, server):
    server.mode = "redirect https://[::1/x.zip"
    with pytest.raises(DownloadError, match="refers to an address that is none"):
        fetch()
    assert len(server.requests) == 1


@pytest.mark.parametrize("digest", ["", "12", "g" * 64])
def test_a_checksum_is_required(fetch, digest):
    with pytest.raises(DownloadError, match="64 hex digits"):
        fetch(sha256=digest)


def test_a_full_disk_is_said_before_anything_is_fetched(fetch, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(DownloadError, match=r"The disk must have .* free"):
        fetch()


def test_a_disk_that_fills_up_is_said(fetch, monkeypatch):
    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.shutil, "disk_usage", fill)
    with pytest.raises(DownloadError, match="is full"):
        fetch()


def test_a_folder_in_use_is_kept(fetch, tmp_path, left):
    (tmp_path / "out" / "net").mkdir(parents=True)
    (tmp_path / "out" / "net" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="must not exist yet"):
        fetch()
    assert left() == ["net"]


def test_the_proxy_of_the_environment_is_used(fetch, server, monkeypatch):
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="HTTPS_PROXY"):
        fetch()
    assert server.requests == []


def test_a_files_name_is_safe_and_keeps_the_sequence():
    assert file_name("https://host/a/T2_best.pth?download=true") == "T2_best.pth"
    assert file_name("https://host/..%2F..%2Fx.zip") == "x.zip"
    assert file_name("https://host/") == "download"


def test_where_a_file_states_no_license_the_text_states_that(tmp_path):
    file = tmp_path / "T2_best.pth"
    file.write_bytes(b"weights")
    assert "states no license" in license_text("https://host/T2_best.pth", file)
    assert "MIT" in license_text("https://huggingface.co/pimed/ProViCNet/resolve/main/T2_best.pth", file)
