"""A real Postfix for the tests: behind the relay, or before it."""

import socket
import subprocess

from tests.conftest import needs
from tests.system.conftest import until


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Postfix:
    """A real Postfix with a queue and a configuration of its own, as root starts one."""

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
        for path in [directory, *directory.parents][:4]:
            path.chmod(path.stat().st_mode | 0o055)
        self._postfix("start")
        until(self.answers)

    def answers(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                return connection.recv(100).startswith(b"220")
        except OSError:
            return False

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
