"""Every text with which git's ls-remote, clone, fetch and push can end has a class, file by file."""

from datetime import UTC, datetime

import pytest
from coding_agent_consumer.repository.git_errors import (
    BranchGoneError,
    GitFailedError,
    RemoteMovedError,
    RepositoryUnusableError,
    classify,
    without_trace,
)
from coding_agent_core.errors import (
    ForgeConflictError,
    ForgeError,
    ForgeNotFoundError,
    ForgeRefusedError,
    ForgeRejectedError,
    ForgeUnavailableError,
)

URL = "https://forge.example.com/o/r.git"
REJECTED = "!\tabc:refs/heads/b\t[{}] ({})\n"
MOVED, GONE, OURS = RemoteMovedError, BranchGoneError, GitFailedError
REFUSED, NOT_FOUND, DOWN = ForgeRefusedError, ForgeNotFoundError, ForgeUnavailableError
UNUSABLE, REJECTED_BY_FORGE = RepositoryUnusableError, ForgeRejectedError


def access(problem: str) -> str:
    """`remote-curl.c`, `discover_refs`, with a text of libcurl (`lib/strerror.c`) or of `http.c`."""
    return f"fatal: unable to access '{URL}/': {problem}"


ACCESS = [
    ("The requested URL returned error: 400", REJECTED_BY_FORGE),
    ("The requested URL returned error: 401", REFUSED),
    ("The requested URL returned error: 403", REFUSED),
    ("The requested URL returned error: 407", REFUSED),
    ("The requested URL returned error: 302", REFUSED),
    ("The requested URL returned error: 404", NOT_FOUND),
    ("The requested URL returned error: 410", NOT_FOUND),
    ("The requested URL returned error: 409", ForgeConflictError),
    ("The requested URL returned error: 408", DOWN),
    ("The requested URL returned error: 429", DOWN),
    ("The requested URL returned error: 500", DOWN),
    ("The requested URL returned error: 503", DOWN),
    ("Could not resolve host: forge.example.com", DOWN),
    ("Could not resolve proxy: proxy", DOWN),
    ("Failed to connect to forge.example.com port 443 after 130 ms: Couldn't connect to server", DOWN),
    ("Received HTTP code 503 from proxy after CONNECT", DOWN),
    ("CONNECT tunnel failed, response 502", DOWN),
    ("Recv failure: Connection reset by peer", DOWN),
    ("Empty reply from server", DOWN),
    ("Operation too slow. Less than 1000 bytes/sec transferred the last 60 seconds", DOWN),
    ("gnutls_handshake() failed: The TLS connection was non-properly terminated.", DOWN),
    ("server certificate verification failed. CAfile: none CRLfile: none", DOWN),
    ("SSL certificate problem: certificate has expired", DOWN),
]

OF_THE_CONNECTION = [
    # remote-curl.c
    (f"fatal: repository '{URL}/' not found", NOT_FOUND),
    (f"fatal: Authentication failed for '{URL}/'", REFUSED),
    (f"fatal: {URL}/info/refs not valid: is this a git repository?", DOWN),
    (
        f"fatal: {URL}/info/refs not valid: could not determine hash algorithm; is this a git repository?",
        DOWN,
    ),
    ("fatal: invalid server response; got '<!doctype html>'", DOWN),
    ("fatal: unknown value for object-format: sha256", DOWN),
    ("error: RPC failed; HTTP 401 curl 22 The requested URL returned error: 401", REFUSED),
    ("error: RPC failed; HTTP 403 curl 22 The requested URL returned error: 403", REFUSED),
    ("error: RPC failed; HTTP 404 curl 22 The requested URL returned error: 404", NOT_FOUND),
    ("error: RPC failed; HTTP 411 curl 22 The requested URL returned error: 411", REJECTED_BY_FORGE),
    ("error: RPC failed; HTTP 413 curl 22 The requested URL returned error: 413", REJECTED_BY_FORGE),
    ("error: RPC failed; HTTP 429 curl 22 The requested URL returned error: 429", DOWN),
    ("error: RPC failed; HTTP 504 curl 22 The requested URL returned error: 504", DOWN),
    ("error: RPC failed; curl 18 transfer closed with outstanding read data remaining", DOWN),
    ("error: RPC failed; curl 92 HTTP/2 stream 5 was not closed cleanly: CANCEL (err 8)", DOWN),
    ("error: 1234 bytes of body are still expected", DOWN),
    ("error: unable to rewind rpc post data - try increasing http.postBuffer", DOWN),
    # credential.c
    (f"fatal: could not read Username for '{URL}': terminal prompts disabled", REFUSED),
    (f"fatal: could not read Password for '{URL}': terminal prompts disabled", REFUSED),
    # connect.c
    ("fatal: the remote end hung up upon initial contact", DOWN),
    ("fatal: mismatched algorithms: client sha1; server sha256", UNUSABLE),
    ("fatal: the server does not support algorithm 'sha1'", UNUSABLE),
    ("fatal: unknown object format 'sha256' specified by server", UNUSABLE),
    ("fatal: unsupported object format 'sha256'", UNUSABLE),  # transport-helper.c
    ("fatal: protocol error: unexpected capabilities^{}", DOWN),
    ("fatal: expected flush after ref listing", DOWN),
    # pkt-line.c; what follows `remote error:` is the server's
    ("fatal: the remote end hung up unexpectedly", DOWN),
    ("fatal: protocol error: bad line length character: HTTP", DOWN),
    ("fatal: remote error: upload-pack: not our ref 1234", DOWN),
    ("fatal: remote error: GitLab is currently unable to handle this request due to load.", DOWN),
    ("send-pack: unexpected disconnect while reading sideband packet", DOWN),  # sideband.c
    # transport-helper.c, transport.c, run-command.c
    ("fatal: unable to find remote helper for 'https'", OURS),
    ("fatal: transport 'ssh' not allowed", OURS),
    ("error: git-remote-https died of signal 9", OURS),
    ("fatal: unable to fork", OURS),
    ("", DOWN),
]

OF_FETCH = [
    ("fatal: couldn't find remote ref refs/heads/main", GONE),  # remote.c
    ("fatal: Couldn't find remote ref refs/heads/main", GONE),  # git before 2.26
    ("fatal: Remote branch main not found in upstream origin", GONE),  # builtin/clone.c
    ("warning: x\nfatal: Remote revision main not found in upstream origin", GONE),
    ("error: no such remote ref refs/heads/main", GONE),  # fetch-pack.c
    ("error: Server does not allow request for unadvertised object 1234", DOWN),
    ("fatal: no matching remote head", DOWN),
    ("fatal: git fetch-pack: expected ACK/NAK, got a flush packet", DOWN),
    ("fatal: expected 'packfile', received 'HTTP'", DOWN),
    ("fatal: protocol error: bad pack header", DOWN),
    ("fatal: Server does not support this repository's object format", UNUSABLE),
    ("fatal: early EOF\nfatal: fetch-pack: invalid index-pack output", DOWN),
    ("remote: aborting due to possible repository corruption on the remote side.\nfatal: early EOF", DOWN),
    (f"error: {URL} did not send all necessary objects", DOWN),  # builtin/fetch.c
    ("error: some local refs could not be updated; try running", OURS),
    ("error: cannot lock ref 'refs/remotes/origin/a/b': 'refs/remotes/origin/a' exists", OURS),
    ("fatal: write error: No space left on device", OURS),  # write-or-die.c, with the text of an errno
    ("fatal: unable to create temporary file: Read-only file system", OURS),  # wrapper.c
    ("fatal: Out of memory, malloc failed (tried to allocate 1048576 bytes)", OURS),
    ("fatal: unable to create thread: Resource temporarily unavailable", OURS),  # builtin/index-pack.c
    ("fatal: could not create leading directories of '/x': Permission denied", OURS),  # builtin/clone.c
    ("fatal: remote transport reported error", DOWN),
    ("usage: git fetch [<options>]", OURS),
    # A server's own words must not be taken for git's.
    ("remote: fatal: write error: No space left on device\nfatal: early EOF", DOWN),
    ("remote: couldn't find remote ref x\nfatal: early EOF", DOWN),
]

OF_PUSH = [
    # transport.c: git itself refused
    (REJECTED.format("rejected", "non-fast-forward"), MOVED),
    (REJECTED.format("rejected", "fetch first"), MOVED),
    (REJECTED.format("rejected", "stale info"), MOVED),
    (REJECTED.format("rejected", "already exists"), MOVED),
    (REJECTED.format("rejected", "needs force"), MOVED),
    (REJECTED.format("remote failure", "remote failed to report status"), DOWN),
    # send-pack.c
    ("error: unexpected flush packet while reading remote unpack status", DOWN),
    ("fatal: the receiving end does not support this repository's hash algorithm", UNUSABLE),
    ("error: pack-objects died of signal 9", OURS),
    ("error: src refspec x does not match any", OURS),  # remote.c
    # builtin/receive-pack.c and refs.c: the server declined
    *(
        (REJECTED.format("remote rejected", reason), error)
        for reason, error in (
            ("cannot lock ref 'refs/heads/b': is at 1234 but expected 5678", MOVED),
            ("cannot lock ref 'refs/heads/b': reference already exists", MOVED),
            ("cannot lock ref 'refs/heads/b': reference is missing but expected 1234", MOVED),
            ("reference already exists", MOVED),
            ("reference does not exist", MOVED),
            ("incorrect old value provided", MOVED),
            ("non-fast-forward", MOVED),
            ("cannot lock ref 'refs/heads/b': Unable to create '/r/b.lock': File exists.", DOWN),
            ("failed to update ref", DOWN),
            ("failed to update refs", DOWN),
            ("atomic transaction failed", DOWN),
            ("unable to migrate objects to permanent storage", DOWN),
            ("missing necessary objects", DOWN),
            ("invalid new value provided", DOWN),
            ("unpacker error", DOWN),
            ("bad pack", DOWN),
            ("shallow error", DOWN),
            ("unkown failure", DOWN),
            ("proc-receive failed to report status", DOWN),
            ("Internal Server Error", DOWN),
            (
                "cannot lock ref 'refs/heads/a/b': 'refs/heads/a' exists; cannot create 'refs/heads/a/b'",
                REFUSED,
            ),
            ("refname conflict", REFUSED),
            ("reference conflict due to case-insensitive filesystem", REFUSED),
            ("expected symref but found regular ref", REFUSED),
            ("pre-receive hook declined", REFUSED),
            ("hook declined", REFUSED),
            ("protected branch hook declined", REFUSED),
            ("deny updating a hidden ref", REFUSED),
            ("branch is currently checked out", REFUSED),
            ("shallow update not allowed", REFUSED),
            ("funny refname", REFUSED),
            ("broken symref", REFUSED),
        )
    ),
    (
        "remote: fatal: pack exceeds maximum allowed size (10.00 MiB)\n"
        "error: remote unpack failed: index-pack abnormal exit\n"
        + REJECTED.format("remote rejected", "unpacker error"),
        REFUSED,
    ),
    ("remote: failed to update ref\n" + REJECTED.format("remote rejected", "hook declined"), REFUSED),
    ("remote: [rejected] fetch first\n" + REJECTED.format("remote rejected", "hook declined"), REFUSED),
]


@pytest.mark.parametrize(
    ("said", "error"),
    [*((access(text), error) for text, error in ACCESS), *OF_THE_CONNECTION, *OF_FETCH, *OF_PUSH],
)
def test_what_git_says_about_a_remote(said: str, error: type[Exception]) -> None:
    assert type(classify(said, URL)) is error


TRACE = """\
12:34:56.789012 http.c:715              => Send header: Authorization: Basic <redacted>
12:34:56.789012 http.c:689              <= Recv header: HTTP/1.1 401 Unauthorized
12:34:56.789012 http.c:689              <= Recv header: Retry-After: 1
12:34:57.789012 http.c:733              == Info: The requested URL returned error: 500
12:34:57.789012 http.c:689              <= Recv header: HTTP/2 429
12:34:57.789012 http.c:689              <= Recv header: retry-after: 900
12:34:57.789012 http.c:689              <= Recv header:
remote: 12:34:57.789012 x.c:1 is mine
error: RPC failed; HTTP 429 curl 22 The requested URL returned error: 429
"""


def test_the_headers_of_the_last_answer_are_read_from_the_trace_and_its_lines_removed() -> None:
    said, headers = without_trace(TRACE)
    assert headers == {"retry-after": "900"}
    assert said == (
        "remote: 12:34:57.789012 x.c:1 is mine\n"
        "error: RPC failed; HTTP 429 curl 22 The requested URL returned error: 429\n"
    )


@pytest.mark.parametrize(
    ("status", "headers", "asked"),
    [
        (429, {"retry-after": "900"}, 900),
        (429, {"retry-after": "Mon, 07 Dec 2026 12:15:00 GMT"}, 900),
        (429, {}, 60),
        (429, {"retry-after": "soon"}, 60),
        (403, {"retry-after": "900"}, 900),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1796645700"}, 900),
        (503, {"retry-after": "900"}, 900),
        (503, {}, None),
        (403, {}, None),
    ],
)
def test_a_limit_says_how_long_the_forge_is_left_alone(
    status: int, headers: dict[str, str], asked: float | None
) -> None:
    now = datetime(2026, 12, 7, 12, tzinfo=UTC)
    error = classify(access(f"The requested URL returned error: {status}"), URL, headers, now)
    assert isinstance(error, ForgeError)
    assert (error.status, error.retry_after) == (status, asked)
    assert (asked is None) == ("wait of 900 s" not in str(error) and "alone for 60 s" not in str(error))


def test_a_declined_push_repeats_the_forges_reason() -> None:
    said = "remote: Workflow files need the scope.\n" + REJECTED.format("remote rejected", "hook declined")
    assert "Workflow files need the scope.; (hook declined)" in str(classify(said, URL))


@pytest.mark.parametrize(
    "said", ["couldn't find remote ref refs/heads/a/b", "Remote branch a/b not found in upstream o"]
)
def test_the_branch_that_is_gone_is_named(said: str) -> None:
    assert str(classify(f"fatal: {said}", URL)) == (
        f"{URL} has no branch a/b any more: it was deleted or renamed."
    )
