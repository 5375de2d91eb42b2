"""Training: models changed by rows, made smaller, or taught by larger ones; with torch, if asked."""
