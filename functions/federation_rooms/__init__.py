"""Users of other servers enter and leave this server's rooms, and invite its users."""
