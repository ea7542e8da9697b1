"""What a client may hear and the record may keep of what the upstream said.

Pure: replies in, replies or texts out."""

from relay.replies import Reply


def without_copy_address(reply: Reply, copy_address: str | None) -> Reply:
    """The upstream's code and text; only the code where the text names the blind copy's address."""
    names_it = copy_address is not None and reply.names(copy_address.encode())
    return reply.without_text() if names_it else reply


def kept_in_record(verdict: Reply | None, copy_address: str | None, *, keeps_content: bool) -> str | None:
    """What the row keeps of the verdict: of a mail that leaves no content only the code."""
    if verdict is None:
        return None
    return without_copy_address(verdict, copy_address).text() if keeps_content else verdict.bare()
