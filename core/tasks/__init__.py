"""Tasks as they stand here: their fields, their lists, their links with Salesforce, the queue of syncs."""
