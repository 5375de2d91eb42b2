"""The whole database contract: tables, functions and named queries as .sql files.

`install` brings a database up to this version: files in tables/ run once, in order; files in functions/
run at every start. `query` hands out a named statement of queries/. Nothing here decides anything.
"""

from atoll.sql.install import install
from atoll.sql.queries import query

__all__ = ["install", "query"]
