"""Signing keys, for other servers: this one's, and as a notary those of others."""
