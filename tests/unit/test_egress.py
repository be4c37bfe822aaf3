"""Egress: what may be reached is reached, and nothing inside is, however it is spelled."""

from __future__ import annotations

import asyncio
import socket
import ssl
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from service.errors import InvalidRequest
from service.notify.addresses import AddressRules
from service.notify.egress import MAX_REPLY_BYTES, Answer, Egress
from tests.receiver import Receiver, receiving, status

TLS = Path(__file__).parent.parent / "data" / "tls"
LOOPBACK = ("127.0.0.0/8",)

INSIDE = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200",
    "100.127.255.254", "127.0.0.1", "127.1.2.3", "169.254.169.254", "169.254.170.2", "172.16.0.1",
    "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1",
    "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.7", "224.0.0.1", "239.255.255.250",
    "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:10.0.0.1",
    "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1",
    "2001::1", "2001:0:7f00:1::", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::",
    "2002:a9fe:a9fe::", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "febf::1",
    "fec0::1", "ff02::1", "ff0e::1",
]  # fmt: skip

SPELLINGS = [  # of loopback and of the metadata service, as inet_aton and people write them
    "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0x7f.0.0.1", "0177.0.0.1",
    "017700000001", "0", "0x0", "2852039166", "0xa9fea9fe", "0xa9.0xfe.0xa9.0xfe",
    "0251.0376.0251.0376", "169.254.43518", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]",
    "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[::FFFF:7F00:1]",
]  # fmt: skip

PUBLIC = [
    "8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.32.0.1", "192.0.1.1",
    "198.20.0.1", "223.255.255.255", "2606:4700::1111", "2a00:1450::1", "2003::1",
]  # fmt: skip


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def post(egress: Egress, url: str) -> Answer:
    return asyncio.run(egress.post(url, {"content-type": "text/plain"}, b"hello"))


def open_way(**more: object) -> Egress:
    return Egress(LOOPBACK, http=True, **more)  # type: ignore[arg-type]


def resolving(*answers: list[str]) -> tuple[list[str], object]:
    """A resolver that gives one answer after another, and the names that it was asked for."""
    asked: list[str] = []
    left = list(answers)

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return left.pop(0)

    return asked, resolve


# The rules


@pytest.mark.parametrize("host", [*map(bracketed, INSIDE), *SPELLINGS])
def test_an_address_inside_is_refused_however_it_is_spelled(host: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        AddressRules().target(f"https://{host}/hook")
    assert refused.value.detail.startswith("url: ")
    assert host not in refused.value.detail


@pytest.mark.parametrize("address", INSIDE)
def test_a_name_that_resolves_inside_is_never_connected_to(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connects: list[str] = []

    async def connect(remote_host: str, **_: object) -> None:
        connects.append(remote_host)
        raise OSError

    monkeypatch.setattr("anyio.connect_tcp", connect)
    public = "8.8.8.8"
    for found in ([address], [public, address]):
        _, resolve = resolving(found)
        answer = post(Egress(resolve=resolve), "https://hooks.example/x")  # type: ignore[arg-type]
        assert answer == Answer(None, "url: the address is not public")
    assert connects == []
    _, resolve = resolving([public])  # the control: the same way with a public address does connect
    post(Egress(resolve=resolve), "https://hooks.example/x")  # type: ignore[arg-type]
    assert connects == [public]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    target = AddressRules().target(f"https://{bracketed(address)}/hook")
    assert target.address == ip_address(address)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://hooks.example/", "https"),
        ("ftp://hooks.example/", "https"),
        ("file:///etc/passwd", "https"),
        ("gopher://hooks.example/", "https"),
        ("//hooks.example/", "https"),
        ("hooks.example", "https"),
        ("", "ASCII"),
        ("https://hooks.example:80/", "port"),
        ("https://hooks.example:22/", "port"),
        ("https://hooks.example:0/", "port"),
        ("https://hooks.example:99999/", "port"),
        ("https://hooks.example:x/", "port"),
        ("https://user@hooks.example/", "user name"),
        ("https://user:pass@hooks.example/", "user name"),
        ("https://@127.0.0.1/", "user name"),
        ("https:///x", "host"),
        ("https://%31%32%37.0.0.1/", "host"),
        ("https://[fe80::1%25eth0]/", "host"),
        ("https://[v1.x]/", "host"),
        ("https://[::1/", "host"),
        ("https://hooks..example/", "host"),
        ("https://-hooks.example/", "host"),
        ("https://" + "a" * 64 + ".example/", "host"),
        ("https://hooks.example\\@127.0.0.1/", "ASCII"),
        ("https://hooks.example/\r\nx: y", "ASCII"),
        ("https://hooks.example/\x00", "ASCII"),
        ("https://hooks.example/ x", "ASCII"),
        ("https://①②⑦.⓪.⓪.①/", "ASCII"),
        ("https://127。0。0。1/", "ASCII"),
        ("https://hooks.example/" + "a" * 2048, "2048"),
    ],
)
def test_a_url_outside_the_rules_is_refused_by_the_rule_s_name(url: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        AddressRules().target(url)


@pytest.mark.parametrize("port", ["", ":443", ":8443"])
def test_https_on_the_two_ports_passes(port: str) -> None:
    target = AddressRules().target(f"https://hooks.example{port}/a?b=c#d")
    assert (target.port, target.path) == (int(port[1:] or 443), "/a?b=c")


def test_allowed_networks_are_lifted_and_no_others() -> None:
    rules = AddressRules(["10.1.0.0/16"], http=True)
    assert rules.target("http://10.1.2.3:9000/").port == 9000
    for url in ("https://10.2.0.1/", "http://127.0.0.1/", "http://8.8.8.8/", "https://8.8.8.8:22/"):
        with pytest.raises(InvalidRequest):
            rules.target(url)
    with pytest.raises(InvalidRequest):
        AddressRules(["10.1.0.0/16"]).target("http://10.1.2.3/")
    assert AddressRules(["10.1.0.0/16"]).target("https://10.1.2.3:9000/").port == 9000


def test_a_mapped_address_is_judged_as_the_ipv4_address_that_it_is() -> None:
    url = "https://[::ffff:127.0.0.1]/"
    with pytest.raises(InvalidRequest):
        AddressRules(["::/0"]).target(url)  # lifts IPv6, which this is not
    assert AddressRules(LOOPBACK).target(url).port == 443


def test_plain_http_to_a_name_is_refused_unless_the_name_is_in_a_lifted_network() -> None:
    _, resolve = resolving(["8.8.8.8"])
    answer = post(open_way(resolve=resolve), "http://hooks.example/")
    assert answer == Answer(None, "url: must be https")


# The way


def test_a_post_arrives_with_its_headers_and_bytes() -> None:
    with receiving() as receiver:
        assert post(open_way(), receiver.url) == Answer(204)
    (request,) = receiver.requests
    assert (request.path, request.body) == ("/hooks", b"hello")
    assert request.headers["host"] == urlsplit(receiver.url).netloc
    assert request.headers["content-type"] == "text/plain"
    assert request.headers["content-length"] == "5"


def test_it_connects_to_the_address_that_was_checked() -> None:
    """A rebinding name: the second look would give another address; there is no second look."""
    with receiving() as receiver:
        asked, resolve = resolving(["127.0.0.1"], ["10.0.0.1"])
        url = f"http://hooks.example:{urlsplit(receiver.url).port}/hooks"
        egress = open_way(resolve=resolve)
        assert post(egress, url).status == 204
        assert asked == ["hooks.example"]
        assert post(egress, url).status is None
    assert receiver.n_connections == 1
    assert receiver.requests[0].headers["host"].startswith("hooks.example:")


def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    with receiving() as receiver:
        port = urlsplit(receiver.url).port
        _, resolve = resolving(["127.9.9.9", "127.0.0.1"])
        assert post(open_way(resolve=resolve), f"http://hooks.example:{port}/").status == 204


def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    with receiving() as receiver:
        receiver.replies = [status(307, location=receiver.url + "/elsewhere")]
        assert post(open_way(), receiver.url).status == 307
    assert len(receiver.requests) == 1


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as proxy, receiving() as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert post(open_way(), receiver.url).status == 204
    assert (proxy.n_connections, receiver.n_connections) == (0, 1)


def test_a_name_that_does_not_resolve_is_said_so() -> None:
    _, resolve = resolving([])
    assert post(open_way(resolve=resolve), "https://no.example/").error == (
        "url: the name does not resolve"
    )


def test_a_closed_port_is_an_answer_without_a_status() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        answer = post(open_way(), f"http://127.0.0.1:{unused.getsockname()[1]}/")
    assert answer == Answer(None, "connection failed: ConnectError")


def test_a_receiver_that_hangs_costs_the_deadline_and_no_more() -> None:
    with receiving() as receiver:
        receiver.replies = [receiver.hang]
        answer = post(open_way(deadline_seconds=0.2), receiver.url)
        assert answer == Answer(None, "no answer within 0.2 s")
        assert len(receiver.requests) == 1


def test_a_receiver_that_drips_its_head_costs_the_deadline_and_no_more() -> None:
    with receiving() as receiver:

        def drip(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not receiver.released.wait(0.02):
                handler.wfile.write(b"x-more: y\r\n")

        receiver.replies = [drip]
        assert post(open_way(deadline_seconds=0.3), receiver.url).status is None


def test_an_endless_reply_is_read_up_to_the_limit() -> None:
    with receiving() as receiver:
        written: list[int] = []

        def endless(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.end_headers()
            while True:  # ends when the other side closes
                written.append(handler.wfile.write(b"x" * 65536))

        receiver.replies = [endless]
        assert post(open_way(), receiver.url).status == 200
        receiver.released.wait(0)
    buffers = 16 * 1024 * 1024  # what the kernel takes on both sides without anyone reading
    assert sum(written) < MAX_REPLY_BYTES + buffers


def test_a_status_stands_though_its_body_never_ends() -> None:
    with receiving() as receiver:

        def stuck(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("content-length", "10")
            handler.end_headers()
            receiver.hang(handler)

        receiver.replies = [stuck]
        assert post(open_way(deadline_seconds=0.3), receiver.url) == Answer(200)


@pytest.mark.parametrize("noise", [b"\x16\x03\x01 not http\r\n\r\n", b"", b"HTTP/1.1 abc\r\n\r\n"])
def test_an_answer_that_is_not_http_is_no_answer(noise: bytes) -> None:
    with receiving() as receiver:

        def mutter(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(noise)

        receiver.replies = [mutter]
        answer = post(open_way(), receiver.url)
    assert answer == Answer(None, "the answer is not HTTP")


# TLS


@pytest.fixture
def secure() -> object:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "hooks.pem")
    with receiving(context) as receiver:
        yield receiver


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=TLS / "ca.pem")


def secure_url(receiver: Receiver, host: str) -> str:
    return f"https://{host}:{urlsplit(receiver.url).port}/hooks"


def test_the_certificate_is_of_the_name_though_the_connection_is_to_the_address(
    secure: Receiver,
) -> None:
    _, resolve = resolving(["127.0.0.1"])
    egress = open_way(resolve=resolve, ca_file=TLS / "ca.pem")
    assert post(egress, secure_url(secure, "hooks.example")) == Answer(204)


@pytest.mark.parametrize("host", ["other.example", "127.0.0.1"])
def test_a_certificate_of_another_name_gets_nothing(secure: Receiver, host: str) -> None:
    _, resolve = resolving(["127.0.0.1"])
    egress = open_way(resolve=resolve, ca_file=TLS / "ca.pem")
    assert post(egress, secure_url(secure, host)).error == "connection failed: ConnectError"
    assert secure.requests == []


def test_a_certificate_of_an_unknown_authority_gets_nothing(secure: Receiver) -> None:
    _, resolve = resolving(["127.0.0.1"])
    answer = post(open_way(resolve=resolve), secure_url(secure, "hooks.example"))
    assert answer.error == "connection failed: ConnectError"
    assert secure.requests == []
