"""The model gateway: a streaming pass-through on loopback, for one attempt.

Whoever holds its dummy credential can ask the configured models and nothing else. The gateway puts the real
key in, counts what each answer used, and answers 402 once the attempt's allowance is used up.

`wire` knows the wire formats, `request` decides what may be asked, `ledger` prices and reserves, `connection`
bounds the clients, `upstream` asks the providers, and `server` passes requests and answers on.
"""

from coding_agent_consumer.gateway.server import Gateway, open_gateway
from coding_agent_consumer.gateway.upstream import Upstream, WorkloadIdentity
from coding_agent_consumer.gateway.wire import WireFormat

__all__ = ["Gateway", "Upstream", "WireFormat", "WorkloadIdentity", "open_gateway"]
