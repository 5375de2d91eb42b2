"""The node among its peers: who it is, whom it admits, and the loop that keeps links and log right."""
