"""The listeners' certificate, taken over when its files change: certificates are renewed every 47 to 100
days, and no session is to end for that.

The next handshake uses what was taken over last. A pair that cannot be used is refused with an alarm, and the
old one stays."""

import asyncio

from core import logs
from core.background import off_loop
from core.endpoints import TlsFiles
from core.smtp import server_context

SECONDS_BETWEEN_LOOKS = 60.0


class Certificate:
    """The TLS context of the listeners, and the files that it comes from."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises OSError where certificate and key cannot be used."""
        self._files = files
        self._taken = self._content()
        self.context = server_context(files)
        self.trouble: str | None = None
        """Why what lies in the files now is not used; None: it is."""
        self._look_now = asyncio.Event()

    def look_soon(self) -> None:
        """Look at once; for a signal handler on the event loop."""
        self._look_now.set()

    async def watch(self) -> None:
        """For ever: look at the files every minute, and when asked to."""
        while True:
            try:
                async with asyncio.timeout(SECONDS_BETWEEN_LOOKS):
                    await self._look_now.wait()
            except TimeoutError:
                pass
            self._look_now.clear()
            await off_loop(self.look)

    def look(self) -> None:
        """Take over what has changed, if it can be used."""
        try:
            found = self._content()
            if found == self._taken:
                self.trouble = None
                return
            # a pair that does not fit is found out before the live context is touched
            server_context(self._files)
            self.context.load_cert_chain(self._files.certificate, self._files.key)
        except OSError as error:
            if self.trouble != str(error):
                self.trouble = str(error)
                logs.certificate_refused(str(self._files.certificate), str(error))
            return
        self._taken, self.trouble = found, None
        logs.certificate_taken_over(str(self._files.certificate))

    def _content(self) -> tuple[bytes, bytes]:
        return self._files.certificate.read_bytes(), self._files.key.read_bytes()
