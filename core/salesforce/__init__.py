"""The one door to Salesforce: signing in, asking and writing, and what each of its refusals means."""
