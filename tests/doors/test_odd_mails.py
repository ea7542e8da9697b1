"""Whatever a mail is like, it arrives byte for byte; what was signed stays signed."""

import asyncio

import dkim
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from core.settings import store as settings_store
from core.settings.catalogue import Setting
from tests.doors.conftest import mail, running
from tests.mails import odd_mails


def test_two_hundred_odd_mails_arrive_byte_for_byte(sqlite, tmp_path):
    mails = odd_mails()
    assert len(mails) >= 200

    async def claim():
        async with running(sqlite, tmp_path) as relay:
            with relay.database.writing() as opened:
                settings_store.set_policy(opened, Setting.MAILS_PER_MINUTE, "100000", actor=None)
            await relay.snapshot.look()
            client = await relay.connect()
            for content in mails:
                assert (await client.mail(content)).startswith("250"), content[:200]
            assert [taken.raw for taken in relay.sink.taken] == mails
            assert len(await relay.all_rows()) == len(mails)

    asyncio.run(claim())


def test_a_dkim_signature_still_verifies(sqlite, tmp_path):
    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    import base64

    record = b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)

    async def claim():
        async with running(sqlite, tmp_path) as relay:
            client = await relay.connect()
            for how in (b"simple", b"relaxed"):
                content = mail(
                    body=b"Hello  \r\n\r\n.dot\r\n\t tab \r\n\r\n", headers=b"X-Long: a\r\n  folded\r\n"
                )
                signature = dkim.sign(content, b"s", b"acme.test", private, canonicalize=(how, how))
                signed = signature + content
                assert (await client.mail(signed.replace(b"\r\n.dot", b"\r\n..dot"))).startswith("250")
                arrived = relay.sink.taken[-1].raw.replace(b"\r\n..dot", b"\r\n.dot")
                assert dkim.verify(arrived, dnsfunc=lambda *_, **__: record)

    asyncio.run(claim())
