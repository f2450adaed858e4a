"""The waiting loop of `/sync`."""
