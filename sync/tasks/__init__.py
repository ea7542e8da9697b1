"""Tasks, the same here and in Salesforce."""
