"""Where all is kept: the engine, the dialects, the tables and their migrations."""
