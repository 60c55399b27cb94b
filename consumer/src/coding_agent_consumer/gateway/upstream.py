"""A provider of models, and the credential that requests to it carry.

The credential is a key, or a short-lived token that a cloud gives for the token of the pod's ServiceAccount.
Each cloud needs one or two plain requests for this; the vendors' libraries would add 5 MB (Azure) and 34 MB
(AWS) to the image. The requests are described in:

- Microsoft, *Client credentials flow, with a federated credential*;
- Google, *Workload Identity Federation* (RFC 8693), *generateAccessToken*;
- Amazon, *AssumeRoleWithWebIdentity*. A Bedrock bearer token is a presigned URL in base64: AWS's own
  `aws-bedrock-token-generator` makes the same bytes.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import html
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx2
from coding_agent_core.errors import CodingAgentError
from coding_agent_core.settings.llm import IDENTITY_TOKEN, Identity, WireFormat
from coding_agent_core.task.model import parse_time

from coding_agent_consumer.gateway.wire_formats import Route, credential_header

_logger = logging.getLogger("coding_agent.gateway")

_TOKEN_SECONDS = 10.0
"""One request to a cloud for a token may take this long."""
_EARLY = timedelta(minutes=5)
"""A token is replaced this long before it expires."""
_AZURE_SCOPE = "https://cognitiveservices.azure.com/.default"
_GOOGLE_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_BEDROCK = "bedrock.amazonaws.com"
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class TokenError(CodingAgentError):
    """The cloud gave no token; the message contains no secret."""


@dataclass
class WorkloadIdentity:
    """The token of an identity, fetched when it is needed and again before it expires.

    Attributes:
        clock: returns the current time, with its time zone.
        transport: replaces the network in tests.
        token_file: has the token of the pod's ServiceAccount.
        current: the last token; empty before the first one.
    """

    identity: Identity
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    transport: httpx2.AsyncBaseTransport | None = None
    token_file: Path = IDENTITY_TOKEN
    current: str = field(default="", repr=False)
    _until: datetime = _NEVER
    _fetching: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def token(self) -> str:
        """Return a token that is valid now.

        Raises:
            TokenError: the cloud gave no token.
        """
        async with self._fetching:
            now = self.clock()
            if now >= self._until - _EARLY:
                try:
                    self.current, self._until = await self._fetch(now)
                except TokenError as error:
                    if now >= self._until:
                        raise
                    _logger.warning("The token could not be replaced yet: %s", error)
            return self.current

    async def _fetch(self, now: datetime) -> tuple[str, datetime]:
        try:
            subject = self.token_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise TokenError(
                f"gateway.identity: {self.token_file} cannot be read "
                f"({type(error).__name__}): mount a token of the pod's ServiceAccount into `agent` with "
                "operator.job.pod_template"
            ) from error
        async with httpx2.AsyncClient(timeout=_TOKEN_SECONDS, transport=self.transport) as client:
            try:
                match self.identity.cloud:
                    case "azure":
                        return await self._azure(client, subject, now)
                    case "aws":
                        return await self._aws(client, subject, now)
                    case "google":
                        return await self._google(client, subject, now)
            except httpx2.HTTPError as error:
                # The error's text can contain the request, and with it the token.
                raise TokenError(
                    f"{self.identity.exchange} does not answer: {type(error).__name__}"
                ) from None

    async def _azure(self, client: httpx2.AsyncClient, subject: str, now: datetime) -> tuple[str, datetime]:
        answer = await client.post(
            f"{self.identity.exchange}/{self.identity.tenant_id}/oauth2/v2.0/token",
            data={
                "grant_type": "client_credentials",
                "client_id": self.identity.client_id,
                "scope": _AZURE_SCOPE,
                "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                "client_assertion": subject,
            },
        )
        return _oauth(answer, now)

    async def _google(self, client: httpx2.AsyncClient, subject: str, now: datetime) -> tuple[str, datetime]:
        answer = await client.post(
            f"{self.identity.exchange}/v1/token",
            data={
                "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
                "audience": f"//iam.googleapis.com/{self.identity.provider}",
                "scope": _GOOGLE_SCOPE,
                "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
                "subject_token": subject,
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            },
        )
        token, until = _oauth(answer, now)
        if self.identity.impersonation is None:
            return token, until
        account = f"/v1/projects/-/serviceAccounts/{self.identity.service_account}:generateAccessToken"
        answer = await client.post(
            self.identity.impersonation + account,
            json={"scope": [_GOOGLE_SCOPE], "lifetime": "3600s"},
            headers={"Authorization": f"Bearer {token}"},
        )
        found = _object(answer)
        return _text(found, "accessToken", answer), parse_time(found.get("expireTime")) or now

    async def _aws(self, client: httpx2.AsyncClient, subject: str, now: datetime) -> tuple[str, datetime]:
        answer = await client.post(
            f"{self.identity.exchange}/",
            data={
                "Action": "AssumeRoleWithWebIdentity",
                "Version": "2011-06-15",
                "RoleArn": self.identity.role_arn,
                "RoleSessionName": "coding-agent",
                "WebIdentityToken": subject,
            },
        )
        _require(answer)
        names = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
        found = [re.search(f"<{name}>([^<]+)</{name}>", answer.text) for name in names]
        if not all(found):
            raise TokenError(f"{answer.url.host} gave no credentials")
        key, secret, session, expiration = (html.unescape(one[1]) for one in found if one)
        until = parse_time(expiration) or now
        seconds = int((until - now).total_seconds())
        token = bedrock_token(key, secret, session, region=self.identity.region, now=now, seconds=seconds)
        return token, until


def bedrock_token(key: str, secret: str, session: str, *, region: str, now: datetime, seconds: int) -> str:
    """Return the token with which AWS credentials open Bedrock: a presigned URL in base64.

    AWS's package `aws-bedrock-token-generator` makes the same token, for the action `CallWithBearerToken`.

    Args:
        key, secret, session: the temporary credentials.
        now: the time of the signature, in UTC.
        seconds: how long the token is valid.
    """
    at = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{at[:8]}/{region}/bedrock/aws4_request"
    query = urlencode(
        {
            "Action": "CallWithBearerToken",
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{key}/{scope}",
            "X-Amz-Date": at,
            "X-Amz-Expires": str(seconds),
            "X-Amz-SignedHeaders": "host",
            "X-Amz-Security-Token": session,
        },
        quote_via=quote,
        safe="",
    )
    canonical = "&".join(sorted(query.split("&")))
    empty = hashlib.sha256(b"").hexdigest()
    request = f"POST\n/\n{canonical}\nhost:{_BEDROCK}\n\nhost\n{empty}"
    signed = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signer = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        signer = hmac.digest(signer, part.encode(), "sha256")
    signature = hmac.digest(signer, signed.encode(), "sha256").hex()
    url = f"{_BEDROCK}/?{query}&X-Amz-Signature={signature}&Version=1"
    return f"bedrock-api-key-{base64.b64encode(url.encode()).decode()}"


def _oauth(answer: httpx2.Response, now: datetime) -> tuple[str, datetime]:
    found = _object(answer)
    seconds = str(found.get("expires_in"))
    valid = timedelta(seconds=int(seconds) if seconds.isdecimal() else 0)
    return _text(found, "access_token", answer), now + valid


def _object(answer: httpx2.Response) -> Mapping[str, Any]:
    _require(answer)
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise TokenError(f"{answer.url.host} answered without a JSON object")
    return found


def _text(found: Mapping[str, Any], name: str, answer: httpx2.Response) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise TokenError(f"{answer.url.host} gave no {name}")
    return value


def _require(answer: httpx2.Response) -> None:
    if answer.status_code != 200:
        # The error codes of OAuth and AWS are words; the sentences next to them can repeat the token.
        code = re.search(r'"error": ?"([a-z_]{1,60})"|<Code>([A-Za-z]{1,60})</Code>', answer.text)
        said = f": {code[1] or code[2]}" if code else ""
        raise TokenError(f"{answer.url.host} answered {answer.status_code}{said}")


@dataclass(frozen=True)
class Upstream:
    """A provider.

    Attributes:
        base_url: the address as the vendor's own SDK takes it: with `/v1` only for OpenAI's format.
        key: the real credential; `None`: no credential is sent.
        identity: gives the credential in place of `key`.
    """

    format: WireFormat
    base_url: str
    key: str | None = field(default=None, repr=False)
    identity: WorkloadIdentity | None = None

    def url(self, route: Route) -> str:
        """Return the URL for a request."""
        # Vertex AI has its version before the project, which is in the base URL.
        path = route.path.removeprefix("/v1beta") if self.identity else route.path
        return self.base_url.rstrip("/") + path

    async def credential(self) -> dict[str, str]:
        """Return the header with the credential; empty without a credential.

        Raises:
            TokenError: the cloud gives no token.
        """
        if self.identity is not None:
            return {"authorization": f"Bearer {await self.identity.token()}"}
        return dict([credential_header(self.format, self.key)]) if self.key else {}

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets that must be removed from answers."""
        return tuple(filter(None, (self.key, self.identity.current if self.identity else None)))
