"""Who a node is: the atoll's authority, node keys and certificates, invitation tokens."""
