"""Our client over HTTPS: a registry's certificate is good for something only if a wrong one is refused."""

import ssl
import subprocess

import pytest

from cnlab.containers.images.layout import Layout
from cnlab.containers.registry import Client, Registry, TlsError, pull, push

from .conftest import LAYERS
from .debian_registry import debian_registry


def self_signed(directory, host):
    """A certificate for `host`, such as IP:127.0.0.1, that nobody has signed but itself, and its key."""
    certificate, key = directory / "certificate", directory / "key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    names = ["-subj", "/CN=a test of cnlab", "-addext", f"subjectAltName={host}", "-days", "2"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def certificate(directory):
    return self_signed(directory, "IP:127.0.0.1")


@pytest.fixture(scope="module")
def address(directory, certificate):
    with debian_registry(directory / "registry", certificate=certificate) as address:
        yield address


def first_blob(image):
    layout, descriptor = image
    return layout.manifest(descriptor)["config"]["digest"]


def trusting(certificate):
    return ssl.create_default_context(cafile=certificate[0])


def test_image_goes_there_and_back_over_https(address, certificate, image, tmp_path):
    """With the file of who signed the certificate, which is itself."""
    name = f"{address}/app:1"
    client = Client(address, tls=trusting(certificate))
    pushed = push(image, name, client=client)
    other = Layout.create(tmp_path / "pulled")
    pulled = pull(name, other, client=Client(address, tls=trusting(certificate)))

    assert image[1].digest == pushed.digest == pulled.digest
    assert LAYERS == tuple(other.read_blob(layer.descriptor) for layer in pulled.layers)


def test_unknown_signer_is_refused_in_one_line(address, image):
    """By default the system's list of signers counts, and ours is not in it."""
    with pytest.raises(TlsError) as caught:
        push(image, f"{address}/refused:1", client=Client(address, tls=True))
    request = f"HEAD https://{address}/v2/refused/blobs/{first_blob(image)}"

    assert f"{request}: its certificate is not to be trusted: self-signed certificate" == str(caught.value)
    assert "cafile" in caught.value.__notes__[0]


def test_certificate_of_another_host_is_refused(tmp_path):
    """Who holds it may be anybody, though its signer is known."""
    other = self_signed(tmp_path, "DNS:registry.example")
    with debian_registry(tmp_path / "other", certificate=other) as address, pytest.raises(TlsError) as caught:
        Client(address, tls=trusting(other)).ping()

    assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in str(caught.value)


def test_registry_without_tls_is_named(tmp_path):
    """HTTPS was asked for; a plain answer must not be taken instead."""
    with Registry(tmp_path) as registry, pytest.raises(TlsError) as caught:
        Client(registry.address, tls=True).ping()

    assert f"GET https://{registry.address}/v2/: it speaks no TLS" == str(caught.value)
