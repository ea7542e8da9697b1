"""The people whose mail is relayed: their addresses, passwords and sign-ins."""
