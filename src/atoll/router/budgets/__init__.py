"""What routes and keys may spend: leases of it on every node."""
