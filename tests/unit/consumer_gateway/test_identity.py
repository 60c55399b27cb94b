"""Tokens of cloud identities: what is asked, when it is asked again, and what a failure says."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx2
import pytest
from coding_agent_consumer.gateway.upstream import TokenError, Upstream, WorkloadIdentity, bedrock_token
from coding_agent_consumer.gateway.wire_formats import route_of
from coding_agent_core.settings.llm import Identity, WireFormat

NOW = datetime(2026, 11, 27, 1, 2, 3, tzinfo=UTC)
SUBJECT = "header.payload.signature"
POOL = "projects/4242/locations/global/workloadIdentityPools/cluster/providers/kubernetes"
ROLE = "arn:aws:iam::123456789012:role/models"
AZURE: dict[str, Any] = {"cloud": "azure", "tenant_id": "t-1", "client_id": "c-1"}
AWS: dict[str, Any] = {"cloud": "aws", "role_arn": ROLE, "region": "eu-west-1"}
GOOGLE: dict[str, Any] = {"cloud": "google", "provider": POOL}
STS = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleWithWebIdentityResult><Credentials>
    <SessionToken>session/token==+x</SessionToken><SecretAccessKey>secret/key+1</SecretAccessKey>
    <Expiration>2026-11-27T02:02:03Z</Expiration><AccessKeyId>ASIAEXAMPLE</AccessKeyId>
  </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""
BEDROCK = (
    "bedrock-api-key-YmVkcm9jay5hbWF6b25hd3MuY29tLz9BY3Rpb249Q2FsbFdpdGhCZWFyZXJUb2tlbiZYLUFtei1BbGdvcml0aG09"
    "QVdTNC1ITUFDLVNIQTI1NiZYLUFtei1DcmVkZW50aWFsPUFTSUFFWEFNUExFJTJGMjAyNjExMjclMkZldS13ZXN0LTElMkZiZWRyb2Nr"
    "JTJGYXdzNF9yZXF1ZXN0JlgtQW16LURhdGU9MjAyNjExMjdUMDEwMjAzWiZYLUFtei1FeHBpcmVzPTM2MDAmWC1BbXotU2lnbmVkSGVh"
    "ZGVycz1ob3N0JlgtQW16LVNlY3VyaXR5LVRva2VuPXNlc3Npb24lMkZ0b2tlbiUzRCUzRCUyQngmWC1BbXotU2lnbmF0dXJlPTJmOGYz"
    "NDIxMmQ4MzgyZWM5ZmY0MDE1ZGY0ZmE1MWEyMjc0ZmQyNzNmNWU5ODJkZWUxOGQ1M2VlMzVlYTUwODUmVmVyc2lvbj0x"
)
"""As `aws-bedrock-token-generator` 1.1.0 makes it of the same credentials at the same time."""


class Cloud:
    """The token endpoints, and a clock."""

    def __init__(self, folder: Path, answer: Callable[[httpx2.Request], httpx2.Response]) -> None:
        self.asked: list[httpx2.Request] = []
        self.now = NOW
        self.answer = answer
        self.file = folder / "token"
        self.file.write_text(f"{SUBJECT}\n")

    def identity(self, given: dict[str, Any]) -> WorkloadIdentity:
        def handle(request: httpx2.Request) -> httpx2.Response:
            self.asked.append(request)
            return self.answer(request)

        settings = Identity(**given)
        return WorkloadIdentity(
            settings,
            clock=lambda: self.now,
            transport=httpx2.MockTransport(handle),
            token_file=self.file,
        )

    def form(self, number: int = 0) -> dict[str, str]:
        return {name: value for name, [value] in parse_qs(self.asked[number].content.decode()).items()}


def oauth(request: httpx2.Request) -> httpx2.Response:
    if request.url.path.endswith(":generateAccessToken"):
        return httpx2.Response(200, json={"accessToken": "of-account", "expireTime": "2026-11-27T02:02:03Z"})
    return httpx2.Response(200, json={"access_token": "a-token", "expires_in": 3600, "token_type": "Bearer"})


async def test_azure_takes_the_token_as_the_clients_assertion(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, oauth)
    assert await cloud.identity(AZURE).token() == "a-token"
    assert str(cloud.asked[0].url) == "https://login.microsoftonline.com/t-1/oauth2/v2.0/token"
    assert cloud.form() == {
        "grant_type": "client_credentials",
        "client_id": "c-1",
        "scope": "https://cognitiveservices.azure.com/.default",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": SUBJECT,
    }


async def test_google_exchanges_the_token_as_its_own_library_does(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, oauth)
    assert await cloud.identity(GOOGLE).token() == "a-token"
    assert str(cloud.asked[0].url) == "https://sts.googleapis.com/v1/token"
    assert cloud.form() == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": SUBJECT,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "audience": f"//iam.googleapis.com/{POOL}",
        "scope": "https://www.googleapis.com/auth/cloud-platform",
        "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
    }


async def test_google_impersonates_the_service_account(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, oauth)
    account = "models@project.iam.gserviceaccount.com"
    assert await cloud.identity({**GOOGLE, "service_account": account}).token() == "of-account"
    assert cloud.asked[1].url.host == "iamcredentials.googleapis.com"
    assert cloud.asked[1].url.path == f"/v1/projects/-/serviceAccounts/{account}:generateAccessToken"
    assert cloud.asked[1].headers["authorization"] == "Bearer a-token"


async def test_aws_gives_the_token_that_its_own_generator_makes(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, lambda _: httpx2.Response(200, text=STS))
    assert await cloud.identity(AWS).token() == BEDROCK
    assert str(cloud.asked[0].url) == "https://sts.eu-west-1.amazonaws.com/"
    assert cloud.form() == {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": ROLE,
        "RoleSessionName": "coding-agent",
        "WebIdentityToken": SUBJECT,
    }
    keys = ("ASIAEXAMPLE", "secret/key+1", "session/token==+x")
    assert bedrock_token(*keys, region="us-east-1", now=NOW, seconds=3600) != BEDROCK


async def test_a_token_is_asked_for_once_and_replaced_before_it_ends(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, oauth)
    identity = cloud.identity(AZURE)
    await asyncio.gather(*(identity.token() for _ in range(5)))
    assert len(cloud.asked) == 1
    cloud.file.write_text("a-new-subject")  # the kubelet replaces it
    cloud.now = NOW + timedelta(minutes=54)
    await identity.token()
    assert len(cloud.asked) == 1
    cloud.now = NOW + timedelta(minutes=56)
    await identity.token()
    assert cloud.form(1)["client_assertion"] == "a-new-subject"


async def test_a_token_that_cannot_be_replaced_serves_until_it_ends(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, oauth)
    identity = cloud.identity(AZURE)
    await identity.token()
    cloud.answer = lambda _: httpx2.Response(503)
    cloud.now = NOW + timedelta(minutes=58)
    assert await identity.token() == "a-token"
    cloud.now = NOW + timedelta(minutes=60)
    with pytest.raises(TokenError, match="answered 503"):
        await identity.token()


INVALID = {"error": "invalid_client", "description": SUBJECT}


@pytest.mark.parametrize("given", [AZURE, AWS, GOOGLE])
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx2.Response(400, json=INVALID), "400: invalid_client"),
        (
            httpx2.Response(403, text=f"<Error><Code>AccessDenied</Code>{SUBJECT}</Error>"),
            "403: AccessDenied",
        ),
        (httpx2.Response(200, text=SUBJECT), "answered without a JSON object|gave no credentials"),
        (httpx2.Response(200, json={"access_token": "a\nb"}), "gave no"),
    ],
)
async def test_what_went_wrong_is_said_without_the_token(
    tmp_path: Path, given: dict[str, Any], answer: httpx2.Response, said: str
) -> None:
    with pytest.raises(TokenError, match=said) as failed:
        await Cloud(tmp_path, lambda _: answer).identity(given).token()
    assert SUBJECT not in str(failed.value)


async def test_no_answer_no_file_and_no_field_are_said(tmp_path: Path) -> None:
    for given in (AZURE, AWS, GOOGLE):
        for name in set(given) - {"cloud"}:
            with pytest.raises(ValueError, match=f"{name} is missing"):
                Identity(**{key: value for key, value in given.items() if key != name})

    def fails(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError(SUBJECT, request=request)

    cloud = Cloud(tmp_path, fails)
    with pytest.raises(TokenError, match="does not answer: ConnectError"):
        await cloud.identity(AWS).token()
    cloud.file.unlink()
    with pytest.raises(TokenError, match=r"gateway.identity: .* cannot be read .* operator.job.pod_template"):
        await cloud.identity(AWS).token()


async def test_vertex_has_its_version_in_the_base_url(tmp_path: Path) -> None:
    base = "https://europe-west1-aiplatform.googleapis.com/v1/projects/p/locations/europe-west1/publishers/google"
    upstream = Upstream(WireFormat.GOOGLE, base, identity=Cloud(tmp_path, oauth).identity(GOOGLE))
    route = route_of("POST", "/v1beta/models/gemini-3.8-flash:streamGenerateContent", {})
    assert route is not None
    assert upstream.url(route) == f"{base}/models/gemini-3.8-flash:streamGenerateContent"
    assert await upstream.credential() == {"authorization": "Bearer a-token"}
    assert upstream.secrets == ("a-token",)
