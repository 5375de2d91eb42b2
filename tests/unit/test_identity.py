"""The authority names nodes, certificates say who they are, and files that do not fit are refused."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from atoll.domain.errors import AtollError, ConfigError, PolicyDenied
from atoll.identity import authority as authorities
from atoll.identity import certificate as certificates
from atoll.identity.files import write_private

NOW = datetime(2031, 5, 4, 12, tzinfo=UTC)


def issue(authority: authorities.Authority, number: int = 7, name: str = "harbour") -> tuple[str, str]:
    key = certificates.make_key()
    request = certificates.make_request(key, "asks for another name")
    return key, authority.issue(request, number=number, name=name, now=NOW)


def der(pem: str) -> bytes:
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)


def test_a_certificate_says_what_the_authority_decided_and_not_what_was_asked_for() -> None:
    authority = authorities.create(now=NOW)
    _, pem = issue(authority)
    peer = certificates.read_peer(der(pem))
    assert (peer.atoll_id, peer.number, peer.name) == (authority.atoll_id, 7, "harbour")
    assert peer.serial == f"{x509.load_pem_x509_certificate(pem.encode()).serial_number:x}"


def test_an_authority_is_the_same_after_it_was_saved(tmp_path: Path) -> None:
    authority = authorities.create(now=NOW)
    authority.save(tmp_path)
    loaded = authorities.load(tmp_path)
    assert (loaded.atoll_id, loaded.fingerprint) == (authority.atoll_id, authority.fingerprint)
    assert loaded.fingerprint == authorities.fingerprint(authority.pem)
    issue(loaded)
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_certificates_last_ten_years_and_are_valid_where_clocks_are_behind() -> None:
    _, pem = issue(authorities.create(now=NOW))
    assert certificates.days_left(pem, now=NOW) == 3653
    assert certificates.days_left(pem, now=NOW + timedelta(days=3660)) < 0
    assert x509.load_pem_x509_certificate(pem.encode()).not_valid_before_utc < NOW - timedelta(hours=1)


@pytest.mark.parametrize(
    ("number", "name", "code"),
    [
        (0, "a", "number-invalid"),
        (65536, "a", "number-invalid"),
        (1, "", "name-invalid"),
        (1, "a" * 64, "name-invalid"),
    ],
)
def test_impossible_names_and_numbers_get_no_certificate(number: int, name: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        issue(authorities.create(now=NOW), number, name)
    assert caught.value.code == code


def test_a_request_that_was_tampered_with_is_refused() -> None:
    request = certificates.make_request(certificates.make_key(), "n")
    broken = x509.load_pem_x509_csr(request.encode()).public_bytes(Encoding.DER)
    flipped = (
        x509.load_der_x509_csr(broken[:-1] + bytes([broken[-1] ^ 1])).public_bytes(Encoding.PEM).decode()
    )
    for bad in (flipped, "no request at all", ""):
        with pytest.raises(PolicyDenied) as caught:
            authorities.create(now=NOW).issue(bad, number=1, name="n", now=NOW)
        assert caught.value.code == "csr-invalid"


def test_an_authority_s_own_certificate_is_no_node(tmp_path: Path) -> None:
    with pytest.raises(PolicyDenied) as caught:
        certificates.read_peer(der(authorities.create(now=NOW).pem))
    assert caught.value.code == "certificate-invalid"
    with pytest.raises(PolicyDenied):
        certificates.read_peer(b"not a certificate")


def test_an_identity_is_refused_when_its_files_do_not_belong_together(tmp_path: Path) -> None:
    ours, other = authorities.create(now=NOW), authorities.create(now=NOW)
    key, pem = issue(ours)
    saved = certificates.save_identity(tmp_path, key_pem=key, certificate_pem=pem, authority_pem=ours.pem)
    assert saved.me.number == 7
    with pytest.raises(ConfigError) as caught:
        certificates.save_identity(
            tmp_path / "b", key_pem=certificates.make_key(), certificate_pem=pem, authority_pem=ours.pem
        )
    assert caught.value.code == "identity-mismatch"
    with pytest.raises(ConfigError) as caught:
        certificates.save_identity(tmp_path / "c", key_pem=key, certificate_pem=pem, authority_pem=other.pem)
    assert caught.value.code == "identity-mismatch"


def test_a_missing_file_is_named() -> None:
    with pytest.raises(AtollError) as caught:
        certificates.load_identity(Path("/nonexistent"))
    assert "/nonexistent/node.pem" in caught.value.message
    assert caught.value.hint


def test_a_secret_is_never_readable_by_others_and_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    with pytest.raises(UnicodeEncodeError):
        write_private(path, "né")
    assert path.read_text() == "old"
    write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
