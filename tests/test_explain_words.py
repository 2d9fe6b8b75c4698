"""What a failed resolver said where a loopback index cannot make it say so: words that were recorded, of pip and uv."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.interpreters import INTERPRETER
from vrfstore.errors import (
    DiskFullError,
    PackageIndexError,
    RequirementsError,
    ResolutionError,
    VrfstoreError,
    WheelError,
)
from vrfstore.requirements.explain import resolution_error, uv_error
from vrfstore.requirements.parse import parse

FILE = "project/requirements.vrf"

Summary = tuple[type[VrfstoreError], str, int | None, str]


def summary(error: VrfstoreError) -> Summary:
    return type(error), error.kind, error.line, error.message


def of_uv(stderr: str, text: str = "alpha\n") -> VrfstoreError:
    return uv_error(stderr, parse(text.encode(), FILE), INTERPRETER)


# --- pip

NO_DNS = (
    "2025-01-01T10:00:00,000 Could not fetch URL https://index.example/simple/alpha/: connection error: "
    "HTTPSConnectionPool(host='index.example', port=443): Max retries exceeded with url: /simple/alpha/ "
    "(Caused by NameResolutionError(\"<HTTPSConnection(host='index.example', port=443)>: Failed to resolve "
    "'index.example' ([Errno -2] Name or service not known)\")) - skipping\n"
)
NO_CERTIFICATE = (
    "2025-01-01T10:00:00,000 Could not fetch URL https://index.example/simple/alpha/: There was a problem "
    "confirming the ssl certificate: HTTPSConnectionPool(host='index.example', port=443): Max retries exceeded "
    "with url: /simple/alpha/ (Caused by SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] "
    "certificate verify failed: self-signed certificate (_ssl.c:1006)'))) - skipping\n"
)
NOTHING_FOUND = (
    "ERROR: Could not find a version that satisfies the requirement alpha (from versions: none)\n"
    "ERROR: No matching distribution found for alpha\n"
)
TIMED_OUT = (
    "ERROR: Exception:\nTraceback (most recent call last):\n  ...\n"
    "pip._vendor.urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool(host='index.example', port=443): "
    "Read timed out.\n"
)
NO_PROXY = (
    "ERROR: Could not install packages due to an OSError: HTTPSConnectionPool(host='index.example', port=443): "
    "Max retries exceeded with url: /files/alpha-1.0-py3-none-any.whl (Caused by ProxyError('Unable to connect "
    "to proxy', OSError('Tunnel connection failed: 407 Proxy Authentication Required')))\n"
)


@pytest.mark.parametrize(
    ("stderr", "log", "reason"),
    [
        (NOTHING_FOUND, NO_DNS, ": [Errno -2] Name or service not known"),
        (NOTHING_FOUND, NO_CERTIFICATE, ""),
        (TIMED_OUT, TIMED_OUT, ""),
        (NO_PROXY, NO_PROXY, ""),
    ],
    ids=["no name", "certificate", "timeout", "proxy"],
)
def test_trouble_on_the_way_to_the_index_is_told_as_that(stderr: str, log: str, reason: str) -> None:
    error = resolution_error(stderr, log, parse(b"alpha\n", FILE), INTERPRETER)
    assert (type(error), error.kind) == (PackageIndexError, "index-unreachable")
    assert error.message == f"the package index did not answer{reason}"


def test_the_index_lacks_one_package_and_fails_for_none() -> None:
    log = (
        "2025-01-01T10:00:00,000 Could not fetch URL https://index.example/simple/alpha/: 404 Client Error: "
        "Not Found for url: https://index.example/simple/alpha/ - skipping\n"
        "2025-01-01T10:00:00,001 Skipping link: not a file: https://index.example/simple/alpha/\n"
    )
    error = resolution_error(NOTHING_FOUND, log, parse(b"alpha\n", FILE), INTERPRETER)
    assert error.kind == "package-missing"


def test_a_neighbour_s_wheel_that_was_skipped_says_nothing_of_this_package() -> None:
    log = (
        "2025-01-01T10:00:00,000   Skipping link: none of the wheel's tags (py3-none-win_amd64) are compatible "
        "(run pip debug --verbose to show compatible tags): https://index.example/files/"
        "alphabet-1.0-py3-none-win_amd64.whl (from https://index.example/simple/alphabet/)\n"
        "2025-01-01T10:00:00,001 Could not fetch URL https://index.example/simple/alpha/: 404 Client Error: "
        "Not Found for url: https://index.example/simple/alpha/ - skipping\n"
    )
    error = resolution_error(NOTHING_FOUND, log, parse(b"alpha\nalphabet\n", FILE), INTERPRETER)
    assert error.kind == "package-missing"


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("WARNING: slow\nERROR: something new\n\n", "something new"),
        ("", "no message"),
    ],
)
def test_what_nobody_knows_is_told_in_pip_s_own_last_words(stderr: str, said: str) -> None:
    error = resolution_error(stderr, "", parse(b"alpha\n", FILE), INTERPRETER)
    assert summary(error) == (ResolutionError, "resolution-failed", None, f"pip failed: {said}")


def test_a_conflict_without_a_log_is_still_a_conflict() -> None:
    error = resolution_error("ERROR: ResolutionImpossible: see", "", parse(b"alpha\n", FILE), INTERPRETER)
    assert (error.kind, error.message) == ("conflict", "the requirements contradict each other")


LATER = "2026-01-01T10:00:00,000 Could not fetch URL https://somebody:****@index.example/simple/alpha/: "


@pytest.mark.parametrize(
    ("words", "reason", "hint"),
    [
        (
            "connection error: Failed to resolve IP address for 'index.example' ([Errno -2] Name or service not known)",
            ": [Errno -2] Name or service not known",
            "check the network, the proxy and pip's configuration (pip config list)",
        ),
        (
            (
                "There was a problem confirming the ssl certificate: [SSL: CERTIFICATE_VERIFY_FAILED] certificate "
                "verify failed: self-signed certificate (_ssl.c:1006)"
            ),
            "",
            "its certificate is not trusted here; name its authority with PIP_CERT, or in pip's configuration",
        ),
        (
            (
                "proxy connection error: ('Unable to connect to proxy', OSError('Tunnel connection failed: 407 Proxy "
                "Authentication Required'))"
            ),
            "",
            "check HTTPS_PROXY, and whether the proxy wants credentials",
        ),
        (
            "index.example didn't respond within 15.0 seconds",
            "",
            "try again; PIP_DEFAULT_TIMEOUT gives it more seconds",
        ),
        (
            "401 Client Error: Unauthorized for url: https://index.example/simple/alpha/",
            ": 401 Client Error: Unauthorized",
            (
                "the index wants credentials, or other ones: in its URL in pip's configuration, in ~/.netrc, "
                "or in a keyring, which is asked only where pip's keyring-provider is import or subprocess"
            ),
        ),
    ],
    ids=["no name", "certificate", "proxy", "timeout", "credentials"],
)
def test_the_words_of_a_later_pip_are_told_with_what_to_do(words: str, reason: str, hint: str) -> None:
    log = f"{LATER}{words} - skipping\n"
    error = resolution_error(NOTHING_FOUND, log, parse(b"alpha\n", FILE), INTERPRETER)
    assert summary(error) == (
        PackageIndexError, "index-unreachable", None, f"the package index did not answer{reason}"
    )  # fmt: skip
    assert error.hint == hint


def test_an_index_that_fails_is_told_though_another_lacks_the_package() -> None:
    log = (
        f"{LATER}404 Client Error: Not Found for url: https://index.example/simple/alpha/ - skipping\n"
        f"{LATER}503 Server Error: Service Unavailable for url: https://other.example/simple/alpha/ - skipping\n"
    )
    error = resolution_error(NOTHING_FOUND, log, parse(b"alpha\n", FILE), INTERPRETER)
    assert error.kind == "index-unreachable"


def test_a_full_disk_is_told_as_that() -> None:
    stderr = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
    error = resolution_error(stderr, "", parse(b"alpha\n", FILE), INTERPRETER)
    assert summary(error) == (
        DiskFullError, "disk-full", None, "pip has no room: [Errno 28] No space left on device"
    )  # fmt: skip


# --- uv

UNFETCHED = "error: Failed to fetch: `https://index.example/simple/alpha/`\n"
UNSENT = "  Caused by: error sending request for url (https://index.example/simple/alpha/)\n"
UNNAMED = (
    f"{UNFETCHED}{UNSENT}  Caused by: client error (Connect)\n  Caused by: dns error\n"
    "  Caused by: failed to lookup address information: Name or service not known\n"
)
UNCERTIFIED = (
    "  \xd7 Failed to fetch: `https://index.example/simple/alpha/`\n"
    "  ├─▶ error sending request for url (https://index.example/simple/alpha/)\n"
    "  ├─▶ client error (Connect)\n"
    "  ╰─▶ invalid peer certificate: UnknownIssuer\n"
    "  help: Consider enabling use of system TLS certificates with the\n"
    "        `--native-tls` command-line flag\n"
)
UNPROXIED = (
    "error: Failed to fetch: https://index.example/simple/alpha/\n"
    "  cause: error sending request for url (https://index.example/simple/alpha/)\n"
    "  cause: client error (Connect)\n"
    "  cause: tunnel error: proxy authorization required\n"
)
UNANSWERED = f"{UNFETCHED}{UNSENT}  Caused by: operation timed out\n"
UNFINISHED = (
    f"{UNFETCHED}{UNSENT}  Caused by: client error (SendRequest)\n  Caused by: connection error\n"
    "  Caused by: Connection reset by peer (os error 104)\n"
)


@pytest.mark.parametrize(
    ("stderr", "reason", "hint"),
    [
        (UNNAMED, ": [Errno -2] Name or service not known", "check the network"),
        (UNCERTIFIED, "", "its certificate is not trusted here"),
        (UNPROXIED, "", "check HTTPS_PROXY"),
        (UNANSWERED, "", "try again"),
        (UNFINISHED, ": [Errno 104] Connection reset by peer", "check the network"),
    ],
    ids=["no name", "certificate", "proxy", "timeout", "reset"],
)
def test_uv_s_trouble_on_the_way_to_the_index_is_told_in_the_same_words(
    stderr: str, reason: str, hint: str
) -> None:
    error = of_uv(stderr)
    assert summary(error) == (
        PackageIndexError, "index-unreachable", None, f"the package index did not answer{reason}"
    )  # fmt: skip
    assert error.hint is not None
    assert error.hint.startswith(hint)


def test_uv_s_full_disk_is_told_in_the_same_words() -> None:
    error = of_uv(
        "error: Failed to initialize cache at `cache`\n"
        "  cause: failed to write to file `cache/.gitignore`: No space left on device (os error 28)\n"
    )
    assert summary(error) == (
        DiskFullError, "disk-full", None, "uv has no room: [Errno 28] No space left on device"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("warning: slow\nerror: something new\n\n", "something new"),
        ("error: it failed\n  cause: for this reason\n\nhint: try that\n", "for this reason"),
        ("", "no message"),
        (
            (
                "error: No solution found when resolving dependencies\n"
                "  cause: Because alpha==1.0 has invalid metadata and only alpha==1.0 is available, we can conclude "
                "that all versions of alpha cannot be used.\n"
                "         And because you require alpha, we can conclude that your requirements are unsatisfiable.\n"
            ),
            "alpha==1.0 has invalid metadata and only alpha==1.0 is available",
        ),
    ],
)
def test_what_nobody_knows_is_told_in_uv_s_own_words(stderr: str, said: str) -> None:
    assert summary(of_uv(stderr)) == (ResolutionError, "resolution-failed", None, f"uv failed: {said}")


FRAMED = """\
  \xd7 No solution found when resolving dependencies:
  ╰─▶ {}
"""


def framed(*lines: str) -> str:
    """Draw what uv 0.9 drew beside what it said."""
    return FRAMED.format("\n      ".join(lines))


@pytest.mark.parametrize(
    ("text", "stderr", "expected"),
    [
        (
            "alpha>1.0,<1.5\n",
            framed(
                "Because only the following versions of alpha are available:", "    alpha<1.0", "    alpha>1.5",
                "and you require alpha>1.0,<1.5, we can conclude that your requirements", "are unsatisfiable.",
            ),
            (ResolutionError, "no-version", 1, "no version of alpha satisfies alpha<1.5,>1.0"),
        ),
        (
            "alpha>3,<2\n",
            framed("you require alpha ∅"),
            (ResolutionError, "no-version", 1, "no version of alpha satisfies alpha<2,>3"),
        ),
        (
            "\nalpha>=1.5\n",
            framed(
                "Because only alpha<1.5 is available and you require alpha>=1.5, we can",
                "conclude that your requirements are unsatisfiable.", "",
                "hint: Pre-releases are available for `alpha` in the requested",
                "range (e.g., 2.0rc1), but pre-releases weren't enabled (try:", "`--prerelease=allow`)",
            ),
            (
                ResolutionError, "no-version", 2,
                "only pre-releases of alpha satisfy alpha>=1.5, such as 2.0rc1",
            ),
        ),
        (
            "alpha==2.0\nbeta\n",
            framed(
                "Because only the following versions of beta are available:",
                "    beta==0.5", "    beta==1.0", "    beta==2.0",
                "and beta==0.5 depends on alpha<1, we can conclude that beta<1.0 depends", "on alpha<1.",
                "And because beta==1.0 depends on alpha<2 and alpha<1.5, we can conclude",
                "that all versions of beta depend on alpha<2.",
                "And because you require alpha==2.0 and beta, we can conclude that your",
                "requirements are unsatisfiable.",
            ),
            (
                ResolutionError, "conflict", 1,
                ("the requirements contradict each other: the file asks for alpha==2.0 (line 1); "
                "beta 1.0, which the file asks for (line 2), needs alpha<1.5; "
                "beta 1.0, which the file asks for (line 2), needs alpha<2"),
            ),
        ),
    ],
    ids=["between", "nothing", "pre-releases", "conflict"],
)  # fmt: skip
def test_what_only_an_earlier_uv_says_is_understood(text: str, stderr: str, expected: Summary) -> None:
    error = of_uv(stderr, text)
    assert summary(error) == expected


def test_a_pre_release_is_asked_for_by_its_version() -> None:
    error = of_uv(
        framed(
            "Because only alpha<1.5 is available and you require alpha>=1.5, we can",
            "conclude that your requirements are unsatisfiable.", "",
            "hint: Pre-releases are available for `alpha` in the requested range (e.g., 2.0rc1)",
        ),
        "alpha>=1.5\n",
    )  # fmt: skip
    assert error.hint == "ask for one by its version, as in: alpha==2.0rc1"


def test_uv_s_older_words_for_hashes_mean_the_same() -> None:
    stderr = (
        "error: In `--require-hashes` mode, all requirements must be pinned with `==`, but found: `alpha`\n"
    )
    error = of_uv(stderr, f"beta==1 --hash=sha256:{'0' * 64}\nalpha\n")
    assert summary(error) == (
        RequirementsError, "requirement-hash", 2, "alpha has no --hash, but others have"
    )  # fmt: skip


def test_a_hash_of_what_the_file_does_not_name_is_told_without_a_line() -> None:
    error = of_uv(
        f"error: Failed to download `gamma==2.0`\n  cause: Hash mismatch for `gamma==2.0`\n\n         Expected:\n"
        f"           sha256:{'0' * 64}\n\n         Computed:\n           sha256:{'1' * 64}\n"
    )
    assert summary(error) == (
        WheelError, "hash-mismatch", None,
        "the wheel of gamma has another hash (111111111111…) than the file asks for (000000000000…)",
    )  # fmt: skip


# --- both


@given(stderr=st.text(), log=st.text())
def test_any_words_become_an_error_with_an_exit_code(stderr: str, log: str) -> None:
    error = resolution_error(stderr, log, parse(b"alpha\n", FILE), INTERPRETER)
    assert error.exit_code in {11, 14, 18}
    assert of_uv(stderr).exit_code in {11, 14, 18}


WORDS = """
    Because because And and , you require alpha beta[x] alpha>=1 alpha<2,>=1 all versions of depends on depend one of:
    only is available, we can conclude that know from (1) the following versions are available: no usable wheels has ∅
    was yanked not found in the package registry there are no Python>=3.12 Python hint: requires ==1.* >= ,
"""


@given(words=st.lists(st.sampled_from(WORDS.split()), max_size=60))
def test_any_proof_becomes_an_error_about_the_requirements(words: list[str]) -> None:
    assert of_uv(" ".join(words), "alpha\nbeta\n").exit_code == 11


SECRET = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=8)


@given(user=SECRET, password=SECRET, token=SECRET)
def test_no_secret_gets_into_an_error(user: str, password: str, token: str) -> None:
    url = f"https://{user}:{password}@index.example/simple/alpha/?token={token}"
    stderr = f"ERROR: {url} is odd (see {url})\n"
    for error in (resolution_error(stderr, stderr, parse(b"alpha\n", FILE), INTERPRETER), of_uv(stderr)):
        shown = "https://index.example/simple/alpha/"
        assert error.message.endswith(f"{shown} is odd (see {shown})")
        for secret in (user, password, token):
            assert secret not in f"{error} {error.args} {error.hint}"
