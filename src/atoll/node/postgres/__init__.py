"""PostgreSQL as the node runs it: programs, configuration, start and stop, disk, what a crash leaves."""
