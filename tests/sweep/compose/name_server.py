"""Docker's name server in small: one name, and the addresses of its replicas."""

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset

_STOP = b""


@contextlib.contextmanager
def name_server(name: str, addresses: Sequence[str]) -> Iterator[int]:
    """Answer for one name on a free UDP port of the loopback interface; yields the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=_serve, args=(sock, name, addresses), daemon=True)
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            sock.sendto(_STOP, sock.getsockname())
            thread.join(60)


def _serve(sock: socket.socket, name: str, addresses: Sequence[str]) -> None:
    while True:
        data, client = sock.recvfrom(4096)
        if data == _STOP:
            return
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.AA | dns.flags.RA
        [asked] = query.question
        if asked.rdtype == dns.rdatatype.A and asked.name.to_text(omit_final_dot=True) == name:
            answer.answer.append(dns.rrset.from_text(asked.name, 0, "IN", "A", *addresses))
        sock.sendto(answer.to_wire(), client)
