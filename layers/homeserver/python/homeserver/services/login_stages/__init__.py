"""The stages of login, registration and User-Interactive Authentication; `stage.py` is their interface."""
