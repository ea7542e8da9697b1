"""Real mail servers for the tests, behind the relay or before it: Postfix, Exim and OpenSMTPD.

Each has a queue and a configuration of its own, and is started as root starts one. Debian lets one of them be
installed at a time, so Exim and OpenSMTPD lie unpacked in `.blindcopy/mta` (see .ci/run)."""

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ALL, needs
from tests.system.conftest import CHECKOUT, until

UNPACKED = CHECKOUT / ".blindcopy" / "mta" / "usr" / "sbin"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            return connection.recv(100).startswith(b"220")
    except OSError:
        return False


def unpacked(program):
    """The path of a server's program; without it the test is skipped, or fails where all must run."""
    path = UNPACKED / program
    if not path.exists():
        (pytest.fail if ALL else pytest.skip)(f"{path} is not there; .ci/run unpacks it")
    return str(path)


def let_in(directory):
    """Servers that give up root's rights must be able to get here."""
    for path in [directory, *directory.parents][:4]:
        path.chmod(path.stat().st_mode | 0o055)


def started(command, output):
    with output.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


class Postfix:
    def __init__(self, directory, *, relayhost=None, settings="", smtpd="", services=""):
        self.program = needs("postfix")
        self.directory = directory
        self.port = free_port()
        (directory / "etc").mkdir()
        (directory / "data").mkdir()
        (directory / "queue").mkdir()
        (directory / "etc" / "main.cf").write_text(
            f"""
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = provider.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
relayhost = {f"[127.0.0.1]:{relayhost}" if relayhost else ""}
{settings}
local_header_rewrite_clients =
smtputf8_enable = no
maillog_file = {directory}/mail.log
maillog_file_prefixes = {directory}
"""
        )
        (directory / "etc" / "master.cf").write_text(
            f"""
127.0.0.1:{self.port} inet n - n - - smtpd
{smtpd}
{services}
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
proxymap unix - - n - - proxymap
tlsmgr unix - - n 1000? 1 tlsmgr
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""
        )
        subprocess.run(["chown", "postfix", str(directory / "data")], check=True)
        let_in(directory)
        self._postfix("start")
        until(lambda: answers(self.port))

    def log(self):
        return (self.directory / "mail.log").read_text()

    def _postfix(self, verb):
        done = subprocess.run(
            [self.program, "-c", str(self.directory / "etc"), verb],
            check=False,
            capture_output=True,
            timeout=60,
            text=True,
        )
        assert done.returncode == 0, done

    def stop(self):
        self._postfix("stop")


class Exim:
    """Passes everything on to `relayhost`, a port of this machine; asks its queue every two seconds."""

    def __init__(self, directory, *, relayhost):
        program = unpacked("exim4")
        self.directory, self.port = directory, free_port()
        for room in ("spool", "log"):
            (directory / room).mkdir()
        configuration = directory / "exim.conf"
        configuration.write_text(
            f"""
exim_path = {program}
primary_hostname = exim.test
keep_environment =
spool_directory = {directory}/spool
log_file_path = {directory}/log/%slog
pid_file_path = {directory}/pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {self.port}
tls_advertise_hosts =
dsn_advertise_hosts = *
deliver_drop_privilege = true
acl_smtp_rcpt = accept
acl_smtp_data = accept
begin acl
begin routers
smart:
  driver = manualroute
  transport = out
  route_list = * 127.0.0.1
  self = send
begin transports
out:
  driver = smtp
  port = {relayhost}
  hosts_avoid_tls = *
  hosts_try_chunking =
begin retry
* * F,1h,1s
"""
        )
        configuration.chmod(0o644)
        let_in(directory)
        for room in ("spool", "log"):
            shutil.chown(directory / room, "Debian-exim")
        self.process = started([program, "-C", str(configuration), "-bdf", "-q2s"], directory / "out")
        until(lambda: answers(self.port))

    def log(self):
        return (self.directory / "log" / "mainlog").read_text()

    def try_again(self):
        """It does so by itself, every two seconds."""

    def stop(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(20)


class OpenSmtpd:
    """Passes everything on to `relayhost`, a port of this machine. There is one at a time: its queue and its
    control socket have fixed places."""

    def __init__(self, directory, *, relayhost):
        program = unpacked("smtpd")
        self.directory, self.port = directory, free_port()
        shutil.rmtree("/var/spool/smtpd", ignore_errors=True)
        for place, mode in (("/var/spool/smtpd", 0o711), ("/var/lib/opensmtpd/empty", 0o755)):
            Path(place).mkdir(mode=mode, parents=True, exist_ok=True)
            Path(place).chmod(mode)
        configuration = directory / "smtpd.conf"
        configuration.write_text(
            f"""
listen on 127.0.0.1 port {self.port}
action "onward" relay host smtp+notls://127.0.0.1:{relayhost}
match from any for any action "onward"
"""
        )
        configuration.chmod(0o644)
        let_in(directory)
        self.process = started([program, "-d", "-f", str(configuration)], directory / "out")
        until(lambda: answers(self.port))

    def log(self):
        return (self.directory / "out").read_text()

    def try_again(self):
        """What waits in its queue, at once; it would wait for minutes."""
        subprocess.run([unpacked("smtpctl"), "schedule", "all"], check=True, capture_output=True, timeout=20)

    def stop(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(20)
