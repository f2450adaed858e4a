"""The requester's account: whoami, password, devices, capabilities."""
