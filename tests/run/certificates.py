"""A certificate for this machine, made by the openssl command."""

import subprocess


def make_certificate(folder):
    """The files of a certificate and of its private key."""
    certificate, private = folder / "c.pem", folder / "k.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(private), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, private
