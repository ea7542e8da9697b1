"""A mail in the record: what is known of it, what is written of it in Salesforce, and the queue of those that
wait."""
