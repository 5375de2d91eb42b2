"""Models that come from elsewhere: hubs and registries, over HTTP (fetch.py is the way in)."""
