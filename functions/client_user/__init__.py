"""What belongs to a user and not to a room: profile, account data, filters."""
