"""Where a request may be answered and where it is best answered, and the asking of those places."""
