"""The Salesforce page and its tabs. The page puts the tabs together; no tab imports the page or another
tab."""
