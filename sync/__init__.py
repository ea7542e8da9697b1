"""The worker: the only process that writes to Salesforce."""
