"""The workload identity that opens a model's cloud service in place of a key."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from coding_agent_core.settings.section import OptionalUrl, Section

_REGION = r"^([a-z]{2,}(-[a-z]+)+-[0-9]+)?$"
_GOOGLE_PROVIDER = (
    r"^(projects/[0-9]+/locations/global/workloadIdentityPools/[a-z0-9-]+/providers/[a-z0-9-]+)?$"
)
_NEEDED = {"azure": ("tenant_id", "client_id"), "aws": ("role_arn", "region"), "google": ("provider",)}


class Identity(Section):
    """An identity at a cloud, proven by a token of the pod's ServiceAccount. `azure` needs `tenant_id` and
    `client_id`, `aws` needs `role_arn` and `region`, `google` needs `provider`."""

    cloud: Literal["azure", "aws", "google"]
    """`azure`: Microsoft Entra, for Azure OpenAI and Foundry. `aws`: an IAM role, for Bedrock. `google`:
    workload identity federation, for Vertex AI."""
    token_file: Path = Path("/var/run/secrets/coding-agent.dev/token")
    """File with the token of the pod's ServiceAccount, mounted into the agent's container alone."""
    tenant_id: str = Field(default="", pattern=r"^[A-Za-z0-9.-]*$")
    """Azure: the tenant."""
    client_id: str = Field(default="", pattern=r"^[A-Za-z0-9-]*$")
    """Azure: client id of the managed identity or of the application."""
    role_arn: str = Field(default="", pattern=r"^(arn:[a-z-]+:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]+)?$")
    """AWS: the role that may call the models."""
    region: str = Field(default="", pattern=_REGION)
    """AWS: region of the service, for example `eu-west-1`."""
    provider: str = Field(default="", pattern=_GOOGLE_PROVIDER)
    """Google: full name of the workload identity provider, which starts with `projects/`."""
    service_account: str = Field(default="", pattern=r"^([a-z0-9.-]+@[a-z0-9.-]+)?$")
    """Google: service account to impersonate; empty: the identity itself has the right."""
    endpoint: OptionalUrl = ""
    """Address that exchanges the token, in place of the cloud's own: for example an STS of your network."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for name in _NEEDED[self.cloud]:
            if not getattr(self, name):
                raise ValueError(f"{name} is missing: `cloud: {self.cloud}` needs it")
        return self

    @property
    def exchange(self) -> str:
        """The address that exchanges the token, without a trailing slash."""
        own = {
            "azure": "https://login.microsoftonline.com",
            "aws": f"https://sts.{self.region}.amazonaws.com",
            "google": "https://sts.googleapis.com",
        }
        return (self.endpoint or own[self.cloud]).rstrip("/")

    @property
    def impersonation(self) -> str | None:
        """Google's address that gives tokens of `service_account`; `None`: it is not needed."""
        if self.cloud != "google" or not self.service_account:
            return None
        return "https://iamcredentials.googleapis.com"
