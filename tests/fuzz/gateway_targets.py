"""What goes through the gateway: requests of the commands that the model runs, and answers of providers."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from coding_agent_consumer.gateway.headers import (
    check_content,
    returned_headers,
    sent_headers,
    sent_parameters,
)
from coding_agent_consumer.gateway.ledger import Ledger, Size, Tokens, Verdict, pricing_of
from coding_agent_consumer.gateway.meter import Counted, Ending, Meter
from coding_agent_consumer.gateway.model_request import read_request
from coding_agent_consumer.gateway.wire_formats import (
    Operation,
    RequestRefusedError,
    credential_of,
    error_body,
    route_of,
)
from coding_agent_core.settings.llm import Price, WireFormat
from coding_agent_core.task.attempts import MAX_MESSAGE_BYTES, Outcome
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.usage import Allowance

from tests.fuzz.bounds import at_most, header_of

_PRICES = {"m": Price(input=Decimal(3), output=Decimal(15), cache_write=Decimal("3.75"))}
_PRICING = pricing_of("m", "http://127.0.0.1", _PRICES)
_MONEY = Allowance(amount=Decimal(5), currency="USD")
_ALLOWED = ("m", "gpt-*")
_GATEWAY = 2_000
"""What the gateway itself may add to a request."""


def gateway_request(data: bytes) -> bool:
    """A line with the path, then the body of a request for an answer."""
    path, body = header_of(data)
    route = route_of("POST", path, {})
    if route is None:
        return False
    try:
        ask = read_request(route, body, models=_ALLOWED, longest=lambda _: 200_000)
    except RequestRefusedError as refused:
        _check_refusal(refused, route.format)
        return False
    sent = json.loads(ask.body)
    assert isinstance(sent, dict)
    # Half of a surrogate pair takes six bytes as an escape and three in what is sent; floats may get longer.
    at_most(len(ask.body), 4 * len(body) + _GATEWAY)
    assert all(name == "m" or name.startswith("gpt-") for name in ask.models)
    assert ask.size.most is None or ask.size.most.input >= ask.size.least
    again = read_request(route, ask.body, models=_ALLOWED, longest=lambda _: 200_000)
    assert (again.body, again.models) == (ask.body, ask.models), "what is sent would be accepted as it is"
    for allowance in (_MONEY, Allowance(tokens=1_000_000), None):
        ledger = Ledger(allowance)
        number = ledger.reserve(ask.size, _PRICING)
        if not isinstance(number, Verdict):
            ledger.charge_reserved(
                number, ask.models[0], ask.size.most or Tokens(input=ask.size.least), _PRICING
            )
            _check_ledger(ledger)
            assert allowance is None or ledger.spent <= allowance.value, "a reservation fits what is left"
    return True


def gateway_head(data: bytes) -> bool:
    """A line with method, path and query, then a header a line; no body."""
    head, rest = header_of(data)
    method, _, address = head.partition(" ")
    path, _, query = address.partition("?")
    raw = [tuple(line.partition(b":")[::2]) for line in rest.split(b"\n") if line]
    headers = {name.decode("latin-1").lower(): value.decode("latin-1").strip() for name, value in raw}
    route = route_of(method, path, headers)
    credential_of(headers)
    sent = sent_headers(headers)
    assert not {"authorization", "x-api-key", "x-goog-api-key", "cookie", "host"} & sent.keys()
    back = dict(returned_headers([(name, value) for name, value in raw]))
    assert not {b"set-cookie", b"connection", b"transfer-encoding"} & back.keys()
    try:
        check_content(headers)
        parameters = sent_parameters(query.encode("latin-1"))
    except RequestRefusedError as refused:
        _check_refusal(refused, None)
        return False
    assert not {"key", "access_token", "fields"} & {name for name, _ in parameters}
    assert all(len(value) <= 2_048 and "&" not in value for _, value in parameters)
    return route is not None


def gateway_answer(data: bytes) -> bool:
    """A line with operation, content type and encoding, separated by `|`, then the answer's body."""
    head, body = header_of(data)
    name, kind, encoding = (*head.split("|"), "", "", "")[:3]
    operation = next((one for one in Operation if one == name), Operation.MESSAGES)
    counted = {one: _counted(operation, kind, encoding, body, len(body) or 1, one) for one in Ending}
    whole = counted[Ending.WHOLE]
    pieces = _counted(operation, kind, encoding, body, len(body) // 16 or 1, Ending.WHOLE)
    assert whole == pieces, "how the bytes arrive does not matter"
    # One of them for each input, because counting takes the most time.
    ledger = Ledger((_MONEY, Allowance(tokens=1_000_000), None)[len(body) % 3])
    for used in counted.values():
        number = ledger.reserve(Size(0, None), _PRICING)
        if isinstance(number, Verdict):
            break
        before = ledger.spent
        charge = ledger.charge if used.known else ledger.charge_reserved
        charge(number, "m", used.tokens, _PRICING)
        assert ledger.spent >= before
    _check_ledger(ledger)
    return whole.known


def _counted(
    operation: Operation, kind: str, encoding: str, body: bytes, piece: int, ending: Ending
) -> Counted:
    meter = Meter(operation, kind, encoding)
    for start in range(0, len(body), piece):
        meter.feed(body[start : start + piece])
    counted = meter.end(ending, estimated_input=10)
    numbers: list[Any] = [value for value in vars(counted.tokens).values() if isinstance(value, int)]
    assert all(number >= 0 for number in numbers)
    return counted


def _check_refusal(refused: RequestRefusedError, format: WireFormat | None) -> None:
    assert json.loads(error_body(format, refused.status, str(refused)))
    at_most(len(str(refused)), 1_000)


def _check_ledger(ledger: Ledger) -> None:
    """What was counted fits the attempt's report."""
    report = Outcome(reason=Reason.COMPLETED, message="Done.", usage=ledger.usage)
    message = report.to_termination_message()
    at_most(len(message.encode()), MAX_MESSAGE_BYTES)
    assert Outcome.from_termination_message(message) is not None
