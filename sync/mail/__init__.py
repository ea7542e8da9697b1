"""Mails into Salesforce: whom they are logged on, as what, and written once."""
