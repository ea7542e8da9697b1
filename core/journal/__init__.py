"""The record on disk before the database: the file, its entries, and how they come into the database."""
