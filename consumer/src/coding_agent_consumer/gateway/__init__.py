"""The model gateway: a streaming pass-through on loopback, for one attempt.

Whoever holds its dummy credential can ask the configured models and nothing else. The gateway puts the real
key in, counts what each answer used, and answers 402 once the attempt's allowance is used up.

`wire` knows the wire formats, `request` decides what may be asked by what `contents` finds in it, `headers`
lists what is sent on, `ledger` prices and reserves, `meter` reads what an answer used, `upstream` asks the
providers, `app` passes requests and answers on, and `server` serves it within bounds.
"""

from coding_agent_consumer.gateway.app import Gateway
from coding_agent_consumer.gateway.server import open_gateway
from coding_agent_consumer.gateway.upstream import Upstream, WorkloadIdentity
from coding_agent_consumer.gateway.wire import WireFormat

__all__ = ["Gateway", "Upstream", "WireFormat", "WorkloadIdentity", "open_gateway"]
