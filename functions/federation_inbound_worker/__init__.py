"""What other servers sent, worked off room by room."""
