"""The model gateway: a server on loopback that passes one attempt's requests to the models as streams.

A client with the gateway's own credential can ask the configured models and nothing else. The gateway adds
the real key, counts what each answer used, and answers 402 once the attempt's allowance is used up.

`wire_formats` knows the wire formats, `model_request` decides whether a request is allowed by what `contents`
finds in it, `headers` lists the headers that are passed on, `ledger` prices and reserves, `meter` reads what
an answer used, `upstream` describes a provider, `providers` asks them, `forwarding` passes requests and
answers on, and `gateway_server` sets their limits.
"""
