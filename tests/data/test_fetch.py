"""Downloads against a server of our own: resuming, changed files, digests, no network."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from atelier.cli import main as command_line
from atelier.data.fetch import KNOWN, address_of, fetch, file_name, parse_digest
from atelier.errors import UserError

CONTENT = bytes(range(256)) * 12000  # 3 MB


class Server(ThreadingHTTPServer):
    """Serves ``content``; can cut connections, forget ranges, answer with a code or a page."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.tag = CONTENT, '"one"'
        self.cuts: list[int] = []
        self.codes: list[int] = []
        self.ranges = True
        self.kind = "application/zip"
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/sets/a%20set.zip"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that hung up: its trace would land in whatever test captures stderr then."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if server.codes:
            self.send_error(server.codes.pop(0))
            return
        start = 0
        if asked and server.ranges and self.headers.get("If-Range") == server.tag:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])  # type: ignore[index]
        self.send_response(206 if start else 200)
        total = len(server.content)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("Content-Length", str(total - start))
        self.send_header("Content-Type", server.kind)
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        stop = server.cuts.pop(0) if server.cuts else total
        self.wfile.write(server.content[start : max(start, stop)])

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(server, folder, **given):
    return fetch(server.url, folder, pause_s=0.0, quiet=True, **given)


def test_a_plain_download(server, tmp_path):
    done = get(server, tmp_path / "in")
    assert done.path == tmp_path / "in" / "a set.zip" and done.path.read_bytes() == CONTENT
    assert done.state == "downloaded" and done.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert "not compared: none was given" in done.lines()[0]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a set.zip"]
    assert get(server, tmp_path / "in").state == "there already" and len(server.asked) == 1


def test_a_broken_connection_continues_where_it_broke(server, tmp_path):
    server.cuts = [1_000_000, 2_500_000]
    done = get(server, tmp_path)
    assert done.path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-", "bytes=2500000-"]


def test_a_stopped_command_continues_when_run_again(server, tmp_path):
    server.cuts = [1_000_000]
    with pytest.raises(
        UserError, match=r"1000000 of 3072000 bytes.*1\.0 MB are kept .*run the command again"
    ):
        server.codes = []
        fetch(server.url, tmp_path, attempts=0, pause_s=0.0, quiet=True)
    assert not (tmp_path / "a set.zip").exists() and (tmp_path / "a set.zip.part").stat().st_size == 1_000_000
    done = get(server, tmp_path)
    assert done.state == "continued" and done.path.read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=1000000-"


@pytest.mark.parametrize("change", ["content", "no ranges", "no tag"])
def test_pieces_of_two_files_are_never_joined(server, tmp_path, change):
    server.cuts = [1_000_000]
    server.tag = "" if change == "no tag" else server.tag
    with pytest.raises(UserError):
        fetch(server.url, tmp_path, attempts=0, pause_s=0.0, quiet=True)
    if change == "content":
        server.content, server.tag = CONTENT[::-1], '"two"'
    server.ranges = change != "no ranges"
    done = get(server, tmp_path)
    assert done.path.read_bytes() == server.content and done.state == "downloaded"


def test_a_file_of_the_users_stays_whatever_it_is_called(tmp_path):
    (tmp_path / "set.tar.part").write_bytes(b"mine")
    with pytest.raises(
        UserError, match=r"set\.tar\.part is there, but its md5 .*; remove it to fetch it again"
    ):
        fetch("http://127.0.0.1:1/set.tar.part", tmp_path, digest="0" * 32, quiet=True)
    assert (tmp_path / "set.tar.part").read_bytes() == b"mine"


def test_digests(server, tmp_path):
    good = hashlib.md5(CONTENT).hexdigest()
    done = get(server, tmp_path, digest=good)
    assert done.checked == f"md5:{good}" and "agrees" in done.lines()[0]
    with pytest.raises(UserError, match=r"is there, but its sha256 .*remove it"):
        get(server, tmp_path, digest="0" * 64)
    assert done.path.exists()
    with pytest.raises(UserError, match=r"was downloaded, but its sha256 .*thrown away"):
        get(server, tmp_path / "other", digest="sha256:" + "0" * 64)
    assert not list((tmp_path / "other").iterdir())
    for text in ("abc", "sha256:" + "0" * 32, "crc:00", "x" * 64):
        with pytest.raises(UserError, match=r"digest|digits"):
            parse_digest(text)


def test_answers_that_are_no_file(server, tmp_path):
    server.codes = [503, 500]
    assert get(server, tmp_path / "a").state == "downloaded"
    server.codes = [404]
    with pytest.raises(UserError, match="answers 404"):
        get(server, tmp_path / "b")
    server.kind = "text/html"
    with pytest.raises(UserError, match="answers with a web page"):
        get(server, tmp_path / "c")


def test_no_network_is_said_plainly(tmp_path, monkeypatch, capsys):
    def no_names(*_: object, **__: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(SystemExit) as stopped:
        command_line.main(["data", "fetch", "DIV2K", "-o", str(tmp_path)])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "no network, or data.vision.ee.ethz.ch cannot be reached" in said
    assert "put it at" in said and "Traceback" not in said


def test_a_refused_connection(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match="the connection is refused"):
        fetch(f"http://127.0.0.1:{port}/a.zip", tmp_path, attempts=2, pause_s=0.0, quiet=True)


def test_names_and_addresses():
    assert address_of("div2k") == KNOWN["DIV2K"] and address_of("Flickr2K").endswith("/Flickr2K.tar")
    assert address_of("http://host/x.zip") == "http://host/x.zip"
    with pytest.raises(UserError, match=r"by hand.*atelier data extract"):
        address_of("OST")
    with pytest.raises(UserError, match="only http"):
        address_of("file:///etc/passwd")
    with pytest.raises(UserError, match="did you mean 'Flickr2K'"):
        address_of("Flicker2K")
    assert file_name("http://h/a%2F..%2Fb.zip?x=1") == "b.zip"
    for url in ("http://h/", "http://h/..", "http://h/%2e%2e"):
        with pytest.raises(UserError, match="--name"):
            file_name(url)
