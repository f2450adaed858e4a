"""Typing, receipts and read markers."""
