"""Where a request is answered: here, at a peer, at a hub or in the cloud. First who may, then who is best."""
