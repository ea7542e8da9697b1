"""A certificate that changes under a running relay: shown at the next handshake, and no session ends for it."""

import signal
import smtplib
import socket
import ssl

import trustme

from tests.system.conftest import mail, send, until


def shown(port):
    """The serial number of the certificate that the listener shows."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain) as secure:
        der = secure.getpeercert(binary_form=True)
    from cryptography import x509

    return x509.load_der_x509_certificate(der).serial_number


def put(authority, directory, key_of=None):
    """A new certificate in place of the old one; its serial number."""
    leaf = authority.issue_cert("127.0.0.1")
    (key_of or leaf).private_key_pem.write_to_path(str(directory / "key.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(directory / "cert.pem"))
    from cryptography import x509

    return x509.load_pem_x509_certificate((directory / "cert.pem").read_bytes()).serial_number


def test_a_new_certificate_is_taken_over_and_a_broken_pair_is_refused(installation, sink, tmp_path):
    authority = trustme.CA()
    first = put(authority, tmp_path)
    log = tmp_path / "relay.log"
    relay = installation.start_relay_raw(
        "submissions",
        log.open("wb"),
        BLINDCOPY_LISTEN="submissions://127.0.0.1:0",
        BLINDCOPY_TLS_CERT=str(tmp_path / "cert.pem"),
        BLINDCOPY_TLS_KEY=str(tmp_path / "key.pem"),
    )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    assert shown(relay.port) == first
    with smtplib.SMTP_SSL("127.0.0.1", relay.port, context=context, timeout=20) as client:
        client.login("anna@acme.test", installation.password)
        second = put(authority, tmp_path)
        relay.send_signal(signal.SIGHUP)
        until(lambda: shown(relay.port) == second)
        send(client, mail(1))
        put(authority, tmp_path, key_of=authority.issue_cert("127.0.0.1"))
        relay.send_signal(signal.SIGHUP)
        until(lambda: "ALARM a new certificate cannot be used" in log.read_text())
        assert shown(relay.port) == second, "the former one stays"
        send(client, mail(2))
        third = put(authority, tmp_path)
        relay.send_signal(signal.SIGHUP)
        until(lambda: shown(relay.port) == third)
        send(client, mail(3))
    assert len(sink.sink.taken) == 3
    assert relay.poll() is None


def test_a_hangup_ends_no_relay_without_a_certificate(installation, sink):
    relay = installation.start_relay()
    with installation.client(relay) as client:
        relay.send_signal(signal.SIGHUP)
        send(client, mail(1))
    assert relay.poll() is None
