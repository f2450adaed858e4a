"""What this server is and which versions it speaks; and the answer to every path that is none."""
