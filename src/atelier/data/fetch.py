"""``atelier data fetch``: download archives of data sets; a stopped download continues where it stopped."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from atelier.data.archives import is_archive
from atelier.data.manifest import read_manifest
from atelier.errors import UserError, nearest
from atelier.files import atomic_write, describe_os_error
from atelier.progress import progress

KNOWN = {
    "DIV2K": "http://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_train_HR.zip",
    "Flickr2K": "https://cv.snu.ac.kr/research/EDSR/Flickr2K.tar",
}
MANUAL = {
    "OST": "OST (OutdoorSceneTraining) lies behind a page of links, which must be opened by hand: follow 'OST dataset' "
    "on https://github.com/xinntao/SFTGAN, download the seven category archives of OutdoorSceneTrain_v2, "
    "then: atelier data extract *.zip -o datasets/OST --flatten"
}
_BLOCK = 1 << 20
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Fetched:
    """A finished download.

    Attributes:
        path: the file.
        size: its bytes.
        sha256: of its content.
        state: ``downloaded``, ``continued`` or ``there already``.
        checked: the digest that was given and agreed, else None.
    """

    path: Path
    size: int
    sha256: str
    state: str
    checked: str | None

    def lines(self) -> list[str]:
        """The report as text."""
        verdict = (
            f"{self.checked} agrees"
            if self.checked
            else f"sha256 {self.sha256}, not compared: none was given"
        )
        return [f"{self.path}: {self.size / 1e6:.1f} MB, {self.state}; {verdict}"]


def address_of(name: str) -> str:
    """The address of a data set by name, or a URL as it is.

    Raises:
        UserError: an unknown name, a set that must be fetched by hand, or no http(s) address.
    """
    by_lower = {known.lower(): url for known, url in KNOWN.items()}
    if name.lower() in by_lower:
        return by_lower[name.lower()]
    for manual, step in MANUAL.items():
        if name.lower() == manual.lower():
            raise UserError(step)
    parts = urlsplit(name)
    if parts.scheme in ("http", "https") and parts.hostname:
        return name
    if "://" in name:
        raise UserError(f"{name}: only http:// and https:// addresses are fetched")
    close = nearest(name, (*KNOWN, *MANUAL))
    hint = f" (did you mean '{close}'?)" if close else ""
    raise UserError(f"'{name}' is no data set known here{hint}; known: {', '.join(KNOWN)}, or give a URL")


def file_name(url: str) -> str:
    """The last part of an address as a plain file name.

    Raises:
        UserError: it has none.
    """
    name = re.split(r"[/\\]", unquote(urlsplit(url).path))[-1]
    if name.strip(". ") == "" or any(ord(letter) < 32 for letter in name):
        raise UserError(f"{url} does not end in a file name; give one with --name")
    return name


def parse_digest(text: str) -> tuple[str, str]:
    """``(algorithm, hexadecimal)`` of ``sha256:HEX``, ``md5:HEX``, ``sha1:HEX`` or the bare digits, told by length.

    Raises:
        UserError: another form.
    """
    lengths = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
    algorithm, _, digits = text.strip().lower().rpartition(":")
    if not re.fullmatch(r"[0-9a-f]+", digits) or len(digits) not in lengths:
        raise UserError(f"'{text}' is no digest: give sha256:HEX, sha1:HEX, sha512:HEX or md5:HEX")
    if algorithm and algorithm != lengths[len(digits)]:
        raise UserError(
            f"'{text}' has {len(digits)} digits, which is {lengths[len(digits)]}, not {algorithm}"
        )
    return lengths[len(digits)], digits


def fetch(
    url: str,
    folder: Path,
    *,
    name: str | None = None,
    digest: str | None = None,
    attempts: int = 5,
    pause_s: float = 2.0,
    quiet: bool = False,
) -> Fetched:
    """Download ``url`` to ``folder/name``.

    While it lasts, the bytes are in ``name.part`` and what the server said about them in ``name.part.json``; only the
    whole file, of the length the server stated and with the digest that was given, gets its name. A broken connection
    is tried again from where it broke; a stopped command continues there when it is run again, unless the server's
    file changed meanwhile.

    Args:
        url: an http(s) address.
        folder: made where missing.
        name: of the file; default: the address's last part.
        digest: as :func:`parse_digest` takes it; none is known here, so without it only the length is compared.
        attempts: how often to connect without getting a single new byte before giving up.
        pause_s: seconds before the second attempt; doubled before each further one.
        quiet: no progress bar.

    Raises:
        UserError: no network, an answer that is no file, a wrong length or digest, or ``folder`` cannot be written.
    """
    wanted = parse_digest(digest) if digest else None
    target = folder / (name or file_name(url))
    if target.exists():
        return _finished(target, wanted, "there already")
    part = target.with_name(f"{target.name}.part")
    note = target.with_name(f"{target.name}.part.json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        continued = part.exists() and part.stat().st_size > 0
        download = _Download(url, part, note, quiet)
        left, pause = attempts, pause_s
        while True:
            before = download.have
            reason = download.attempt()
            if reason is None:
                break
            left = attempts if download.have > before else left - 1
            if left <= 0:
                raise UserError(_gave_up(url, target, download.have, reason))
            time.sleep(pause if download.have == before else pause_s)
            pause *= 2 if download.have == before else 1
        state = "continued" if continued and not download.afresh else "downloaded"
        done = _finished(part, wanted, state, target)
        part.replace(target)
        note.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(describe_os_error(error, target)) from error
    return Fetched(target, done.size, done.sha256, done.state, done.checked)


def _finished(path: Path, wanted: tuple[str, str] | None, state: str, target: Path | None = None) -> Fetched:
    """Hash the file and compare; a download (for ``target``) that is wrong goes away, a file of the user's stays."""
    sha256 = hashlib.sha256()
    other = hashlib.new(wanted[0], usedforsecurity=False) if wanted else sha256
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            sha256.update(block)
            if wanted:
                other.update(block)
    if wanted and other.hexdigest() != wanted[1]:
        if target is not None:
            path.unlink()
            path.with_name(f"{path.name}.json").unlink(missing_ok=True)
            what = f"{target} was downloaded, but"
        else:
            what = f"{path} is there, but"
        raise UserError(
            f"{what} its {wanted[0]} is {other.hexdigest()}, not {wanted[1]} as given"
            + ("; it was thrown away" if target is not None else "; remove it to fetch it again")
        )
    return Fetched(path, path.stat().st_size, sha256.hexdigest(), state, ":".join(wanted) if wanted else None)


class _Download:
    def __init__(self, url: str, part: Path, note: Path, quiet: bool) -> None:
        self.url, self.part, self.note, self.quiet = url, part, note, quiet
        self.afresh = False
        self.facts: dict[str, Any] = {}
        known = read_manifest(note) if part.exists() else None
        if known is not None and known.get("url") == url:
            self.facts = known
        else:
            part.unlink(missing_ok=True)

    @property
    def have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def attempt(self) -> str | None:
        """Get what is missing; None when the file is whole, else why it is not."""
        have = self.have
        if have and have == self.facts.get("size"):
            return None
        headers = {"User-Agent": "atelier", "Accept-Encoding": "identity"}
        mark = self.facts.get("mark")
        if have and mark:
            headers |= {"Range": f"bytes={have}-", "If-Range": mark}
        try:
            request = urllib.request.Request(self.url, headers=headers)
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
                return self._take(response, have if response.status == 206 else 0)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the file there is shorter than what we have: another one
                self.part.unlink(missing_ok=True)
                return "the server's file changed"
            if error.code in (408, 429) or error.code >= 500:
                return f"the server answers {error.code} {error.reason}"
            raise UserError(f"{self.url}: the server answers {error.code} {error.reason}") from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            return _plainly(error)

    def _take(self, response: Any, start: int) -> str | None:
        if response.headers.get_content_type() == "text/html" and is_archive(file_name(self.url)):
            raise UserError(
                f"{self.url}: the server answers with a web page, not with the archive; open it in a browser"
            )
        stated = response.headers.get("Content-Length")
        size = start + int(stated) if stated is not None and stated.isdecimal() else None
        if start:
            place = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if place is None or int(place[1]) != start:
                self.part.unlink(missing_ok=True)
                return "the server sent another part than was asked for"
            size = int(place[2]) if place[2] != "*" else size
        else:
            self.afresh = True
        etag = response.headers.get("ETag", "")
        # A weak tag promises nothing about the bytes.
        mark = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
        self.facts = {"url": self.url, "size": size, "mark": mark}
        atomic_write(self.note, json.dumps(self.facts))
        with (
            self.part.open("ab" if start else "wb") as out,
            progress(
                self.part.stem, (size or 0) // 1_000_000, "MB", done=start // 1_000_000, quiet=self.quiet
            ) as bar,
        ):
            got = self._copy(response, out, start, bar.advance)
            out.flush()
            os.fsync(out.fileno())
        if size is not None and got != size:
            return f"the connection ended after {got} of {size} bytes"
        return None

    def _copy(self, response: Any, out: BinaryIO, got: int, advance: Callable[[int], None]) -> int:
        shown = got // 1_000_000
        while True:
            try:
                block = response.read(_BLOCK)
            except http.client.IncompleteRead as error:
                out.write(error.partial)
                raise
            if not block:
                return got
            out.write(block)
            got += len(block)
            advance(got // 1_000_000 - shown)
            shown = got // 1_000_000


def _plainly(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, socket.gaierror):
        return "its name cannot be resolved"
    if isinstance(cause, ConnectionRefusedError):
        return "the connection is refused"
    if isinstance(cause, TimeoutError):
        return f"no answer within {_TIMEOUT_S:g} s"
    return str(cause) or type(cause).__name__


def _gave_up(url: str, target: Path, have: int, reason: str) -> str:
    host = urlsplit(url).hostname
    if have:
        return (
            f"{url} could not be fetched to the end: {reason}. {have / 1e6:.1f} MB are kept in {target.name}.part; "
            "run the command again to continue"
        )
    return (
        f"{url} cannot be fetched: no network, or {host} cannot be reached ({reason}). Without a network, download "
        f"it elsewhere and put it at {target}; then go on with: atelier data extract {target} -o DIR"
    )
