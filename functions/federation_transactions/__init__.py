"""Transactions between servers: taking what others send, giving again what they missed."""
