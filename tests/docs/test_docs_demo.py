"""The documents of the demo's help desk say what Atoll's own say."""

from __future__ import annotations

from atoll.demo.sites.desk import articles
from docs import pages


def test_each_document_of_the_help_desk_is_a_line_of_the_errors() -> None:
    page = pages.read("docs/errors.md")
    for article in articles():
        assert f"| `{article.title}` | {article.means} | {article.cure} |" in page
