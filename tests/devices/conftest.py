"""Devices for tests: a command in the place of ssh that runs what it is given here, and a real server where there is one."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from planish.devices.remote import ssh

SSHD = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")
FAKE = """#!/bin/sh
for last; do :; done
exec sh -c "$last"
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a device for which ``ssh`` is a script that runs the command here, with a home of its own."""
    script = tmp_path / "fake-ssh"
    script.write_text(FAKE)
    script.chmod(0o755)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv(ssh.COMMAND, str(script))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return f"ssh://device{sys.executable}"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an OpenSSH server of this user on this machine."""
    if SSHD is None:
        pytest.skip("OpenSSH's server is not installed")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    shutil.copy(tmp_path / "user.pub", tmp_path / "authorized")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/authorized\nStrictModes no\n"
        f"PidFile none\nUsePAM no\nPasswordAuthentication no\n"
    )
    known = (tmp_path / "host.pub").read_text().split()[:2]
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(known)}\n")
    (tmp_path / "config").write_text(
        f"Host *\n IdentityFile {tmp_path}/user\n IdentitiesOnly yes\n UserKnownHostsFile {tmp_path}/known_hosts\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where a server started by root wants to be
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(tmp_path / "sshd_config")], stderr=subprocess.PIPE)
    monkeypatch.setenv(ssh.COMMAND, f"ssh -F {tmp_path}/config")
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield f"ssh://{getpass.getuser()}@127.0.0.1:{port}{sys.executable}"
    process.kill()
    process.wait()
