"""The stores. Each driver is imported in one file here, and `engine/bootstrap.py` alone names the classes."""
