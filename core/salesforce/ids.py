"""Ids of Salesforce's records, compared.

Pure: texts only."""


def id_key(record_id: str) -> str:
    """What tells one record from another: the first 15 characters. An id of 18 carries a check sum in the
    other three, and answers, links and what people type hold either (SOAP developer guide, "ID field
    type")."""
    return record_id[:15]


def is_same(one: str | None, other: str | None) -> bool:
    """Whether both are the id of one record, or neither is any."""
    return (one and id_key(one)) == (other and id_key(other))
