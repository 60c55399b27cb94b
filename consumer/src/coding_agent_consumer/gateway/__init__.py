"""The model gateway: a server on loopback that passes one attempt's requests to the models as streams.

A client with the gateway's own credential can ask the configured models and nothing else. The gateway adds
the real key, counts what each answer used, and answers 402 once the attempt's allowance is used up.

`wire` knows the wire formats, `request` decides whether a request is allowed by what `contents` finds in it,
`headers` lists the headers that are passed on, `ledger` prices and reserves, `meter` reads what an answer
used, `upstream` asks the providers, `app` passes requests and answers on, and `server` sets their limits.
"""

from coding_agent_consumer.gateway.forwarding import Gateway
from coding_agent_consumer.gateway.gateway_server import open_gateway
from coding_agent_consumer.gateway.upstream import Upstream, WorkloadIdentity
from coding_agent_consumer.gateway.wire_formats import WireFormat

__all__ = ["Gateway", "Upstream", "WireFormat", "WorkloadIdentity", "open_gateway"]
