"""The only door to the database: SQLAlchemy objects stay inside, values and refusals come out."""
