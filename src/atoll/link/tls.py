"""The TLS settings of the link: version 1.3 only, and trust in one authority only.

Names and hosts play no part: the caller compares atoll id and node number of the certificate instead.
"""

from __future__ import annotations

import ssl

from atoll.identity.certificate import Identity


def make_server_context(identity: Identity) -> ssl.SSLContext:
    """A client certificate is asked for, and verified when sent; what may go without is the listener's."""
    context = _base(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL
    # No resumption: each connection shows a certificate, which may have been revoked since the last one.
    context.num_tickets = 0
    context.load_verify_locations(cadata=identity.authority_pem)
    context.load_cert_chain(identity.certificate_path, identity.key_path)
    return context


def make_client_context(identity: Identity) -> ssl.SSLContext:
    context = make_stranger_context(identity.authority_pem)
    context.load_cert_chain(identity.certificate_path, identity.key_path)
    return context


def make_stranger_context(authority_pem: str | None) -> ssl.SSLContext:
    """For a node that has no certificate yet; without an authority it trusts nobody and anybody."""
    context = _base(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if authority_pem is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=authority_pem)
    return context


def _base(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
