"""Writes and sends mails."""
