"""Login, logout, refresh, registration."""
