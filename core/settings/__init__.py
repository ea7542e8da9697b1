"""The settings: one row each in the catalogue, their values in the store."""
