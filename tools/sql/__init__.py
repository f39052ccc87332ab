"""The tool `sql`: one statement a call on SQLite, DuckDB or PostgreSQL, within limits that hold against attacks."""
